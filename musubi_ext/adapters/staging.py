"""Several files that appear together: written aside, then moved into place with the one that names the others last."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """An empty folder inside `directory` (made if need be), gone afterwards, as is a `directory` made for nothing."""
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".pair-") as folder:
            yield Path(folder)
    finally:
        if made and not any(directory.iterdir()):
            directory.rmdir()


def publish(stage: Path, directory: Path, names: list[str]) -> None:
    """Move the files `names` from `stage` to `directory`, replacing older ones; the last one is the manifest.

    On any error the older files are back. A process killed in between leaves no manifest, hence no pair.
    """
    replaced = stage / "replaced"
    replaced.mkdir()
    with ExitStack() as undo:
        for name in reversed(names):  # the old manifest goes first
            if (directory / name).exists():
                os.replace(directory / name, replaced / name)
                undo.callback(os.replace, replaced / name, directory / name)
        for name in names:
            os.replace(stage / name, directory / name)
            undo.callback((directory / name).unlink)
        undo.pop_all()
