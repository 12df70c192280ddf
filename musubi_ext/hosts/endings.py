"""How a training can end early, and the signal that asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class DivergedError(RuntimeError):
    """The loss is no longer a number; going on would only destroy the adapter."""


class TrainingFailed(RuntimeError):  # noqa: N818 - what happened, not what is wrong with the input
    """At least one expert was not trained; the others' files are complete."""


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
