"""One at a time moves the aliases of a model, on any store.

MLflow has no compare-and-swap. Beside a SQLite file, processes of one machine take turns by a lock on a folder, gone
with the process. Every store also gets a claim, a tag of the registered model with a key of its own: who wants to move
writes a claim, then reads all, and withdraws where there is another. Of two who wrote before they read, at least one
sees the other, so two never go on; both may withdraw, and try again after a random pause.

A claim left by a killed process is passed over: at once where the folder's lock proves it dead, else after it has stood
unchanged for `STALE` seconds of the observer's own clock (clocks of two machines are never compared). A holder starts
no write later than `BUDGET` seconds after its claim and looks before each whether the claim still stands; only a write
that lay in the network for the rest of `STALE` could come late.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from musubi_ext.errors import UserError, shown
from musubi_ext.locks import locked
from musubi_ext.registry.names import check_name
from musubi_ext.registry.store import STORE_ERRORS, sqlite_path
from musubi_ext.registry.users import whereabouts

CLAIM = "promoting."  # + a random word: tag of the registered model
STALE = 60.0  # seconds that a claim must stand unchanged to count as a dead process's
BUDGET = 30.0  # seconds in which its holder begins its last write
PATIENCE = 120.0  # seconds to wait for others
_PAUSE = (0.02, 0.2)  # seconds between two looks
_FILE = "file"  # how a claim's holder came: through the lock beside a SQLite file

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """The right to move the aliases of a model. `check` before each move.

    `model` is the `RegisteredModel` as it was found when the claim was granted: nobody else moves anything since.
    """

    client: MlflowClient
    model: Any
    key: str
    until: float  # time.monotonic()

    @property
    def name(self) -> str:
        """Of the model."""
        return str(self.model.name)

    def check(self) -> None:
        """Raises UserError when the claim is gone or its time is up: others may move the aliases then."""
        if time.monotonic() > self.until:
            raise UserError(f"{self.name}: the store took too long, nothing more is moved (run it again)")
        if self.key not in self.client.get_registered_model(self.name).tags:
            raise UserError(f"{self.name}: another process took this claim for dead, nothing more is moved (again)")


@contextmanager
def claimed(client: MlflowClient, name: str, uri: str) -> Iterator[Claim]:
    """Hold the model's aliases; waits for others. Raises UserError when they do not end within PATIENCE seconds."""
    path = sqlite_path(uri)
    with locked(_lock_folder(path, name), "", _waiting(name)) if path else nullcontext():
        claim = _take(client, name, alone=path is not None)
        try:
            yield claim
        finally:
            with suppress(*STORE_ERRORS):  # a claim that cannot be taken back is passed over when it is stale
                client.delete_registered_model_tag(name, claim.key)


def _lock_folder(path: Path, name: str) -> Path:
    real = path.resolve()  # one lock for all the ways that lead to the file
    return real.with_name(f"{real.name}.promoting-{check_name(name)}")


def _take(client: MlflowClient, name: str, *, alone: bool) -> Claim:
    """`alone`: this process holds the folder's lock, so that a claim made under it is a dead one's."""
    own = CLAIM + secrets.token_hex(8)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    value = json.dumps({"by": whereabouts(), "since": since, "through": _FILE if alone else "server"})
    first_seen: dict[str, float] = {}
    started, told = time.monotonic(), False
    while True:
        others = _living(client, client.get_registered_model(name), own, first_seen, alone)
        if not others:
            client.set_registered_model_tag(name, own, value)
            until, model = time.monotonic() + BUDGET, client.get_registered_model(name)
            if not _living(client, model, own, first_seen, alone):
                return Claim(client, model, own, until)
            client.delete_registered_model_tag(name, own)
        elif not told and time.monotonic() - started > 1:
            told = True
            _waiting(name, _listed(others))()
        if time.monotonic() - started > PATIENCE:
            raise UserError(f"{name}: others move its aliases ({_listed(others)}): try again later")
        time.sleep(random.uniform(*_PAUSE))


def _living(client: MlflowClient, model: Any, own: str, first_seen: dict[str, float], alone: bool) -> dict[str, str]:
    """Claims of others that may be alive; those of the dead are removed."""
    others = {key: value for key, value in model.tags.items() if key.startswith(CLAIM) and key != own}
    for key, value in list(others.items()):
        seen = first_seen.setdefault(key, time.monotonic())
        if (alone and _through(value) == _FILE) or time.monotonic() - seen >= STALE:
            client.delete_registered_model_tag(model.name, key)
            del others[key]
    return others


def _through(value: str) -> str:
    return _content(value).get("through", "server")


def _listed(claims: Mapping[str, str]) -> str:
    """Who holds claims, and since when by their own clocks."""
    found = map(_content, claims.values())
    return "; ".join(f"{claim.get('by', 'unknown')}, since {claim.get('since', 'unknown')}" for claim in found)


def _content(value: str) -> dict[str, str]:
    """A claim's own words; nothing where somebody else wrote it: it counts until it is stale."""
    try:
        found = json.loads(value)
        return {str(key): shown(str(text)) for key, text in found.items()}
    except (ValueError, AttributeError):
        return {}


def _waiting(name: str, by: str = "") -> Callable[[], None]:
    """Says, once, who is waited for."""
    return lambda: _log.warning("%s: another process moves its aliases%s: waiting", name, f" ({by})" if by else "")
