"""Delete old versions with their artifacts, and copies that this machine has not used for long."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from musubi_ext.errors import UserError
from musubi_ext.registry.claims import claimed
from musubi_ext.registry.downloads import ABANDONED, cache_root, content_key, held
from musubi_ext.registry.places import evidence_place, pair_place
from musubi_ext.registry.retention import Judged, Retention, judge, still_free
from musubi_ext.registry.versions import address, aliases, checksums, versions

_COPY = re.compile(r"[0-9a-f]{64}")
_DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Copy:
    """A version's files in this machine's cache: bytes, and days since their last use."""

    path: Path
    size: int
    days: float


def prune_versions(
    client: MlflowClient, names: Sequence[str], rule: Retention, *, dry_run: bool, say: Callable[[Judged], None]
) -> list[str]:
    """Delete what `rule` lets go of the models `names`; addresses of the versions that went, or would with `dry_run`.

    Every version is told to `say` before. One that an alias was pointed at meanwhile stays. Artifacts are deleted only
    in folders that register_pair made, and only with the last version that refers to them.
    """
    gone = []
    for name in names:
        for judged in judge(client, name, rule):
            say(judged)
            if not judged.reason and (dry_run or _delete(client, judged.version, rule)):
                gone.append(address(judged.version))
    return gone


def old_copies(client: MlflowClient, names: Sequence[str], days: float) -> list[Copy]:
    """Copies unused for `days`, but none that an alias of the models `names` points to."""
    root, live = cache_root(), set()
    for name in names:
        pointing = set(aliases(client, name).values())
        live |= {_key(version) for version in versions(client, name) if int(version.version) in pointing}
    found = [_measured(path) for path in sorted(root.glob("*")) if _COPY.fullmatch(path.name)]
    return [copy for copy in found if copy.days >= days and copy.path.name not in live]


def delete_copy(copy: Copy) -> None:
    """Remove it from the cache. Raises UserError when another process is downloading it at this moment."""
    root, key = copy.path.parent, copy.path.name
    with held(root, key, f"{copy.path}: another process is downloading it (run it again)"):
        (root / f"{key}.json").unlink(missing_ok=True)
        part = root / f"{key}.part-{secrets.token_hex(4)}"
        copy.path.rename(part)  # whole or gone, for whoever looks
        shutil.rmtree(part)


def delete_parts() -> int:
    """Remove what killed downloads left, and stamps of files that are gone; how many."""
    root = cache_root()
    parts = [part for part in root.glob("*.part-*") if time.time() - part.stat().st_mtime > ABANDONED]
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
    stamps = [path for path in root.glob("*.json") if _COPY.fullmatch(path.stem) and not (root / path.stem).exists()]
    for path in stamps:
        path.unlink(missing_ok=True)
    return len(parts) + len(stamps)


def _delete(client: MlflowClient, version: Any, rule: Retention) -> bool:
    """Artifacts first: stopped in between, the version is still there for the next `prune`. False: it has to stay."""
    with claimed(client, version.name, client.tracking_uri) as claim:
        if not still_free(client, version, rule):
            return False
        for run, folder in _artifacts(client, version):
            claim.check()
            _delete_artifacts(client, run, folder)
        claim.check()
        client.delete_model_version(version.name, str(version.version))
    return True


def _artifacts(client: MlflowClient, version: Any) -> Iterator[tuple[str, str]]:
    """Run id and folder of what goes with the version. Addresses of any other form are left alone."""
    place = pair_place(version)
    if place:
        same = client.search_model_versions(f"run_id = '{place[0]}'", max_results=1000)
        if not [other for other in same if other.source == version.source and address(other) != address(version)]:
            yield place
    evidence = evidence_place(version)
    if evidence and evidence[1].startswith(f"evidence/{version.name}-v{version.version}-"):
        yield evidence


def _delete_artifacts(client: MlflowClient, run: str, folder: str) -> None:
    try:
        where = client.get_run(run).info.artifact_uri
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return  # deleted for good with its artifacts, by `mlflow gc`
    get_artifact_repository(where, tracking_uri=client.tracking_uri).delete_artifacts(folder)


def _key(version: Any) -> str:
    try:
        return content_key(checksums(version))
    except UserError:
        return ""  # not ours: nothing of it is in the cache


def _measured(path: Path) -> Copy:
    stamps = path.with_name(f"{path.name}.json")
    used = (stamps if stamps.exists() else path).stat().st_mtime
    return Copy(path, sum(file.stat().st_size for file in path.iterdir()), (time.time() - used) / _DAY)
