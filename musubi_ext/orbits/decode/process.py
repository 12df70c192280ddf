"""One decoding process seen from outside: started when first used, killed when it is late, started again after."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]  # what holds musubi_ext: the worker imports the same code
STARTUP = 60.0  # seconds to import libav and numpy on a busy machine; counts against no clip
TAKEN = b"."
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class DiedError(Exception):
    """The worker ended instead of answering; the text says how."""


class Worker:
    """A process that answers one request at a time; not for use by two threads at once."""

    def __init__(self, memory_limit: int) -> None:
        self.memory_limit = memory_limit
        self.limited = False  # whether this system holds the worker to `memory_limit`; known once started
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._received = b""  # beyond the line answered last

    @property
    def pid(self) -> int | None:
        """The process id; None while none runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process unless it runs. Raises RuntimeError when it does not come up."""
        if self._process and self._process.poll() is None:
            return
        self.kill()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = _spawn(theirs.fileno(), self.memory_limit)
        try:
            self.limited = self._receive(time.monotonic() + STARTUP)["limited"]
        except (DiedError, TimeoutError) as error:
            raise RuntimeError(f"the decoding process does not start: {error or 'timed out'}") from error

    def ask(self, request: dict[str, Any], file: int, time_limit: float) -> dict[str, Any]:
        """The answer to `request`; frames are written to the descriptor `file`.

        Raises TimeoutError after `time_limit` seconds and DiedError when the process ends; kill it then.
        """
        self._begin(request, file, time_limit)
        return self._receive(time.monotonic() + time_limit)

    def stream(self, request: dict[str, Any], file: int, time_limit: float) -> Iterator[dict[str, Any]]:
        """One answer for each frame put in the descriptor `file`, then the last one, which has no "frame".

        Going on to the next answer tells the process that the frame before was taken. `time_limit` is for each frame.
        Raises as `ask` does; kill the process as well when leaving early.
        """
        self._begin(request, file, time_limit)
        while "frame" in (answer := self._receive(time.monotonic() + time_limit)):
            yield answer
            self._send(TAKEN)
        yield answer

    def stop(self) -> None:
        """End the process at once; a thread that waits for its answer gets DiedError."""
        if self._process:
            self._process.kill()

    def kill(self) -> None:
        """End the process at once and forget it; safe to repeat."""
        if self._process:
            self._process.kill()
            self._process.wait()
        if self._control:
            self._control.close()
        self._process = self._control = None
        self._received = b""

    def _begin(self, request: dict[str, Any], file: int, time_limit: float) -> None:
        try:
            self._hand_over(request, file, time_limit)
        except DiedError:  # while it was idle: not this clip's doing
            self.kill()
            self.start()
            self._hand_over(request, file, time_limit)

    def _send(self, data: bytes) -> None:
        assert self._control is not None
        try:
            self._control.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise DiedError(self._ending()) from error

    def _hand_over(self, request: dict[str, Any], file: int, time_limit: float) -> None:
        assert self._control is not None
        self._control.settimeout(time_limit)
        try:
            socket.send_fds(self._control, [b"\n"], [file])
            self._control.sendall(json.dumps(request).encode() + b"\n")
            begun = self._control.recv(1)
        except (BrokenPipeError, ConnectionResetError):
            begun = b""
        if not begun:
            raise DiedError(self._ending())

    def _receive(self, deadline: float) -> dict[str, Any]:
        """The next line; what came after it is kept for the next call."""
        assert self._control is not None
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._control.settimeout(left)
            try:
                chunk = self._control.recv(1 << 16)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                raise DiedError(self._ending())
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return dict(json.loads(line))

    def _ending(self) -> str:
        assert self._process is not None
        code = self._process.wait(STARTUP)
        return f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit status {code}"


def _spawn(control: int, memory_limit: int) -> subprocess.Popen[bytes]:
    """Its own session: Ctrl-C reaches us alone, and we end it. `-P`: an av.py in the current folder is not imported."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "musubi_ext.orbits.decode.worker", str(control), str(memory_limit)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[control],
        start_new_session=True,
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)},
    )
