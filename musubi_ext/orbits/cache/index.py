"""What is known of files that have not changed: so that a second run over a complete cache opens none of them.

One hidden file beside each cache folder, `.NAME.musubi-ext.jsonl`, a fact a line: `[kind, key, stamp, value]`. A stamp
is [size, modification time in ns]; a fact holds while its file's stamp is the recorded one (rsync, make and git trust
the same two numbers). Lines are only ever appended, many in one write, so a killed run loses at most its last line and
trainings that start together do not cut each other's; processes of one caching run write files of their own
(`….1.jsonl`) that the first one gathers at the end. Losing it costs time and nothing else: where it cannot be written,
a read-only disk or a full one, it is not.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from musubi_ext.storage import write_text

Stamp = tuple[int, int]


class CacheIndex:
    """The facts beside one cache folder: `source` (SHA-256 of a clip), `file` (a cache's metadata), `model` (ids)."""

    def __init__(self, folder: Path, process: int = 0) -> None:
        self.folder = Path(os.path.abspath(folder))  # "." has no name
        suffix = f".{process}" if process else ""
        self.path = self.folder.parent / f".{self.folder.name}.musubi-ext{suffix}.jsonl"
        self.facts: dict[tuple[str, str], tuple[Stamp, Any]] = {}
        self._new: list[str] = []
        for path in self._files():
            self._read(path)

    def get(self, kind: str, key: str, stamp: Stamp | None) -> Any:
        """The recorded value if the stamp is still this one, else None."""
        known, value = self.facts.get((kind, key), (None, None))
        return value if known is not None and known == stamp else None

    def put(self, kind: str, key: str, stamp: Stamp | None, value: Any) -> None:
        """Record a fact; it is on disk after `save`."""
        if stamp is not None and self.facts.get((kind, key)) != (stamp, value):
            self.facts[kind, key] = (stamp, value)
            self._new.append(json.dumps([kind, key, stamp, value]))

    def save(self) -> None:
        """Append what is new, where that is possible and the folder itself is there."""
        if self._new and self.folder.is_dir():
            with contextlib.suppress(OSError):
                _append(self.path, "\n".join(self._new) + "\n")
            self._new.clear()

    def gather(self) -> None:
        """One file of all processes' facts, once they have ended; caches that are gone are forgotten."""
        self.save()
        for path in self._files():
            self._read(path)
        lines = [
            json.dumps([kind, key, stamp, value])
            for (kind, key), (stamp, value) in sorted(self.facts.items())
            if kind != "file" or (self.folder / key).exists()
        ]
        others = [path for path in self._files() if path != self.path]
        if lines and (others or _lines(self.path) > len(lines)):
            with contextlib.suppress(OSError):
                write_text(self.path, "\n".join(lines) + "\n")
                for path in [*others, *self._leftovers()]:
                    path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.parent.glob(f".{_escaped(self.folder.name)}.musubi-ext*.jsonl"))

    def _leftovers(self) -> list[Path]:
        """What a kill in the middle of `gather` left."""
        return list(self.folder.parent.glob(f"..{_escaped(self.folder.name)}.musubi-ext.{'[0-9a-f]' * 8}.jsonl"))

    def _read(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:  # gathered by another process in between, or not ours to read
            return
        for line in text.splitlines():
            try:
                kind, key, stamp, value = json.loads(line)
                self.facts[kind, key] = ((int(stamp[0]), int(stamp[1])), value)
            except (ValueError, TypeError, IndexError):
                continue  # a line that a kill cut short: its file is looked at again


def stamp_of(path: Path) -> Stamp | None:
    """Size and modification time of a file; None when there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _append(path: Path, text: str) -> None:
    """One write at the end of the file; on a line of its own, also after one that was cut short."""
    with open(path, "a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        torn = file.read(1) not in (b"", b"\n")
        file.write((b"\n" if torn else b"") + text.encode())


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
