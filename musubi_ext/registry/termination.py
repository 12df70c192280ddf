"""How a run ended: the exit or signal that ended the process, in MLflow's three words."""

from __future__ import annotations

import signal
from typing import Literal

_KILLED_CODES = {128 + signal.SIGINT, 128 + signal.SIGTERM}  # what a shell reports for a process ended by a signal


def status_of(error: BaseException | None) -> Literal["FINISHED", "FAILED", "KILLED"]:
    """MLflow's run status for what left a `with` block: nothing, an exit, Ctrl-C, or an error."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "FINISHED"
    killed = isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in _KILLED_CODES)
    return "KILLED" if killed else "FAILED"
