"""What a base is, by content: SHA-256 of a model's folder or file, of large files only once.

A 14B expert is 28 GB: its hash is kept in the cache directory under path, size and time of change.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from musubi_ext.hosts.musubi.discovery import cache_home
from musubi_ext.storage import sha256, write_json

LARGE = 1 << 28  # bytes; smaller files are read each time


def fingerprint(path: Path) -> str:
    """SHA-256 over a model folder's configuration and weights, or of a weight file."""
    if path.is_file():
        return file_fingerprint(path)
    digest = hashlib.sha256()
    for file in sorted([*path.glob("*.json"), *path.glob("*.safetensors")]):
        digest.update(f"{file.name} {file_fingerprint(file)}\n".encode())
    return digest.hexdigest()


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file; of a large one that was not touched since, from the cache."""
    status = os.stat(path)
    if status.st_size < LARGE:
        return sha256(path)
    key = hashlib.sha256(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()
    known = cache_home() / "sha256" / f"{key}.json"
    try:
        return str(json.loads(known.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError):
        found = sha256(path)
        write_json(known, {"path": str(path.resolve()), "sha256": found})
        return found
