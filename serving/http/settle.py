"""What a request leaves open, as the version that makes it settles it: for its cost, its size and its length."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any, Protocol

from musubi_ext.errors import UserError
from serving.adapters_live import BASE, RegistryDownError, VersionRef
from serving.config import ServiceConfig
from serving.making.request import JobRequest, check_cost

KEPT = 64  # versions whose settings are remembered


class Resolves(Protocol):
    """What `serving.adapters_live.LiveAdapters` does."""

    def resolve(self, asked: str = "") -> Any:
        """The version that a name means now. Raises UserError."""

    def defaults(self, version: Any) -> dict[str, Any]:
        """The settings that a request of this version leaves open. Raises UserError."""

    def state(self) -> dict[str, Any]:
        """What is live, and what was refused."""


class Settle:
    """All methods may be called from any thread; the first question about a version reads its files."""

    def __init__(self, config: ServiceConfig, adapters: Resolves) -> None:
        self.config, self.adapters = config, adapters
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def defaults(self, version: Any) -> dict[str, Any]:
        """What this version (a VersionRef, or None for the base) settles. Raises UserError, RegistryDownError."""
        version = BASE if version is None else version
        key = json.dumps(version.as_dict(), sort_keys=True)
        with self._lock:
            if key in self._known:
                return self._known[key]
        found = self.adapters.defaults(version)
        with self._lock:
            self._known[key] = found
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return found

    def check(self, request: JobRequest, version: Any) -> int:
        """How many pixels its candidates have together. Raises UserError for what does not fit, or costs too much."""
        settled = request.generation(self.defaults(version))
        check_cost(settled, request.best_of, self.config.limits)
        return settled.frames * settled.size[0] * settled.size[1] * request.best_of

    def open_settings(self, version: dict[str, Any] | None) -> dict[str, Any]:
        """`defaults` for a job's record; nothing where the version is no longer there."""
        try:
            return self.defaults(VersionRef(**(version or {})))
        except (UserError, RegistryDownError, TypeError):
            return {}
