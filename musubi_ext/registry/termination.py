"""How a run ended: the exit or signal that ended the process, in MLflow's three words."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

_KILLED_CODES = {128 + signal.SIGINT, 128 + signal.SIGTERM}  # what a shell reports for a process ended by a signal


def status_of(error: BaseException | None) -> Literal["FINISHED", "FAILED", "KILLED"]:
    """MLflow's run status for what left a `with` block: nothing, an exit, Ctrl-C, or an error."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "FINISHED"
    killed = isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in _KILLED_CODES)
    return "KILLED" if killed else "FAILED"


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit(143) in the main thread, so that `with` blocks close their runs.

    Raises ValueError when entered outside the main thread, where Python allows no signal handler.
    """
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(signum: int, frame: FrameType | None) -> None:
    # A second SIGTERM must not interrupt the closing of runs that the first one began.
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(128 + signum)
