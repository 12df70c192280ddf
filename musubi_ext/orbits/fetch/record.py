"""`fetch.json`: which repository and commit a folder is pinned to, and which of its files a fetch has written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musubi_ext.errors import UserError
from musubi_ext.orbits.fetch.listing import Listing, RemoteFile
from musubi_ext.orbits.fetch.paths import RECORD, check_paths
from musubi_ext.storage import write_json

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """The whole listing of the commit, and the paths that a fetch wrote (others the folder had before, or lacks)."""

    listing: Listing
    fetched: frozenset[str] = frozenset()

    def with_fetched(self, paths: Iterable[str]) -> Record:
        """Also `paths` were written."""
        return Record(self.listing, self.fetched.union(paths))

    def moved_to(self, listing: Listing) -> Record:
        """Pinned to another commit; what was written and is still listed stays ours."""
        return Record(listing, self.fetched & {file.path for file in listing.files})

    def write(self, folder: Path) -> None:
        """Write `folder`/fetch.json, atomically."""
        listing = self.listing
        head = {"schema": SCHEMA, "repository": listing.repository, "revision": listing.revision}
        files = [_entry(file, file.path in self.fetched) for file in listing.files]
        rest = {"commit": listing.commit, "licence": listing.licence, "files": files}
        write_json(folder / RECORD, head | rest)


def read_record(folder: Path) -> Record | None:
    """The record of `folder`, None when it has none. Raises UserError when there is one that cannot be understood."""
    path = folder / RECORD
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    fix = "move it away to begin anew: files that are there are compared, not fetched again"
    try:
        value = json.loads(text)
        if value["schema"] != SCHEMA:
            raise UserError(
                f"{path}: expected schema {SCHEMA}, found {value['schema']!r} (update musubi-ext, or {fix})"
            )
        record = _record(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected the record of a fetch, found something else ({fix})") from error
    check_paths([file.path for file in record.listing.files], str(path))
    return record


def _entry(file: RemoteFile, fetched: bool) -> dict[str, Any]:
    digest = {"sha256": file.sha256} if file.sha256 else {"blob_id": file.blob_id}
    return {"path": file.path, "size": file.size, **digest, "fetched": fetched}


def _record(value: dict[str, Any]) -> Record:
    """Raises ValueError, KeyError, TypeError or AttributeError unless `value` is what `write` wrote."""
    files = tuple(_file(entry) for entry in value["files"])
    commit = _matched(r"[0-9a-f]{40}", value["commit"])
    licence = value["licence"]
    if not (licence is None or isinstance(licence, str)):
        raise ValueError("licence")
    listing = Listing(
        _matched(r"[^/]+/[^/]+", value["repository"]), _matched(".+", value["revision"]), commit, licence, files
    )
    return Record(listing, frozenset(entry["path"] for entry in value["files"] if entry["fetched"] is True))


def _file(entry: dict[str, Any]) -> RemoteFile:
    size, sha256 = entry["size"], entry.get("sha256")
    if type(size) is not int or size < 0:
        raise ValueError("size")
    if sha256 is not None:
        return RemoteFile(_matched("(?s).+", entry["path"]), size, _matched(r"[0-9a-f]{64}", sha256), None)
    return RemoteFile(_matched("(?s).+", entry["path"]), size, None, _matched(r"[0-9a-f]{40}", entry["blob_id"]))


def _matched(pattern: str, text: str) -> str:
    """`text`. Raises ValueError unless it matches, TypeError when it is none."""
    if not re.fullmatch(pattern, text):
        raise ValueError(pattern)
    return text
