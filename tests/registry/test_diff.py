"""What differs between two versions, told by what it is about."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.evaluation.gate import Check, Decision
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.registry.diff import VersionDiff, diff_versions
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.promotion import promote, set_candidate
from musubi_ext.registry.store import connect

NAME = "circle-rotate"


def compared(uri: str, *, weights: bool = False) -> VersionDiff:
    client = connect(uri)
    return diff_versions(client, *(client.get_model_version(NAME, number) for number in "12"), weights=weights)


def entries(found: VersionDiff) -> dict[str, tuple[str, object, object]]:
    return {one.key: (one.section, one.a, one.b) for one in found.differences}


def test_each_difference_stands_in_its_section(
    other_pair: Callable[..., AdapterPair], uri: str, pair: AdapterPair
) -> None:
    before = other_pair(
        "orbit-a", 3, dataset_fingerprint="aaa", training={"lr": 1e-4, "dim": 8}, inference={"steps": 4}
    )
    after = other_pair("orbit-b", 5, dataset_fingerprint="bbb", training={"lr": 2e-4, "dim": 8}, inference={"steps": 9})
    register_pair(before, NAME, uri=uri, evaluation={"psnr": 20.5, "note": "first"})
    register_pair(after, NAME, uri=uri, evaluation={"psnr": 22.0})
    found = compared(uri, weights=True)
    told = entries(found)
    assert told["dataset_fingerprint"] == ("data", "aaa", "bbb")
    assert told["training.lr"] == ("training", 1e-4, 2e-4)
    assert "training.dim" not in told
    assert told["inference.steps"] == ("inference", 4, 9)
    assert told["registered.psnr"] == ("evaluation", 20.5, 22.0)
    assert told["registered.note"] == ("evaluation", "first", None)
    assert told["name"] == ("manifest", "orbit-a", "orbit-b")
    assert [told[role][0] for role in ("manifest", "high", "low")] == ["files"] * 3
    assert str(told["high"][1]).startswith(before.manifest["experts"]["high"]["sha256"])
    assert next(one.change for one in found.differences if one.key == "registered.psnr") == 1.5
    assert found.weights is not None
    assert found.weights["low"]["identical"] is False
    assert found.weights["low"]["norm_a"] > 0
    assert abs(found.weights["low"]["cosine"]) < 0.5
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_same_pair_twice_differs_in_nothing(pair: AdapterPair, uri: str) -> None:
    for _ in range(2):
        register_pair(pair, NAME, uri=uri)
    found = compared(uri, weights=True)
    assert found.differences == ()
    assert found.weights is not None
    assert all(expert["identical"] and expert["relative_difference"] == 0 for expert in found.weights.values())


def test_numbers_of_the_evidence_are_compared_and_damaged_evidence_is_said(pair: AdapterPair, uri: str) -> None:
    for number, drift in ((1, 1.5), (2, 0.5)):
        register_pair(pair, NAME, uri=uri)
        set_candidate(NAME, number, uri=uri)
        decision = Decision((Check("drift", True, "drift fell", -drift),), Thresholds.parse({}))
        promote(NAME, decision, {"pair": {"subject_drift": {"median": drift}}, "words": "none"}, uri=uri)
    told = entries(compared(uri))
    assert told["evidence.pair.subject_drift.median"] == ("evaluation", 1.5, 0.5)
    assert told["gate.drift"] == ("evaluation", -1.5, -0.5)
    assert "evidence.words" not in told
    record = next(Path("mlartifacts").rglob(f"{NAME}-v2-*/evidence.json"))
    record.write_text(record.read_text().replace("0.5", "0.1"))
    found = compared(uri)
    assert entries(found)["gate.drift"] == ("evaluation", -1.5, None)
    assert f"models:/{NAME}/2: its evidence is not what was judged" in found.notes[0]


@pytest.mark.parametrize(
    "place", ["/etc/passwd", "runs:/../x/evidence.json", "http://127.0.0.1:9/evidence/a/evidence.json"]
)
def test_no_address_of_a_hostile_tag_is_asked(pair: AdapterPair, uri: str, place: str) -> None:
    for _ in range(2):
        register_pair(pair, NAME, uri=uri)
    connect(uri).set_model_version_tag(NAME, "1", "evidence.artifact", place)
    assert compared(uri).notes == (
        f"models:/{NAME}/1: its evidence: tag evidence.artifact is not an address that musubi-ext writes",
    )
