"""The one thread that talks to MLflow, so that the training thread never waits for it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from musubi_ext.registry.events import OFFLINE, Event, Spool, deliver, groups
from musubi_ext.registry.store import STORE_ERRORS, first_line

_log = logging.getLogger(__name__)
_LINGER_SECONDS = 0.5  # how long events gather before they are sent together
_PAUSE_SECONDS = 15.0  # how long a store that failed is left alone; events go to the spool meanwhile
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}


class Sender:
    """Takes events at once and sends them in order from a thread; what cannot be sent goes to the spool, never lost.

    Two failures are told apart: a *refused* event (bad key, changed param, missing file) is kept alone and the rest
    goes on; a store that *does not answer* is left alone for a while and everything is kept.
    """

    def __init__(self, client: MlflowClient, spool: Spool, pause: float = _PAUSE_SECONDS) -> None:
        self.spool = spool
        self._client = client
        self._pause = pause
        self._queue: queue.SimpleQueue[Event | threading.Event | None] = queue.SimpleQueue()
        self._hurry = threading.Event()  # somebody waits: do not linger
        self._closing = threading.Event()
        self._give_up_at = float("inf")
        self._retry_at = 0.0
        self._in_flight: list[Event] = []
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Hand over one event; costs microseconds. After `close` it goes to the spool."""
        if self._closing.is_set():
            self.spool.keep([event], "it came after the tracking was closed")
            return
        self._queue.put(event)

    def flush(self, timeout: float) -> None:
        """Return when all that was handed over is sent or kept in the spool, or after `timeout` seconds."""
        reached = threading.Event()
        self._queue.put(reached)
        self._hurry.set()
        reached.wait(timeout)

    def close(self, timeout: float) -> None:
        """Send what is left, for at most `timeout` seconds plus the call under way; keep the rest in the spool."""
        self._give_up_at = time.monotonic() + timeout
        self._closing.set()
        self._hurry.set()
        self._queue.put(None)
        self._thread.join()
        # Nothing is left here unless the thread was ended by an error that is not the store's.
        rest = [event for event in [*self._in_flight, *self._drain()] if isinstance(event, Event)]
        try:
            self.spool.keep(rest, "the sender stopped early")
        except OSError as error:
            _log.error("%d MLflow events are lost: %s", len(rest), first_line(error))

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            self._hurry.wait(_LINGER_SECONDS)
            if not self._closing.is_set():
                self._hurry.clear()
            taken = [first, *self._drain()]
            self._in_flight = [event for event in taken if isinstance(event, Event)]
            for group in groups(list(self._in_flight)):
                self._send(group)
                del self._in_flight[: len(group)]
            for reached in taken:
                if isinstance(reached, threading.Event):
                    reached.set()
            if None in taken:
                return

    def _drain(self) -> list[Event | threading.Event | None]:
        taken: list[Event | threading.Event | None] = []
        while True:
            try:
                taken.append(self._queue.get_nowait())
            except queue.Empty:
                return taken

    def _send(self, group: Sequence[Event]) -> None:
        now = time.monotonic()
        if group[0].run_id.startswith(OFFLINE) or now < self._retry_at or now > self._give_up_at:
            self.spool.keep(group, self.spool.reason or "there was no time left to send it")
            return
        try:
            deliver(self._client, group)
        except STORE_ERRORS as error:
            self._failed(group, error)

    def _failed(self, group: Sequence[Event], error: BaseException) -> None:
        if not _is_refusal(error):
            self._retry_at = time.monotonic() + self._pause
            if not self.spool.count:
                _log.warning(
                    "MLflow does not answer (%s). Training goes on; events are kept in %s.",
                    first_line(error),
                    self.spool.path,
                )
            self.spool.keep(group, first_line(error))
            return
        parts = [part for event in group for part in event.parts()]
        if len(parts) == 1:
            self.spool.keep(parts, first_line(error))
            return
        for part in parts:
            self._send([part])


def _is_refusal(error: BaseException) -> bool:
    """True when sending the same again cannot help."""
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    return isinstance(error, FileNotFoundError)
