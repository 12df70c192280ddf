"""Delete what no setting asks for: caches by our and musubi-tuner's names, and nothing else.

Looked for in the cache folders alone, not below them; of a link to a file elsewhere the link goes, not the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from musubi_ext.errors import shown
from musubi_ext.orbits.cache.hold import hold_folders
from musubi_ext.orbits.cache.space import writing
from musubi_ext.orbits.cache.status import cache_status
from musubi_ext.orbits.config import DatasetConfig


def prune(config: DatasetConfig, say: Callable[[str], None], *, dry_run: bool = False) -> int:
    """List the stale files, then delete them unless `dry_run`; how many. Waits for a caching run to end.

    Raises UserError when the data set is wrong or a file cannot be deleted.
    """
    if dry_run:
        return len(_listed(config, say, "would delete"))
    with ExitStack() as held:
        hold_folders(config, held, Console(stderr=True))
        stale = _listed(config, say, "stale")
        for path in stale:
            with writing(path.parent):
                path.unlink(missing_ok=True)
    say(f"{len(stale)} files deleted")
    return len(stale)


def _listed(config: DatasetConfig, say: Callable[[str], None], word: str) -> Sequence[Path]:
    stale = cache_status(config).stale
    size = sum(path.lstat().st_size for path in stale)
    for path in stale:
        say(f"{word}: {shown(path)}")
    say(f"{len(stale)} stale files, {size / 1e6:.1f} MB")
    return stale
