"""A spool emptied into a store: by the sender of a training that runs, and by `musubi-ext track replay` alike."""

from __future__ import annotations

from collections.abc import Callable

from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.registry.delivery import Delivery, is_refusal
from musubi_ext.registry.events import LOCAL, Event, Stretch, stretches
from musubi_ext.registry.spool import Spool
from musubi_ext.registry.store import STORE_ERRORS, first_line

ATTEMPTS = 5  # at one event, by a store that answers everything else


class Undelivered(Exception):  # noqa: N818 - what happened, not what is wrong with the input
    """The store does not take events now; `reason` says why. They are in the spool."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Drain:
    """Sends what `spool` holds beyond its offset. One thread at a time calls it."""

    def __init__(self, spool: Spool, client: MlflowClient, uri: str) -> None:
        self._spool, self._client = spool, client
        self._delivery = Delivery(client, uri, spool.runs, spool.refuse)
        # Whoever wrote these may have sent some of them before it died.
        self._sent_before = spool.contents.size
        self._resumed = spool.contents.resumed
        self._attempts = 0

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Send in order until all is sent or `stop` says so, asked between two calls. Raises Undelivered."""
        while lines := self._spool.unread():
            for stretch in stretches(lines):
                if stop():
                    return
                self._take(stretch)

    def retry_refused(self) -> None:
        """Try once more what was refused: a file may be back, a deleted run restored. Raises Undelivered."""
        for event, reason in self._spool.forget_refused():
            try:
                self._send(Stretch([event], 0, 0))
            except (*STORE_ERRORS, UserError) as error:
                self._spool.refuse(event, reason)
                raise Undelivered(first_line(error)) from error

    def _take(self, stretch: Stretch) -> None:
        try:
            self._send(stretch)
        except (*STORE_ERRORS, UserError) as error:
            self._sent_before = max(self._sent_before, stretch.end)  # the call may have succeeded without an answer
            self._delivery.history.forget()
            self._attempts += 1
            if self._attempts < ATTEMPTS or not self._may_be_set_aside(stretch):
                raise Undelivered(first_line(error)) from error
            for event in stretch.events:
                self._spool.refuse(event, f"{first_line(error)} ({self._attempts} attempts)")
        self._attempts = 0
        self._spool.acknowledge(stretch.end, sum(event.kind not in LOCAL for event in stretch.events))

    def _send(self, stretch: Stretch) -> None:
        for event in stretch.events[:1]:
            if event.kind == "session":
                self._begin(event)
            elif event.kind == "metrics":
                sent_before = stretch.start < self._sent_before
                self._delivery.send_metrics(stretch.events, sent_before=sent_before, resumed=self._resumed)
            elif event.kind not in LOCAL:
                self._delivery.send(event)

    def _begin(self, session: Event) -> None:
        self._resumed = bool(session.content["resumed"])
        self._delivery.history.forget()

    def _may_be_set_aside(self, stretch: Stretch) -> bool:
        """Whether it is these events that fail, not the store; the begin of a run is never given up."""
        if any(event.kind == "run" for event in stretch.events):
            return False
        try:
            self._client.search_experiments(max_results=1)
        except STORE_ERRORS as error:
            return is_refusal(error)
        return True
