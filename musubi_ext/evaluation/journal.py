"""Finished clips of a run, a line of JSON each, so that an interrupted run goes on where it stopped.

A run that was killed leaves at most one torn line, which is passed over.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from musubi_ext.errors import UserError
from musubi_ext.evaluation.result import Result
from musubi_ext.evaluation.suite import Measured


def journal_path(output: Path) -> Path:
    """Where the journal of a results file lies: hidden beside it."""
    return output.with_name(f".{output.stem}.measured.jsonl")


class Journal:
    """Clips by key; the key names the clip's bytes and everything that shaped its results."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, Measured] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise UserError(f"{path}: expected a place to write, found: {error.strerror}") from error
        self._file.seek(0)
        line = b"\n"
        for line in self._file:
            self._remember(line)
        if not line.endswith(b"\n"):
            self._file.write(b"\n")  # close the torn line

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def get(self, key: str) -> Measured | None:
        """The clip, measured; None when it is not finished."""
        return self._found.get(key)

    def put(self, key: str, measured: Measured) -> None:
        """Add a finished clip, one without problems."""
        self._found[key] = measured
        fields = {name: asdict(result) for name, result in measured.results.items()}
        self._file.write(json.dumps([key, fields, measured.scene], allow_nan=False).encode() + b"\n")
        self._file.flush()

    def remove(self) -> None:
        """The run is complete: nothing is left to go on with."""
        self.path.unlink(missing_ok=True)

    def _remember(self, line: bytes) -> None:
        try:
            key, fields, scene = json.loads(line)
            self._found[str(key)] = Measured({name: Result(**of) for name, of in fields.items()}, scene=scene)
        except (ValueError, TypeError, AttributeError):
            pass  # torn, or of another version: measured again
