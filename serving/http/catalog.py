"""What GET /v1/models lists: the base, the registered pairs' versions and aliases, and which of them serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from musubi_ext.errors import UserError
from serving.config import ServiceConfig
from serving.http.http_errors import public
from serving.http.schemas import Model
from serving.http.settle import Resolves
from serving.http.view import model_name
from serving.versions.drift import Standing

FRESH = 2.0  # seconds for which an answer of the registry is used again
MAX_MODELS = 200  # registered models looked at


class Watches(Protocol):
    """What `serving.versions.online.Online` does."""

    @property
    def alarms(self) -> Sequence[Standing]:
        """The drift alarms that ring."""

    def state(self) -> dict[str, Any]:
        """Every watched metric, and what became of MLflow's share."""


class Catalog:
    """Asks the registry, at most every two seconds. `models` may be called from any thread and may take seconds."""

    def __init__(
        self, config: ServiceConfig, adapters: Resolves, online: Callable[[], Watches | None] = lambda: None
    ) -> None:
        self.config, self.adapters, self._online = config, adapters, online
        self._lock = threading.Lock()
        self._listed: tuple[float, list[Model]] = (-FRESH, [])

    def models(self) -> list[Model]:
        """The base first, then aliases, then versions, newest first; `note` says what cannot be used, and why."""
        state = self.adapters.state()
        current = str(state["current"] or "").removeprefix("models:/")
        found = [Model(id=model_name(self.config), kind="base", serving=current in ("", "base"))]
        reference = self.config.reference
        if reference and not reference.startswith("models:/"):
            found.append(Model(id=current.removesuffix(" (a folder)"), kind="folder", serving=True))
        if state["problem"]:
            why = "the registry does not answer, or has no such pair"
            found.append(Model(id=reference.removeprefix("models:/"), kind="alias", note=why))
        refused = state["refused"] or {}
        for model in self._registered():
            serving = model.kind == "version" and model.id == current
            bad = model.id == str(refused.get("version", "")).removeprefix("models:/")
            note = f"not taken, another serves: {public(str(refused.get('reason', '')))}" if bad else model.note
            found.append(model.model_copy(update={"serving": serving, "note": note, "alarm": self._alarm(model.id)}))
        return found

    def _alarm(self, version: str) -> str | None:
        """What of NAME/3 got worse than promoted, in words."""
        online = self._online()
        ringing = [] if online is None else [one for one in online.alarms if one.version == f"models:/{version}"]
        return "; ".join(map(str, ringing)) or None

    def _registered(self) -> list[Model]:
        with self._lock:
            at, listed = self._listed
            if time.monotonic() - at > FRESH:
                listed = self._ask()
                self._listed = (time.monotonic(), listed)
            return listed

    def _ask(self) -> list[Model]:
        from musubi_ext.registry.store import STORE_ERRORS, connect, sqlite_path, tracking_uri

        uri = tracking_uri(self.config.tracking_uri)
        file = sqlite_path(uri)
        if file is not None and not file.is_file():
            return []  # connecting would make one
        try:
            client = connect(uri)
            models = client.search_registered_models(max_results=MAX_MODELS)
            return [entry for model in models for entry in _entries(client, model)]
        except (*STORE_ERRORS, UserError):
            return [Model(id="registry", kind="alias", note="the registry does not answer")]


def _entries(client: Any, model: Any) -> list[Model]:
    """A registered pair's aliases and versions; nothing for a model that is no pair of ours: it has no checksums."""
    from musubi_ext.registry.versions import checksums

    versions = [one for one in client.search_model_versions(f"name = '{model.name}'") if checksums(one)]
    pointing = {alias: int(number) for alias, number in model.aliases.items()}
    known = {int(one.version) for one in versions}
    aliases = [
        Model(id=f"{model.name}@{alias}", kind="alias", version=number)
        for alias, number in sorted(pointing.items())
        if number in known
    ]
    return aliases + [
        Model(
            id=f"{model.name}/{one.version}",
            kind="version",
            version=int(one.version),
            created=int(one.creation_timestamp // 1000),
            aliases=sorted(alias for alias, number in pointing.items() if number == int(one.version)),
        )
        for one in sorted(versions, key=lambda one: -int(one.version))
    ]
