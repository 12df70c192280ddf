"""What a replica does all the time beside accepting jobs: starts workers, ends what is overdue, deletes what is old."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import sqlalchemy as sa
from dbos import error as dbos_error

Chore: TypeAlias = "tuple[float, Callable[[], object]]"  # seconds between two times, and what to do
_log = logging.getLogger(__name__)


class Housekeeping:
    """One thread that does the chores until `stop`; one that fails is logged and done again at its next time."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self.chores = chores
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns once the chore under way is done."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        due = [time.monotonic() + every for every, _ in self.chores]
        while not self._stopped.wait(max(0.0, min(due) - time.monotonic())):
            for index, (every, chore) in enumerate(self.chores):
                if time.monotonic() < due[index]:
                    continue
                try:
                    chore()
                except (sa.exc.SQLAlchemyError, dbos_error.DBOSException, OSError):
                    _log.exception("a chore failed; it is tried again")
                due[index] = time.monotonic() + every
