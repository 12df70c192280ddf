"""Aliases move only on a passed gate, after the evidence is stored; and back again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.evaluation.gate import Check, Decision
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.registry import promotion
from musubi_ext.registry.alias_moves import INTENT
from musubi_ext.registry.approval import approve, lacking
from musubi_ext.registry.claims import Claim
from musubi_ext.registry.promotion import history, promote, rollback, set_candidate
from musubi_ext.registry.promotion_log import EVENT, Event
from musubi_ext.registry.store import connect
from musubi_ext.registry.store import experiment_id as experiment
from musubi_ext.registry.users import check_user
from musubi_ext.registry.versions import aliases
from musubi_ext.storage import sha256

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)

NAME = "circle-rotate"
LIMITS = Thresholds.parse({})
PASSED = Decision((Check("drift", True, "drift fell", -1.5),), LIMITS)
REFUSED = Decision((Check("drift", True, "drift fell", -1.5), Check("motion", False, "it stands still", 0.1)), LIMITS)
RESULTS = {"pair": {"subject_drift": {"median": 1.3}}}


@pytest.fixture
def client(uri: str) -> MlflowClient:
    """A registry with three versions of NAME, each with a run of its own."""
    client = connect(uri)
    client.create_registered_model(NAME)
    for _ in range(3):
        run = client.create_run(experiment(client, "tests", uri))
        client.create_model_version(NAME, f"runs:/{run.info.run_id}/pair", run_id=run.info.run_id)
    return client


def test_first_promotion_needs_no_champion(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    set_candidate(NAME, 1, uri=uri)
    strip = tmp_path / "strip.png"
    strip.write_bytes(b"picture")
    result = promote(NAME, PASSED, RESULTS, files=[strip], uri=uri)
    assert (result.promoted, result.champion, result.previous) == (True, 1, None)
    assert aliases(client, NAME) == {"candidate": 1, "champion": 1}
    version = client.get_model_version(NAME, "1")
    assert version.tags["gate"] == "passed"
    local = Path(client.download_artifacts(version.run_id, "evidence", str(tmp_path)))
    kept = next(local.rglob("evidence.json"))
    assert sha256(kept) == version.tags["evidence.sha256"]
    record = json.loads(kept.read_text())
    assert (record["version"], record["against"], record["evidence"]) == (1, None, RESULTS)
    assert record["decision"]["checks"][0]["value"] == -1.5
    assert kept.with_name("strip.png").read_bytes() == b"picture"
    assert version.tags["evidence.artifact"] == f"runs:/{version.run_id}/{kept.relative_to(tmp_path).as_posix()}"


def test_promotion_keeps_the_old_champion_as_previous(client: MlflowClient, uri: str) -> None:
    for number in (1, 2, 3):
        set_candidate(NAME, number, uri=uri)
        promote(NAME, PASSED, RESULTS, uri=uri)
    assert aliases(client, NAME) == {"candidate": 3, "champion": 3, "previous": 2}


def test_a_refused_candidate_leaves_the_champion_and_says_why(client: MlflowClient, uri: str) -> None:
    set_candidate(NAME, 1, uri=uri)
    promote(NAME, PASSED, RESULTS, uri=uri)
    set_candidate(NAME, 2, uri=uri)
    result = promote(NAME, REFUSED, RESULTS, uri=uri)
    assert not result.promoted
    assert result.reasons == ("it stands still",)
    assert (result.champion, result.previous) == (1, None)
    assert aliases(client, NAME) == {"candidate": 2, "champion": 1}
    tags = client.get_model_version(NAME, "2").tags
    assert tags["gate"] == "refused: it stands still"
    assert "evidence.artifact" in tags


def test_promoting_the_champion_again_does_not_lose_previous(client: MlflowClient, uri: str) -> None:
    for number in (1, 2):
        set_candidate(NAME, number, uri=uri)
        promote(NAME, PASSED, RESULTS, uri=uri)
    result = promote(NAME, PASSED, RESULTS, uri=uri)
    assert not result.promoted
    assert result.reasons == ("it is the champion already",)
    assert aliases(client, NAME) == {"candidate": 2, "champion": 2, "previous": 1}


def test_evidence_that_is_no_json_moves_nothing(client: MlflowClient, uri: str) -> None:
    set_candidate(NAME, 1, uri=uri)
    with pytest.raises(ValueError, match="JSON"):
        promote(NAME, PASSED, {"psnr": float("inf")}, uri=uri)
    assert aliases(client, NAME) == {"candidate": 1}


def test_rollback_swaps_and_says_why(client: MlflowClient, uri: str) -> None:
    for number in (1, 2):
        set_candidate(NAME, number, uri=uri)
        promote(NAME, PASSED, RESULTS, uri=uri)
    result = rollback(NAME, "wheels turn backwards", uri=uri)
    assert (result.champion, result.previous) == (1, 2)
    assert aliases(client, NAME) == {"candidate": 2, "champion": 1, "previous": 2}
    assert client.get_model_version(NAME, "2").tags["rollback"].endswith("to version 1: wheels turn backwards")
    rollback(NAME, "they were right", uri=uri)
    assert aliases(client, NAME)["champion"] == 2


def test_of_two_rollbacks_at_once_the_second_does_not_undo_the_first(
    client: MlflowClient, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        set_candidate(NAME, number, uri=uri)
        promote(NAME, PASSED, RESULTS, uri=uri)
    original = promotion.claimed

    @contextmanager
    def after_another(*arguments: object) -> Iterator[Claim]:
        monkeypatch.setattr(promotion, "claimed", original)
        rollback(NAME, "the other one's reason", uri=uri)
        with original(*arguments) as claim:  # type: ignore[arg-type]
            yield claim

    monkeypatch.setattr(promotion, "claimed", after_another)
    with pytest.raises(UserError, match="someone else made version 1 the champion meanwhile"):
        rollback(NAME, "shaky", uri=uri)
    assert aliases(client, NAME) == {"candidate": 2, "champion": 1, "previous": 2}


def test_history_is_in_order_and_passes_over_what_others_wrote(client: MlflowClient, uri: str) -> None:
    for number in (1, 2):
        set_candidate(NAME, number, uri=uri)
        promote(NAME, PASSED if number == 1 else REFUSED, RESULTS, uri=uri)
    for value in ("no json", "[]", '{"kind": "promotion"}', '{"kind": "coup", "version": 3, "champion": 3}'):
        client.set_model_version_tag(NAME, "3", f"{EVENT}{len(value)}", value)
    found = history(client, NAME)
    assert [(event.kind, event.version, event.champion, event.reason) for event in found] == [
        ("promotion", 1, 1, "passed"),
        ("refusal", 2, 1, "it stands still"),
    ]
    assert found[0].evidence == client.get_model_version(NAME, "1").tags["evidence.sha256"]
    assert "refusal    version 2 by" in found[1].sentence()


def test_an_intent_that_somebody_overrode_by_hand_is_left_alone(client: MlflowClient, uri: str) -> None:
    for alias, number in (("champion", 3), ("previous", 2), ("candidate", 2)):
        client.set_registered_model_alias(NAME, alias, str(number))
    event = Event("promotion", 2, 2, 1, by="ada").as_dict()
    intent = {"before": {"champion": 1, "previous": None}, "after": {"champion": 2, "previous": 1}, "event": event}
    client.set_registered_model_tag(NAME, INTENT, json.dumps(intent))
    assert promote(NAME, PASSED, RESULTS, uri=uri).promoted
    assert aliases(client, NAME) == {"candidate": 2, "champion": 2, "previous": 3}
    client.set_registered_model_tag(NAME, INTENT, "{}")
    with pytest.raises(UserError, match=r"tag promotion\.intent is not what musubi-ext wrote"):
        rollback(NAME, "shaky", uri=uri)
    assert aliases(client, NAME) == {"candidate": 2, "champion": 2, "previous": 3}


@pytest.mark.parametrize(
    "place",
    ["", "runs:/../evidence/x/evidence.json", f"runs:/{'a' * 32}/evidence/../../x/evidence.json", "file:///etc"],
)
def test_an_address_of_evidence_that_leads_elsewhere_is_not_followed(
    client: MlflowClient, uri: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", lambda **_: pytest.fail("it was followed"))
    for key, value in (("verdict.sha256", "0" * 64), ("evidence.artifact", place)):
        client.set_model_version_tag(NAME, "1", key, value)
    with pytest.raises(UserError, match=r"no verdict to look at|not an address of evidence|run id"):
        approve(f"{NAME}/1", user="grace", uri=uri)


def test_who_may_not_approve(client: MlflowClient, uri: str) -> None:
    version = client.get_model_version(NAME, "1")
    assert lacking(client, version, "0" * 64, "ada") == (
        "it waits for an approval (musubi-ext registry approve circle-rotate/1, by somebody else, then promote again)"
    )
    for value, said in (
        ("grace", "its tag approval is no approval"),
        ('{"by": "two words", "verdict": "0"}', "its tag approval is no approval"),
        (json.dumps({"by": "grace", "verdict": "1" * 64}), "grace approved another verdict (111111111111…"),
        (json.dumps({"by": "ada", "verdict": "0" * 64}), "ada approved it and promotes it"),
        (json.dumps({"by": "lin", "verdict": "0" * 64}), "lin approved it and trained or registered it"),
    ):
        client.set_model_version_tag(NAME, "1", "approval", value)
        client.set_model_version_tag(NAME, "1", "registered_by", "lin")
        found = lacking(client, client.get_model_version(NAME, "1"), "0" * 64, "ada")
        assert found is not None
        assert said in found
    client.set_model_version_tag(NAME, "1", "approval", json.dumps({"by": "grace", "verdict": "0" * 64}))
    assert lacking(client, client.get_model_version(NAME, "1"), "0" * 64, "ada") is None
    for name in ("", "two words", "x" * 101, "new\nline"):
        with pytest.raises(UserError, match="expected 1 to 100 characters without spaces"):
            check_user(name)


def test_what_cannot_be_done_is_said(client: MlflowClient, uri: str) -> None:
    with pytest.raises(UserError, match="no alias 'candidate'"):
        promote(NAME, PASSED, RESULTS, uri=uri)
    with pytest.raises(UserError, match=r"no version 7 \(there are: 1, 2, 3\)"):
        set_candidate(NAME, 7, uri=uri)
    with pytest.raises(UserError, match=r"no registered model 'other' \(there are: circle-rotate\)"):
        set_candidate("other", 1, uri=uri)
    with pytest.raises(UserError, match="nothing to go back to"):
        rollback(NAME, "why not", uri=uri)
    with pytest.raises(UserError, match="give a reason"):
        rollback(NAME, " ", uri=uri)
