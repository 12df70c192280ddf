"""SIGTERM as Ctrl-C: what is under way is cleaned up, then the program ends with status 130."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block SIGTERM interrupts as Ctrl-C does, so that temporary files go and runs are closed.

    Raises ValueError when entered outside the main thread, where Python allows no signal handler.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    # A second signal must not interrupt the cleaning up that the first one began.
    signal.signal(signum, signal.SIG_IGN)
    raise KeyboardInterrupt
