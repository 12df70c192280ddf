"""Aliases move only on a passed gate, after the evidence is stored; and back again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.evaluation.gate import Check, Decision
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.registry.promotion import promote, rollback, set_candidate
from musubi_ext.registry.store import connect
from musubi_ext.registry.store import experiment_id as experiment
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
