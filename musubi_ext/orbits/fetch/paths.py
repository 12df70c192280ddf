"""Paths that a listing names, looked at before any becomes a file."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from musubi_ext.errors import Problems, shown

RECORD = "fetch.json"
PARTS = ".fetch"  # folder of what is under way
LONGEST = 255  # bytes of one name, on every usual file system


def check_paths(paths: Sequence[str], where: str) -> None:
    """Raises UserError that names every path of `where` that may not become a file below a folder."""
    problems = Problems()
    for path in paths:
        if reason := _refused(path):
            problems.add(f"{where}: {shown(path)!r}", reason)
    for path, count in Counter(paths).items():
        if count > 1:
            problems.add(f"{where}: {shown(path)!r}", f"is listed {count} times")
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    for path in sorted(folders.intersection(paths)):
        problems.add(f"{where}: {shown(path)!r}", "is listed as a file and as a folder")
    problems.raise_if_any()


def _refused(path: str) -> str | None:
    """Why `path` may not become a file; None when it may."""
    parts = path.split("/")
    if path.startswith("/") or (len(path) > 1 and path[1] == ":" and path[0].isalpha()):
        return "expected a path below the folder, found an absolute one"
    if "\\" in path:
        return "a backslash separates folders on some systems"
    if any(part in ("", ".", "..") for part in parts):
        return 'expected plain names between "/", found an empty one, "." or ".."'
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in path):
        return "holds control characters"
    if any(len(part.encode()) > LONGEST for part in parts):
        return f"holds a name of more than {LONGEST} bytes"
    if parts[0] in (RECORD, PARTS):
        return f"{parts[0]} is the name of what a fetch notes down"
    return None
