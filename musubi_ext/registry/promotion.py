"""Which version is live: the gate's decision and its evidence first, then the alias; and the way back."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.evaluation.gate import Decision
from musubi_ext.registry.names import CANDIDATE, CHAMPION, PREVIOUS, ModelReference, check_name
from musubi_ext.registry.store import connect, tracking_uri
from musubi_ext.registry.versions import aliases, find_version
from musubi_ext.storage import sha256, write_json

_MAX_REASON = 500  # characters


@dataclass(frozen=True)
class Promotion:
    """What happened to the aliases: `champion` and `previous` are version numbers after it, None where not set."""

    name: str
    version: int
    promoted: bool
    reasons: tuple[str, ...]
    champion: int | None
    previous: int | None


def set_candidate(name: str, version: int, *, uri: str | None = None) -> None:
    """Point the alias `candidate` at `version`. Raises UserError when there is no such version."""
    client = connect(tracking_uri(uri))
    find_version(client, ModelReference(check_name(name), version=version))
    client.set_registered_model_alias(name, CANDIDATE, str(version))


def promote(
    name: str,
    decision: Decision,
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
    client = connect(tracking_uri(uri))
    version = find_version(client, ModelReference(check_name(name), alias=CANDIDATE))
    number = int(version.version)
    before = aliases(client, name)
    champion, previous = before.get(CHAMPION), before.get(PREVIOUS)
    if champion == number:
        return Promotion(name, number, False, ("it is the champion already",), champion, previous)
    _store_evidence(client, version, decision, evidence, champion, files)
    if not decision.passed:
        return Promotion(name, number, False, tuple(decision.reasons), champion, previous)
    # `previous` first: stopped between the two, the old champion is still live and promoting again gives the same end.
    if champion is not None:
        client.set_registered_model_alias(name, PREVIOUS, str(champion))
        previous = champion
    client.set_registered_model_alias(name, CHAMPION, str(number))
    return Promotion(name, number, True, tuple(decision.reasons), number, previous)


def rollback(name: str, reason: str, *, uri: str | None = None) -> Promotion:
    """Swap `champion` and `previous`; `reason` is kept in a tag of the version that steps down.

    Raises UserError when either alias is missing, when they are the same version, or without a reason.
    """
    if not reason.strip() or len(reason) > _MAX_REASON:
        raise UserError(f"rollback of {name!r}: give a reason of 1 to {_MAX_REASON} characters, kept on the version")
    client = connect(tracking_uri(uri))
    pointing = aliases(client, name)
    old, new = pointing.get(CHAMPION), pointing.get(PREVIOUS)
    if old is None or new is None or old == new:
        raise UserError(f"rollback of {name!r}: there is nothing to go back to (champion = {old}, previous = {new})")
    client.set_model_version_tag(name, str(old), "rollback", f"{_now()} to version {new}: {reason.strip()}")
    client.set_registered_model_alias(name, CHAMPION, str(new))
    client.set_registered_model_alias(name, PREVIOUS, str(old))
    return Promotion(name, new, True, (reason.strip(),), new, old)


def _store_evidence(
    client: MlflowClient,
    version: Any,
    decision: Decision,
    evidence: Mapping[str, Any],
    champion: int | None,
    files: Sequence[Path | str],
) -> None:
    gate = decision.verdict if decision.passed else f"refused: {decision.verdict}"
    record = {
        "name": version.name,
        "version": int(version.version),
        "against": champion,
        "time": _now(),
        "decision": decision.as_dict(),
        "evidence": dict(evidence),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "evidence.json"
        write_json(path, record)
        digest = sha256(path)
        target = f"evidence/{version.name}-v{version.version}-{digest[:12]}"
        where = f"runs:/{version.run_id}/{target}/evidence.json"
        for file in (path, *files):
            client.log_artifact(version.run_id, str(file), target)
    for key, value in {"gate": gate, "evidence.sha256": digest, "evidence.artifact": where}.items():
        client.set_model_version_tag(version.name, str(version.version), key, value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
