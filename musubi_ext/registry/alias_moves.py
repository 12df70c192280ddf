"""Champion and previous move together, or not at all: what is about to happen is written down before it does.

Both moves cannot be one call, and a process can be killed between any two. So the intent, with the aliases before and
after, stands as a tag of the registered model until all is done; `previous` moves first, and the move of `champion` is
the moment that counts. What finds an intent finishes it where the champion has moved and undoes it where it has not.
At no time does a model that had a champion have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.registry.claims import Claim
from musubi_ext.registry.names import CHAMPION, PREVIOUS
from musubi_ext.registry.promotion_log import Event, record

INTENT = "promotion.intent"  # tag of the registered model


@dataclass(frozen=True)
class Pointers:
    """Version numbers; None where the alias is not set."""

    champion: int | None
    previous: int | None

    @classmethod
    def of(cls, model: Any) -> Pointers:
        """What the aliases of a `RegisteredModel` point to."""
        found = model.aliases
        return cls(*(int(found[alias]) if alias in found else None for alias in (CHAMPION, PREVIOUS)))

    @classmethod
    def now(cls, client: MlflowClient, name: str) -> Pointers:
        """The same, asked of the store."""
        return cls.of(client.get_registered_model(name))


def move(claim: Claim, before: Pointers, after: Pointers, event: Event) -> None:
    """Move both aliases and keep `event`. The caller has found `before` while it held `claim`.

    Raises UserError when the aliases are not `after` in the end: someone moved them past the claim.
    """
    client, name = claim.client, claim.name
    intent = {"before": asdict(before), "after": asdict(after), "event": event.as_dict()}
    client.set_registered_model_tag(name, INTENT, json.dumps(intent))
    _point(claim, PREVIOUS, before.previous, after.previous)
    _point(claim, CHAMPION, before.champion, after.champion)
    found = Pointers.now(client, name)
    if found != after:
        client.delete_registered_model_tag(name, INTENT)
        raise UserError(
            f"{name}: expected champion = {after.champion}, previous = {after.previous}, found {found.champion}, "
            f"{found.previous}: someone else moved them meanwhile (look at `musubi-ext registry show {name}@champion`)"
        )
    record(client, name, event)
    client.delete_registered_model_tag(name, INTENT)


def recover(claim: Claim) -> str | None:
    """Finish or undo what a killed process left; says what was done, None where there was nothing.

    Aliases that were moved by hand since are left as they are.
    """
    client, name = claim.client, claim.name
    text = claim.model.tags.get(INTENT)
    if text is None:
        return None
    before, after, event = _read(name, text)
    now, said = Pointers.of(claim.model), "was left alone, for the aliases were moved by hand since"
    if now.champion in (before.champion, after.champion) and now.previous in (before.previous, after.previous):
        finished = now.champion == after.champion
        said = "was finished" if finished else "was undone"
        _point(claim, PREVIOUS, now.previous, (after if finished else before).previous)
        if finished:
            record(client, name, event)
    client.delete_registered_model_tag(name, INTENT)
    return f"{name}: a {event.kind} to version {after.champion} that was broken off {said}"


def _point(claim: Claim, alias: str, now: int | None, to: int | None) -> None:
    if now == to:
        return
    claim.check()
    if to is None:
        claim.client.delete_registered_model_alias(claim.name, alias)
    else:
        claim.client.set_registered_model_alias(claim.name, alias, str(to))


def _read(name: str, text: str) -> tuple[Pointers, Pointers, Event]:
    try:
        intent: Mapping[str, Any] = json.loads(text)
        return Pointers(**intent["before"]), Pointers(**intent["after"]), Event(**intent["event"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name}: tag {INTENT} is not what musubi-ext wrote: {error} (look at the aliases, then delete the tag)"
        ) from error
