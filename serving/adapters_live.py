"""Which version serves: the one that the alias means, followed while the service runs, or one that a job names.

    adapters = LiveAdapters(config); adapters.start()
    version = adapters.resolve(request.pair)      # at acceptance: the job keeps it, whatever is promoted afterwards
    pair = adapters.load(version)                 # in the worker: verified files, or UserError with the reason

A new champion becomes current once its files are here and are what was registered. One that cannot be loaded changes
nothing: the version before it stays current, and `state()` says which one was refused, and why.

registry.watch.AliasWatcher tells of changes only; here a refused version is tried again, an alias that is not there may
mean the base, and what the registry last said is shown: hence this follower on the same parts.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import UserError
from serving.config import ServiceConfig
from serving.versions.registered import Registered
from serving.versions.version_ref import BASE, RegistryDownError, VersionRef, folder_pair, folder_version

if TYPE_CHECKING:
    from musubi_ext.adapters.pair import AdapterPair
    from serving.versions.promises import Promise

__all__ = ["BASE", "LiveAdapters", "RegistryDownError", "VersionRef"]
_JITTER = 0.2  # of the interval, either way: a hundred replicas do not ask in step
_AGAIN = 12  # intervals until a version that could not be loaded is tried again
_log = logging.getLogger(__name__)


class LiveAdapters:
    """The live version and every other that a job may name. All methods may be called from any thread."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self._registered = Registered(config.tracking_uri)
        self._pairs: OrderedDict[tuple[str, int, str], AdapterPair] = OrderedDict()
        self._lock = threading.Lock()
        self._current: VersionRef | None = None
        self._refused: dict[str, Any] | None = None
        self._problem: UserError | RegistryDownError | None = None
        self._since = 0.0
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Follow the alias in a thread, if the configuration names one. The first answer is waited for."""
        self.refresh()
        if "@" in self.config.reference and self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="alias", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Follow no longer."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def notify(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Take what MLflow's webhook sent; True when it is about our alias: the registry is then asked at once.

        Raises UserError when no secret is configured, RefusedNotificationError for what is not signed with it now.
        """
        from musubi_ext.registry.names import parse_reference
        from musubi_ext.registry.notifications import concerns, verified

        variable = self.config.adapters.webhook_secret_env
        if not variable:
            raise UserError("webhooks are off (adapters.webhook_secret_env names the variable with the secret)")
        content = verified(body, headers, os.environ[variable])
        if "@" not in self.config.reference:
            return False
        followed = parse_reference(self.config.reference)
        if not concerns(content, followed.name, str(followed.alias)):
            return False
        self._wake.set()
        return True

    def current(self) -> VersionRef:
        """The live version. While there is none, raises what the last question raised: see `resolve`, `load`."""
        if self._current is None:
            self.refresh()
        with self._lock:
            if self._current is None:
                assert self._problem is not None
                raise self._problem
            return self._current

    def resolve(self, asked: str = "") -> VersionRef:
        """The version that a job gets: "" the live one, "none" the base alone, NAME@ALIAS or NAME/3 what they mean now.

        Raises UserError when there is no such version, RegistryDownError when the registry does not answer.
        """
        if not asked:
            return self.current()
        return BASE if asked == "none" else self._registered.ref(asked)

    def load(self, version: VersionRef) -> AdapterPair | None:
        """The version's pair, its files checked; None for the base alone.

        Raises UserError naming every file that is missing or changed, and for a pair of another base;
        RegistryDownError when the registry does not answer.
        """
        if version.is_base:
            return None
        key = (version.name, version.version, json.dumps(dict(version.checksums), sort_keys=True))
        with self._lock:
            if (known := self._pairs.get(key)) is not None:
                self._pairs.move_to_end(key)
                return known
        pair = self._open(version)
        self._check_fits(pair)
        with self._lock:
            self._pairs[key] = pair
            while len(self._pairs) > self.config.adapters.keep:
                self._pairs.popitem(last=False)
        return pair

    def defaults(self, version: VersionRef) -> dict[str, Any]:
        """The settings that a request of this version leaves open, by field of GenerationRequest."""
        from musubi_ext.generation.pair import defaults

        return defaults(self.config.base, self.load(version)) | self.config.levers.defaults

    def promised(self, version: VersionRef) -> dict[str, Promise]:
        """Metric → what the version was promoted with, or registered with: what serving.versions.drift compares with.

        Empty for the base, a folder, and a version without an evaluation. Raises as `resolve` does, and UserError for
        evidence that is not what was judged.
        """
        return self._registered.promised(version) if version.version else {}

    def state(self) -> dict[str, Any]:
        """What is live, since when (Unix seconds), what was refused and why, what the registry said last."""
        with self._lock:
            return {
                "reference": self.config.reference or "base",
                "current": None if self._current is None else str(self._current),
                "since": self._since,
                "refused": self._refused,
                "problem": None if self._problem is None else str(self._problem),
            }

    def refresh(self) -> None:
        """Ask once what is live, and take it if it can be loaded; what is wrong is kept for `state` and `current`."""
        try:
            found = self._asked_for()
        except (UserError, RegistryDownError) as error:
            return self._complain(error)
        with self._lock:
            self._problem = None if self._current else self._problem
            if found == self._current:
                self._refused = None  # rolled back to what serves
                return
            if self._lately_refused(found):
                return
        try:
            self.load(found)
        except RegistryDownError as error:
            return self._complain(error)
        except UserError as error:
            with self._lock:
                self._refused = {"version": str(found), "reason": str(error), "at": time.time()}
                if self._current is None:
                    self._problem = error
            _log.warning("%s is not taken, %s stays: %s", found, self._current or "nothing", error)
            return
        with self._lock:
            self._current, self._since = found, time.time()
            self._refused = self._problem = None

    def _complain(self, error: UserError | RegistryDownError) -> None:
        with self._lock:
            if str(error) != str(self._problem):
                _log.warning("%s", error)
            self._problem = error

    def _lately_refused(self, version: VersionRef) -> bool:
        """Whether to leave it for now: its files are large, and not to be fetched at every question."""
        refused, pause = self._refused, _AGAIN * self.config.adapters.every
        return refused is not None and refused["version"] == str(version) and time.time() - refused["at"] < pause

    def _asked_for(self) -> VersionRef:
        """What the configuration means now."""
        reference = self.config.reference
        if not reference:
            return BASE
        if not reference.startswith("models:/"):
            return folder_version(reference)
        if self.config.pair is None and not self._registered.has(reference):
            return BASE  # nobody named a pair, and nothing was promoted yet
        return self._registered.ref(reference)

    def _open(self, version: VersionRef) -> AdapterPair:
        if version.version:
            return self._registered.open(version)
        if folder_version(self.config.reference) != version:
            raise UserError(f"{version}: its files changed since the job was accepted")
        return folder_pair(self.config.reference)

    def _check_fits(self, pair: AdapterPair) -> None:
        from musubi_ext.generation.pair import check_fits
        from musubi_ext.generation.pipeline import resolve_base

        check_fits(pair, self.config.base, resolve_base(self.config.base))

    def _follow(self) -> None:
        every = self.config.adapters.every
        while not self._closed.is_set():
            self._wake.wait(every * random.uniform(1 - _JITTER, 1 + _JITTER))
            self._wake.clear()
            if not self._closed.is_set():
                self.refresh()
