"""Which version is live: the gate's decision and its evidence first, then the alias; and the way back."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.registry.alias_moves import INTENT, Pointers, move, recover
from musubi_ext.registry.approval import lacking
from musubi_ext.registry.claims import CLAIM, Claim, claimed
from musubi_ext.registry.evidence import Decided, Stored, store
from musubi_ext.registry.names import CANDIDATE, ModelReference, check_name
from musubi_ext.registry.promotion_log import Event, history, record
from musubi_ext.registry.store import connect, tracking_uri
from musubi_ext.registry.users import PUT_UP_BY, current_user
from musubi_ext.registry.versions import aliases, find_version

__all__ = ["Outcome", "Promotion", "clear_up", "history", "promote", "promote_version", "rollback", "set_candidate"]

Outcome = Literal["promoted", "refused", "waiting", "overtaken", "already", "rolled back"]
ALREADY = "it is the champion already"
_MAX_REASON = 500  # characters
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promotion:
    """What happened to the aliases: `champion` and `previous` are version numbers after it, None where not set.

    `outcome`: `refused` by the gate; `waiting` for an approval; `overtaken` by another promotion. `evidence`: address
    of its record, "" where nothing was stored.
    """

    name: str
    version: int
    promoted: bool
    reasons: tuple[str, ...]
    champion: int | None
    previous: int | None
    outcome: Outcome = "promoted"
    evidence: str = ""


def set_candidate(name: str, version: int, *, uri: str | None = None) -> None:
    """Point the alias `candidate` at `version`. Raises UserError when there is no such version."""
    client = connect(tracking_uri(uri))
    find_version(client, ModelReference(check_name(name), version=version))
    client.set_model_version_tag(name, str(version), PUT_UP_BY, current_user())
    client.set_registered_model_alias(name, CANDIDATE, str(version))


def promote(
    name: str,
    decision: Decided,
    evidence: Mapping[str, Any],
    *,
    files: Sequence[Path | str] = (),
    uri: str | None = None,
) -> Promotion:
    """Make the candidate the champion if `decision` passed; the old champion becomes `previous`.

    Decision and `evidence` (strict JSON) are stored before any alias moves, whatever the decision: as an artifact of
    the candidate's run, whose SHA-256 the version's tags name. `files` (filmstrips, reports) are put beside it.
    Raises UserError when there is no candidate.
    """
    uri = tracking_uri(uri)
    client = connect(uri)
    version = find_version(client, ModelReference(check_name(name), alias=CANDIDATE))
    against = Pointers.of(clear_up(client, name, uri)).champion
    return promote_version(client, version, against, decision, evidence, files=files, uri=uri)


def promote_version(
    client: MlflowClient,
    version: Any,
    against: int | None,
    decision: Decided,
    evidence: Mapping[str, Any],
    *,
    uri: str,
    files: Sequence[Path | str] = (),
    approve_verdict: str | None = None,
) -> Promotion:
    """`promote` of a version that was judged `against` that champion (None: there was none).

    If another one is the champion or the candidate by the time that the aliases could move, nothing moves: the decision
    was about something else. `approve_verdict`: SHA-256 of the verdict that somebody else must have approved.
    """
    name, number = version.name, int(version.version)
    if Pointers.of(clear_up(client, name, uri)).champion == number:
        return _result(client, version, (ALREADY,), "already")
    stored = store(client, version, decision, evidence, against, files)
    if not decision.passed:
        return _told(client, version, decision.reasons, "refused", stored)
    if approve_verdict is not None:
        version = client.get_model_version(name, str(number))  # an approval may have come meanwhile
        if why := lacking(client, version, approve_verdict, current_user()):
            return _told(client, version, (why,), "waiting", stored)
    with _settled(client, name, uri) as (claim, model):
        now = Pointers.of(model)
        if why := _overtaken(model, number, against):
            return _result(client, version, (why,), "already" if why == ALREADY else "overtaken", stored)
        after = Pointers(number, now.champion if now.champion is not None else now.previous)
        event = Event("promotion", number, after.champion, after.previous, decision.verdict, stored.digest)
        move(claim, now, after, event)
    reasons = tuple(decision.reasons)
    return Promotion(name, number, True, reasons, after.champion, after.previous, "promoted", stored.place)


def rollback(name: str, reason: str, *, uri: str | None = None) -> Promotion:
    """Swap `champion` and `previous`; `reason` is kept in a tag of the version that steps down.

    Raises UserError when either alias is missing, when they are the same version, without a reason, and when someone
    else moved the aliases meanwhile: two rollbacks at once would undo one another.
    """
    if not reason.strip() or len(reason) > _MAX_REASON:
        raise UserError(f"rollback of {name!r}: give a reason of 1 to {_MAX_REASON} characters, kept on the version")
    uri = tracking_uri(uri)
    client = connect(uri)
    aliases(client, name)  # says which models there are, if not this one
    seen = Pointers.of(clear_up(client, name, uri)).champion
    with _settled(client, name, uri) as (claim, model):
        now = Pointers.of(model)
        if now.champion is None or now.previous is None or now.champion == now.previous:
            state = f"champion = {now.champion}, previous = {now.previous}"
            raise UserError(f"rollback of {name!r}: there is nothing to go back to ({state})")
        if now.champion != seen:
            raise UserError(f"rollback of {name!r}: someone else made version {now.champion} the champion meanwhile")
        after = Pointers(now.previous, now.champion)
        event = Event("rollback", now.champion, after.champion, after.previous, reason.strip())
        said = f"{event.time[:19]}+00:00 to version {after.champion}: {event.reason}"
        client.set_model_version_tag(name, str(now.champion), "rollback", said)
        move(claim, now, after, event)
    return Promotion(name, now.previous, True, (reason.strip(),), after.champion, after.previous, "rolled back")


def clear_up(client: MlflowClient, name: str, uri: str) -> Any:
    """Finish or undo what a killed promotion or rollback left; costs one question where there is nothing.

    Waits for one that is under way. Returns the `RegisteredModel` as it is then.
    """
    model = client.get_registered_model(name)
    if any(key == INTENT or key.startswith(CLAIM) for key in model.tags):
        with _settled(client, name, uri) as (_, settled):
            return settled
    return model


@contextmanager
def _settled(client: MlflowClient, name: str, uri: str) -> Iterator[tuple[Claim, Any]]:
    """The claim on the model's aliases, and the `RegisteredModel` after what others left half done."""
    with claimed(client, name, uri) as claim:
        model = claim.model
        if said := recover(claim):
            _log.warning("%s", said)
            model = client.get_registered_model(name)
        yield claim, model


def _overtaken(model: Any, number: int, against: int | None) -> str | None:
    """Why a decision about version `number` no longer fits what is there; None where it does."""
    champion = Pointers.of(model).champion
    if champion == number:
        return ALREADY
    again = "nothing was moved: promote it again"
    if champion != against:
        was = "there was no champion" if against is None else f"it was judged against version {against}"
        return f"another promotion came first: {was}, the champion is version {champion} now ({again})"
    candidate = model.aliases.get(CANDIDATE)
    if candidate is not None and int(candidate) != number:
        return f"version {candidate} became the candidate meanwhile ({again})"
    return None


def _told(client: MlflowClient, version: Any, reasons: Sequence[str], outcome: Outcome, stored: Stored) -> Promotion:
    """A version that does not become the champion, and why: kept among its events."""
    result = _result(client, version, reasons, outcome, stored)
    kind, reason = ("wait" if outcome == "waiting" else "refusal"), "; ".join(reasons)
    event = Event(kind, result.version, result.champion, result.previous, reason, stored.digest)
    record(client, result.name, event)
    return result


def _result(
    client: MlflowClient, version: Any, reasons: Sequence[str], outcome: Outcome, stored: Stored | None = None
) -> Promotion:
    now = Pointers.now(client, version.name)
    place = "" if stored is None else stored.place
    number = int(version.version)
    return Promotion(version.name, number, False, tuple(reasons), now.champion, now.previous, outcome, place)
