"""The files of a version on this machine: downloaded once, kept by content, verified each time they are used.

`$MUSUBI_EXT_CACHE/registry/KEY/` (else `~/.cache/musubi-ext/registry/`) holds the three files, read-only; KEY is the
SHA-256 of their sorted checksums, so versions of one content share a folder. `KEY.json` beside it holds their stamps.
A folder appears whole, by one rename; a download that was killed leaves `KEY.part-…`, which the next one clears away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow import MlflowClient

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.locks import locked
from musubi_ext.registry.names import check_digest, check_file_name
from musubi_ext.registry.stamps import settled, stamp
from musubi_ext.registry.store import STORE_ERRORS, first_line
from musubi_ext.registry.versions import address, checksums
from musubi_ext.storage import sha256, write_json

ABANDONED = 3600.0  # seconds after which a part is nobody's; on one machine the lock says so already
_AGAIN = "register the pair again from its training output"

_log = logging.getLogger(__name__)


def cache_root() -> Path:
    """Where versions are kept: `registry` in $MUSUBI_EXT_CACHE, else $XDG_CACHE_HOME/musubi-ext, else ~/.cache."""
    if own := os.environ.get("MUSUBI_EXT_CACHE"):
        return Path(own).expanduser().absolute() / "registry"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "musubi-ext" / "registry"


def content_key(files: Mapping[str, str]) -> str:
    """Hex SHA-256 of the lines `sha256  name`, sorted by name: what `sha256sum` prints of the folder."""
    lines = [f"{check_digest(files[name])}  {check_file_name(name)}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def cached(client: MlflowClient, version: Any) -> Path:
    """The folder of the version's three files, each what the version's tags say; made by a download if need be.

    Two processes that ask at once download once. A file of the cache is hashed again when its stamp (see stamps.py)
    differs. Raises UserError naming each file that is missing, added or another than registered, with both hashes.
    """
    expected = _expected(version)
    root, key = cache_root(), content_key(expected)
    if _sound(root, key, expected):
        return root / key
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{root}: cannot be written to: {error.strerror} (set MUSUBI_EXT_CACHE to a folder that can)"
        ) from error
    with held(root, key, "", lambda: _log.warning("%s: another process downloads it", address(version))):
        if not _sound(root, key, expected):
            _download(client, version, expected, root, key)
    return root / key


@contextmanager
def held(root: Path, key: str, taken: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """One process at a time changes what the cache has of `key`; see locks.locked. Leaves no lock behind."""
    lock = root / f"{key}.lock"
    with locked(lock, taken, waiting):
        try:
            yield
        finally:
            with suppress(OSError):  # who waits for it notices, and makes another
                lock.rmdir()


def store_problems(client: MlflowClient, version: Any, folder: Path) -> dict[str, str | None]:
    """File name → what is wrong with it in the artifact store, or None: downloaded to `folder` again, never cached.

    Raises UserError when the version carries no checksums.
    """
    expected = _expected(version)
    problems: dict[str, str | None] = dict.fromkeys(expected)
    for name in sorted(_listed(client, version) - expected.keys()):
        problems[name] = "added since the version was registered"
    for name, digest in expected.items():
        try:
            found = sha256(fetch(client, version, name, folder))
        except UserError as error:
            problems[name] = str(error)
        else:
            problems[name] = None if found == digest else changed(digest, found)
        (folder / name).unlink(missing_ok=True)
    return problems


def fetch(client: MlflowClient, version: Any, name: str, folder: Path) -> Path:
    """One of the version's files, as the store has it now, in `folder`. Raises UserError when it is not there."""
    try:
        source = client.get_model_version_download_uri(version.name, str(version.version)).rstrip("/")
        local = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{source}/artifacts/{check_file_name(name)}",
            dst_path=str(folder),
            tracking_uri=client.tracking_uri,
        )
    except STORE_ERRORS as error:
        raise UserError(f"{address(version)}: {name} cannot be read from the store: {first_line(error)}") from error
    return Path(local)


def changed(expected: str, found: str) -> str:
    """What is said of a file whose hash is another than registered."""
    return f"changed since it was registered: expected sha256 {expected}, found {found}"


def _expected(version: Any) -> dict[str, str]:
    expected = checksums(version)
    if not expected:
        raise UserError(f"{address(version)}: the version carries no checksums (register the pair with musubi-ext)")
    manifests = [name for name in expected if name.endswith(".json")]
    if (len(expected), len(manifests)) != (3, 1):
        raise UserError(
            f"{address(version)}: expected checksums of two .safetensors and one .pair.json, found "
            f"{', '.join(expected)} (register the pair again)"
        )
    return expected


def _sound(root: Path, key: str, expected: Mapping[str, str]) -> bool:
    """Whether the folder is there and right; False when nothing, or not everything, is there."""
    folder, noted = root / key, _read_stamps(root / f"{key}.json")
    problems, fresh = Problems(), {}
    for name, digest in expected.items():
        path = folder / name
        try:
            if not settled(path, noted.get(name)):
                fresh[name] = stamp(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            problems.add(path, f"cannot be read: {error.strerror or error}", "make it readable, or delete the folder")
            continue
        if (found := {**noted, **fresh}[name]["sha256"]) != digest:
            problems.add(path, changed(digest, found), f"delete {folder}, and it is downloaded again")
    problems.raise_if_any()
    _note_use(root / f"{key}.json", {**noted, **fresh} if fresh else None)
    return True


def _read_stamps(path: Path) -> dict[str, Any]:
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _note_use(path: Path, stamps: Mapping[str, Any] | None) -> None:
    """New stamps, or the time alone, by which `musubi-ext registry prune` goes."""
    try:
        if stamps is None:
            os.utime(path)
        else:
            write_json(path, stamps)
    except OSError as error:  # a cache that others keep: its files are hashed at each use, and it is theirs to prune
        _log.debug("%s: %s", path, error)


def _download(client: MlflowClient, version: Any, expected: Mapping[str, str], root: Path, key: str) -> None:
    """Every file into a part, verified, then the part under its name. The caller holds the lock of `key`."""
    _clear_abandoned(root, key)
    part = root / f"{key}.part-{secrets.token_hex(4)}"
    part.mkdir()
    try:
        problems, stamps = Problems(), {}
        listed = _listed(client, version)
        for name, digest in expected.items():
            path = problems.collect(partial(fetch, client, version, name, part))
            if path is None:
                continue
            _settle_on_disk(path)
            stamps[name] = stamp(path)
            if (found := stamps[name]["sha256"]) != digest:
                problems.add(address(version), f"{name} {changed(digest, found)}", _AGAIN)
        for name in sorted(listed - expected.keys()):
            problems.add(address(version), f"{shown(name)} was added since the version was registered", _AGAIN)
        problems.raise_if_any()
        if (root / key).exists():  # not whole: something that cleans old files took a part of it
            shutil.rmtree(root / key)
        os.rename(part, root / key)
        _note_use(root / f"{key}.json", stamps)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _settle_on_disk(path: Path) -> None:
    """Read-only, since an edit would be refused anyway; flushed, since the rename that follows says it is whole."""
    path.chmod(0o444)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _clear_abandoned(root: Path, key: str) -> None:
    for part in root.glob(f"{key}.part-*"):
        if time.time() - part.stat().st_mtime > ABANDONED:
            shutil.rmtree(part, ignore_errors=True)


def _listed(client: MlflowClient, version: Any) -> set[str]:
    """Names in the store's folder of the pair's files: to be compared and shown, never opened."""
    try:
        source = client.get_model_version_download_uri(version.name, str(version.version)).rstrip("/")
        found = mlflow.artifacts.list_artifacts(artifact_uri=f"{source}/artifacts", tracking_uri=client.tracking_uri)
    except STORE_ERRORS as error:
        raise UserError(f"{address(version)}: its files are gone: {first_line(error)}") from error
    if not found:
        raise UserError(f"{address(version)}: its files are gone: nothing is in its folder of the artifact store")
    return {posixpath.basename(info.path) for info in found}
