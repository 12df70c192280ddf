"""What was measured, kept beside the report as JSON lines, so that a second run measures only new and changed clips.

A line is appended as soon as a clip is done. A run that was killed leaves at most one torn line, which is passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType

from musubi_ext.errors import UserError
from musubi_ext.orbits.checks.clip import Measured

NAME = "measured.jsonl"


def clip_key(digest: str, settings: str) -> str:
    """Names a measurement by the clip's SHA-256 and the settings that shaped it: file names do not matter."""
    return hashlib.sha256(f"{digest} {settings}".encode()).hexdigest()


class CheckStore:
    """The measurements of a report folder. Values are held in memory, filmstrips stay on disk."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._at: dict[str, int] = {}  # offset in bytes of each measurement's line
        self._measured: dict[str, Measured] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise UserError(f"{folder}: expected a folder to write the report in, found: {error.strerror}") from error
        self._load()

    def __enter__(self) -> CheckStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def get(self, key: str) -> Measured | None:
        """The measurement without its filmstrip; None when there is none."""
        return self._measured.get(key)

    def put(self, key: str, measured: Measured) -> None:
        """Append one measurement."""
        self._file.seek(0, os.SEEK_END)
        self._remember(key, measured, self._file.tell())
        self._file.write(json.dumps([key, json.loads(measured.to_json())]).encode() + b"\n")
        self._file.flush()

    def strip(self, key: str) -> str:
        """The filmstrip of a measurement, base64 JPEG; "" when the clip could not be read."""
        if key not in self._at:
            return ""
        self._file.seek(self._at[key])
        return str(json.loads(self._file.readline())[1]["strip"])

    def _load(self) -> None:
        self._file.seek(0)
        offset, line = 0, b""
        for line in self._file:
            parsed = _parse(line)
            if parsed:
                self._remember(*parsed, offset)
            offset += len(line)
        if line and not line.endswith(b"\n"):
            self._file.write(b"\n")  # close the torn line

    def _remember(self, key: str, measured: Measured, offset: int) -> None:
        self._at[key] = offset
        self._measured[key] = measured.without_strip()


def _parse(line: bytes) -> tuple[str, Measured] | None:
    try:
        key, fields = json.loads(line)
        return str(key), Measured.from_json(json.dumps(fields))
    except (ValueError, TypeError, KeyError):
        return None  # torn, or of another version: measured again
