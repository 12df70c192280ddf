"""A tracker, a progress display and a voice whose words are said in another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from musubi_ext.hosts.seam import Status

FLUSH_SECONDS = 30.0


class Relay:
    """Sends (receiver, method, arguments) through a pipe; without one it keeps silent. Only a flush is answered."""

    def __init__(self, pipe: Connection | None) -> None:
        self._pipe = pipe

    def update(self, step: int, total: int, loss: float) -> None:
        """Seam `Progress`."""
        self._send("progress", "update", step, total, loss)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Seam `Tracker`."""
        self._send("tracker", "log_params", dict(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Seam `Tracker`."""
        self._send("tracker", "log_metrics", dict(metrics), step)

    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Seam `Tracker`."""
        self._send("tracker", "log_artifact", path, folder)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Seam `Tracker`."""
        self._send("tracker", "set_tags", dict(tags))

    def flush(self) -> None:
        """Wait until the parent has what was said on the disk, for seconds at most."""
        self._send("tracker", "flush")
        if self._pipe is not None and self._pipe.poll(FLUSH_SECONDS):
            self._pipe.recv()

    def close(self, status: Status = "FINISHED") -> None:
        """Nothing to say: the parent closes the run by how the process ends."""

    def say(self, line: str) -> None:
        """A sentence for the user."""
        self._send("console", "print", line)

    def keep(self, files: Sequence[Path], folder: str) -> None:
        """Previews that were made."""
        self._send("preview", "keep", list(files), folder)

    def fail(self, reason: str) -> None:
        """Why the training ends."""
        if self._pipe is not None:
            self._pipe.send(("failure", reason, ()))

    def close_pipe(self) -> None:
        """Nothing more will be said."""
        if self._pipe is not None:
            self._pipe.close()

    def _send(self, receiver: str, method: str, *arguments: Any) -> None:
        if self._pipe is not None:
            self._pipe.send((receiver, method, arguments))
