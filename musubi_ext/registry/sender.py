"""The one thread that talks to MLflow, so that the training thread never waits for it."""

from __future__ import annotations

import logging
import threading
import time

from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.registry.drain import Drain, Undelivered
from musubi_ext.registry.spool import Spool
from musubi_ext.registry.store import connect, first_line, without_password

LINGER_SECONDS = 1.0  # how long events gather before they are sent together
PAUSE_SECONDS = 15.0  # how long a store that failed is left alone; then twice and four times as long
_log = logging.getLogger(__name__)


class Sender:
    """Empties the spool into the store at `uri` while events are written to it.

    client: None while the store is away; the thread asks for one. `reason` says why nothing is sent just now.
    """

    def __init__(self, spool: Spool, uri: str, client: MlflowClient | None, pause: float = PAUSE_SECONDS) -> None:
        self.client = client
        self.reason: str | None = None
        self._spool, self._uri, self._pause = spool, uri, pause
        self._drain: Drain | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._give_up_at = float("inf")
        self._hurry = threading.Event()  # somebody waits: do not linger
        self._closing = threading.Event()
        self._passed = threading.Condition()
        self._passes = 0  # how often the spool was emptied, or that was given up
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def settle(self, run: str, timeout: float) -> str | None:
        """The store's id of `run`, whose begin is in the spool; None when the store is away or takes its time."""
        with self._passed:
            before = self._passes
            self._hurry.set()
            self._passed.wait_for(lambda: run in self._spool.runs or self._passed_since(before), timeout)
        return self._spool.runs.get(run)

    def close(self, timeout: float) -> None:
        """Send what is left, for at most `timeout` seconds plus the call under way."""
        self._give_up_at = time.monotonic() + timeout
        self._closing.set()
        self._hurry.set()
        self._thread.join()

    def _passed_since(self, before: int) -> bool:
        """The pass that was under way may have missed the last events; one that failed will not be better."""
        return self._passes > before + (self.reason is None)

    def _run(self) -> None:
        closing = False
        while not closing:
            self._hurry.wait(LINGER_SECONDS)
            self._hurry.clear()
            closing = self._closing.is_set()
            if closing or time.monotonic() >= self._retry_at:
                self._pass()
            with self._passed:
                self._passes += 1
                self._passed.notify_all()

    def _pass(self) -> None:
        try:
            if self.client is None:
                self.client = connect(self._uri)
            if self._drain is None:
                self._drain = Drain(self._spool, self.client, self._uri)
            self._drain.run(lambda: time.monotonic() > self._give_up_at)
        except (Undelivered, UserError) as error:
            self.away(error.reason if isinstance(error, Undelivered) else first_line(error))
            return
        if self.reason is not None:
            _log.warning("MLflow answers again: %s", without_password(self._uri))
        self.reason, self._failures = None, 0

    def away(self, reason: str) -> None:
        """The store did not answer just now: it is left alone for a while."""
        if self.reason is None:
            _log.warning("MLflow does not answer (%s). Work goes on; events are kept in %s.", reason, self._spool.path)
        self.reason = reason
        self._retry_at = time.monotonic() + self._pause * 2 ** min(self._failures, 2)
        self._failures += 1
