"""Which version serves: the one that the alias means, followed while the service runs, or one that a job names.

    adapters = LiveAdapters(config); adapters.start()
    version = adapters.resolve(request.pair)      # at acceptance: the job keeps it, whatever is promoted afterwards
    pair = adapters.load(version)                 # in the worker: verified files, or UserError with the reason

A new champion becomes current once its files are here and are what was registered. One that cannot be loaded changes
nothing: the version before it stays current, and `state()` says which one was refused, and why.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import UserError
from serving.config import ServiceConfig

if TYPE_CHECKING:
    from musubi_ext.adapters.pair import AdapterPair

_JITTER = 0.2  # of the interval, either way: a hundred replicas do not ask in step
_EVALUATION = "evaluation."  # + metric: a version's tag with a number of its evaluation
_AGAIN = 12  # intervals until a version that could not be loaded is tried again
_log = logging.getLogger(__name__)


class RegistryDownError(ConnectionError):
    """The registry does not answer: nobody's mistake, and worth another attempt."""


@dataclass(frozen=True)
class VersionRef:
    """What makes a video beside the base: a registered version, a pair's folder (version 0), or nothing (no name).

    `checksums`: file name → SHA-256, as registered or as found in the folder when the job was accepted.
    """

    name: str = ""
    version: int = 0
    checksums: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.name:
            return "base"
        return f"models:/{self.name}/{self.version}" if self.version else f"{self.name} (a folder)"

    @property
    def is_base(self) -> bool:
        """Whether the base makes the video alone."""
        return not self.name

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; `VersionRef(**…)` gives it back."""
        return asdict(self)


BASE = VersionRef()


class LiveAdapters:
    """The live version and every other that a job may name. All methods may be called from any thread."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
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

    def notify(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Take what MLflow's webhook sent, and ask the registry at once; without a valid signature it raises.

        Raises UserError when no secret is configured, or musubi_ext.registry has no webhooks yet.
        """
        variable = self.config.adapters.webhook_secret_env
        if not variable:
            raise UserError("webhooks are off (adapters.webhook_secret_env names the variable with the secret)")
        try:
            notifications = importlib.import_module("musubi_ext.registry.notifications")
        except ModuleNotFoundError as error:
            raise UserError("webhooks are off: musubi_ext.registry cannot verify them in this version") from error
        notifications.verified(body, headers, os.environ[variable])
        self._wake.set()

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
        return BASE if asked == "none" else self._registered(asked)

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

    def promised(self, version: VersionRef) -> dict[str, float]:
        """Metric → number that the version was registered with: what serving.measures.DriftAlarm compares with.

        Empty for the base, a folder, and a version without an evaluation. Raises as `resolve` does.
        """
        if not version.version:
            return {}
        return _numbers(self._version(str(version)).tags)

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
            with self._lock:
                if str(error) != str(self._problem):
                    _log.warning("%s", error)
                self._problem = error
            return
        with self._lock:
            self._problem = None if self._current else self._problem
            if found == self._current:
                self._refused = None  # rolled back to what serves
                return
            if self._lately_refused(found):
                return
        try:
            self.load(found)
        except (UserError, RegistryDownError) as error:
            with self._lock:
                self._refused = {"version": str(found), "reason": str(error), "at": time.time()}
                if self._current is None:
                    self._problem = error
            _log.warning("%s is not taken, %s stays: %s", found, self._current or "nothing", error)
            return
        with self._lock:
            self._current, self._since = found, time.time()
            self._refused = self._problem = None

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
            return _folder_version(reference)
        if self.config.pair is None and not self._has_champion():
            return BASE  # nobody named a pair, and nothing was promoted yet
        return self._registered(reference)

    def _has_champion(self) -> bool:
        """Whether the default's alias exists. Raises UserError when the registry does not answer."""
        from musubi_ext.registry.names import parse_reference
        from musubi_ext.registry.store import STORE_ERRORS, sqlite_path, tracking_uri
        from musubi_ext.registry.versions import aliases

        store = sqlite_path(tracking_uri(self.config.tracking_uri))
        if store is not None and not store.is_file():
            return False  # connecting would make one
        wanted = parse_reference(self.config.reference)
        try:
            client = self._client()
            found = client.search_registered_models(filter_string=f"name = '{wanted.name}'")
            return bool(found) and wanted.alias in aliases(client, wanted.name)
        except STORE_ERRORS as error:
            raise RegistryDownError(f"{wanted}: the registry does not answer") from error

    def _registered(self, reference: str) -> VersionRef:
        from musubi_ext.registry.versions import checksums

        found = self._version(reference)
        return VersionRef(found.name, int(found.version), checksums(found))

    def _version(self, reference: str) -> Any:
        """MLflow's own record of the version that a reference means now."""
        from musubi_ext.registry.names import parse_reference
        from musubi_ext.registry.store import STORE_ERRORS
        from musubi_ext.registry.versions import find_version

        parsed = parse_reference(reference)
        try:
            return find_version(self._client(), parsed)
        except RegistryDownError:
            raise
        except STORE_ERRORS as error:
            raise RegistryDownError(f"{parsed}: the registry does not answer") from error

    def _open(self, version: VersionRef) -> AdapterPair:
        """The pair from its folder, or from the registry's store by `load_pair`, which verifies every file."""
        if not version.version:
            if _folder_version(self.config.reference) != version:
                raise UserError(f"{version}: its files changed since the job was accepted")
            return _pair_in(self.config.reference)
        from musubi_ext.registry.model import load_pair
        from musubi_ext.registry.store import STORE_ERRORS

        try:
            if self._registered(str(version)) != version:
                raise UserError(f"{version}: its checksums were changed since the job was accepted")
            return load_pair(str(version), uri=self.config.tracking_uri)
        except RegistryDownError:
            raise
        except STORE_ERRORS as error:
            raise RegistryDownError(f"{version}: the registry does not answer") from error

    def _client(self) -> Any:
        from musubi_ext.registry.store import connect, tracking_uri

        uri = tracking_uri(self.config.tracking_uri)
        try:
            return connect(uri)
        except UserError as error:  # it asks the store once
            raise RegistryDownError(f"{self.config.reference}: the registry does not answer") from error

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


def _pair_in(folder: str) -> AdapterPair:
    from musubi_ext.adapters.pair import AdapterPair

    return AdapterPair.load(folder)


def _numbers(tags: Mapping[str, str]) -> dict[str, float]:
    """The evaluation that `register_pair` noted on a version."""
    numbers = {}
    for key, value in tags.items():
        with suppress(ValueError):  # a tag of someone else's
            if key.startswith(_EVALUATION) and math.isfinite(number := float(value)):
                numbers[key.removeprefix(_EVALUATION)] = number
    return numbers


def _folder_version(folder: str) -> VersionRef:
    """The pair in a folder as a version, by the bytes it has now."""
    from musubi_ext.storage import sha256

    pair = _pair_in(folder)
    digests = {file.name: sha256(file) for file in pair.files().values()}
    return VersionRef(str(pair.manifest["name"]), 0, digests)
