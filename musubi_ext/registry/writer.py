"""The thread between a training and its spool: the training only ever appends an event to a list in memory.

Nothing wakes this thread, it looks by itself: waking it at every call would cost the training thread milliseconds on a
busy machine, when the two are given the same core.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from musubi_ext.registry.events import Event
from musubi_ext.registry.spool import Spool

LOOK_SECONDS = 0.05  # until an event is written: what a SIGKILL may take, of which a resumed run repeats all
SYNC_SECONDS = 0.5  # between two fsyncs: what a power cut may take
_RETRY_SECONDS = 2.0  # after the disk refused
_log = logging.getLogger(__name__)


class Writer:
    """Writes events soon and has the disk keep them every half second. A full disk stops nothing."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._told: deque[Event | threading.Event] = deque()
        self._waiting: list[Event] = []  # taken over, not written yet
        self._retry_at = 0.0
        self._dirty_since: float | None = None
        self._complained = False
        self._closed = False
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Hand over one event; costs microseconds. One that comes after `close` is kept in a spool of its own."""
        if self._closed:
            self._spool.keep_late(event)
        else:
            self._told.append(event)

    def flush(self, timeout: float) -> bool:
        """Return when all that was handed over is on the disk; False when that takes longer than `timeout` seconds."""
        reached = threading.Event()
        self._told.append(reached)
        self._hurry.set()
        return reached.wait(timeout)

    def close(self) -> None:
        """Write what is left. What a full disk does not take is lost, and said."""
        self._closed = True
        self._hurry.set()
        self._thread.join()
        self._take()
        if self._waiting:  # told by another thread just now, or the disk is full
            self._write()
        if self._waiting:
            _log.error("%d MLflow events are lost: %s cannot be written", len(self._waiting), self._spool.path)

    def _run(self) -> None:
        ending = False
        while not ending:
            self._hurry.wait(LOOK_SECONDS)
            self._hurry.clear()
            ending = self._closed
            flushes = self._take()
            hurried = bool(flushes) or ending
            if self._waiting and (hurried or time.monotonic() >= self._retry_at):
                self._write()
            if self._dirty_since is not None and (hurried or time.monotonic() >= self._dirty_since + SYNC_SECONDS):
                self._sync()
            for reached in flushes:
                reached.set()

    def _take(self) -> list[threading.Event]:
        """Take over what was handed over; returns who waits for it."""
        flushes: list[threading.Event] = []
        while self._told:
            item = self._told.popleft()
            if isinstance(item, Event):
                self._waiting.append(item)
            else:
                flushes.append(item)
        return flushes

    def _write(self) -> None:
        """Write what waits. A disk that refuses is asked again: meanwhile the events are in memory alone."""
        try:
            self._spool.append(self._waiting)
        except OSError as error:
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            self._complain("MLflow events wait in memory", error)
            return
        self._waiting, self._complained = [], False
        self._dirty_since = self._dirty_since or time.monotonic()

    def _sync(self) -> None:
        try:
            self._spool.sync()
        except OSError as error:
            self._complain("MLflow events may not survive a power cut", error)
        self._dirty_since = None

    def _complain(self, what: str, error: OSError) -> None:
        if not self._complained:
            _log.warning("%s: %s: %s", what, self._spool.path, error.strerror)
        self._complained = True
