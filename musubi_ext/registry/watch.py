"""Follow an alias: whoever serves a model learns of a promotion or rollback, by MLflow's webhook and by asking.

    watcher = AliasWatcher("circle-rotate", "champion", uri="http://localhost:5000", secret=secret)
    for version in watcher.changes():           # in a thread of its own; the first one is what the alias means now
        pair = watcher.load(version)            # verified; raises UserError, and the pair in use stays

    watcher.notify(request.body, request.headers)   # in the handler of POST; RefusedNotificationError → 401

A notification only wakes the question: what the alias points to is always the registry's own answer.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mlflow import MlflowClient

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.registry.downloads import cached
from musubi_ext.registry.model import open_pair
from musubi_ext.registry.names import ModelReference, check_alias, check_name
from musubi_ext.registry.notifications import concerns, verified
from musubi_ext.registry.store import STORE_ERRORS, StoreAway, connect, first_line, tracking_uri
from musubi_ext.registry.versions import address, checksums, find_version

_JITTER = 0.2  # of the interval, either way: a hundred replicas do not ask in step
_SLOWEST = 12.0  # intervals between two questions to a store that does not answer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionRef:
    """A version that an alias pointed to: file name → SHA-256 as its tags said then."""

    name: str
    version: int
    checksums: dict[str, str]

    def __str__(self) -> str:
        return str(ModelReference(self.name, version=self.version))


class AliasWatcher:
    """What `alias` of the model `name` points to, and every change of it.

    `every`: seconds between two questions, give or take a fifth. `secret`: the webhook's; without it notifications are
    refused. All methods may be called from any thread. Raises UserError for a bad name, alias, URI or interval.
    """

    def __init__(
        self, name: str, alias: str, *, uri: str | None = None, every: float = 5.0, secret: str | None = None
    ) -> None:
        self.reference = ModelReference(check_name(name), alias=check_alias(alias))
        self.uri = tracking_uri(uri)
        if not 0.05 <= every <= 3600:
            raise UserError(f"every: expected 0.05 to 3600 seconds, found {every:g}")
        self.every = every
        self._secret = secret
        self._client: MlflowClient | None = None
        self._wake = threading.Event()
        self._closed = threading.Event()

    def current(self) -> VersionRef:
        """What the alias points to now. Raises UserError when it points to nothing; StoreAway: no store answers."""
        try:
            if self._client is None:
                self._client = connect(self.uri)
            version = find_version(self._client, self.reference)
        except STORE_ERRORS as error:
            raise StoreAway(f"{self.reference}: the store does not answer: {first_line(error)}") from error
        return VersionRef(version.name, int(version.version), checksums(version))

    def changes(self) -> Iterator[VersionRef]:
        """What the alias points to, now and whenever that changes, until `close`.

        Two changes between two questions are one. A store that does not answer is asked ever more seldom, an alias
        that is not there as before; of either one warning is logged, and one when it is there again.
        """
        last: VersionRef | None = None
        complained, silent = False, 0
        while True:
            self._wake.clear()  # before asking: what is notified meanwhile is asked again
            if self._closed.is_set():
                return
            try:
                found = self.current()
            except UserError as error:
                silent = silent + 1 if isinstance(error, StoreAway) else 0
                if not complained:
                    _log.warning("%s (asking again)", error)
                complained = True
            else:
                if complained:
                    _log.warning("%s: found again", self.reference)
                complained, silent = False, 0
                if found != last:
                    last = found
                    yield found
            self._wake.wait(self._pause(silent))

    def notify(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Take what MLflow's webhook sent; True when it concerns this alias, and `changes` asks at once.

        Raises RefusedNotificationError for what is not signed with the secret, or not of the last five minutes.
        """
        if not self._secret:
            raise UserError(f"{self.reference}: notifications need the webhook's secret (AliasWatcher(…, secret=…))")
        if not concerns(verified(body, headers, self._secret), self.reference.name, str(self.reference.alias)):
            return False
        self._wake.set()
        return True

    def load(self, ref: VersionRef) -> AdapterPair:
        """The pair of a version that `current` or `changes` gave, from the cache or the store, verified.

        Raises UserError when a file, or what the tags say of it, is no longer what it was.
        """
        client = connect(self.uri)
        version = find_version(client, ModelReference(ref.name, version=ref.version))
        if checksums(version) != ref.checksums:
            raise UserError(f"{address(version)}: its checksums were changed since the alias was followed to it")
        return open_pair(cached(client, version), version)

    def close(self) -> None:
        """End `changes`, at once."""
        self._closed.set()
        self._wake.set()

    def _pause(self, silent: int) -> float:
        interval = self.every * min(2.0 ** max(silent - 1, 0), _SLOWEST)
        return interval * random.uniform(1 - _JITTER, 1 + _JITTER)
