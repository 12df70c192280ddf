"""The gate passes a real improvement and refuses stillness, noise, lost subjects and unpaired evidence, saying why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from musubi_ext.errors import UserError
from musubi_ext.evaluation.gate import decide
from musubi_ext.evaluation.result import Result
from musubi_ext.evaluation.thresholds import Thresholds

TOML = Path(__file__).resolve().parents[2] / "mlflow_projects" / "gate.toml"


def scene(drift: float | None, motion: float = 1.0, correct: float = 1.0) -> dict[str, Result]:
    values = {"subject_drift": drift, "motion_ratio": motion, "direction_subject_correct": correct}
    lost = {name: "the subject was lost" if value is None else None for name, value in values.items()}
    return {name: Result(value, "", 17, "64x64", "test", lost[name]) for name, value in values.items()}


def model(count: int = 12, **fields) -> dict[str, dict[str, Result]]:
    drift = fields.pop("drift")
    return {f"s{i}": scene(None if drift is None else drift + 0.05 * (i % 4), **fields) for i in range(count)}


BASE = model(drift=3.0)


def test_a_real_improvement_passes() -> None:
    decision = decide(BASE, model(drift=1.3))
    assert decision.passed
    assert decision.reasons == []
    assert decision.verdict == "passed"
    drift = next(check for check in decision.checks if check.name == "drift")
    assert drift.value == pytest.approx(-1.7)
    evidence = json.loads(json.dumps(decision.as_dict(), allow_nan=False))
    assert evidence["passed"] is True
    assert evidence["thresholds"]["min_motion_ratio"] == 0.7


@pytest.mark.parametrize(("pair", "word"), [
    (model(drift=3.4), "whole interval must lie below"),
    (model(drift=0.0, motion=0.0), "motion ratio is 0.000"),
    (model(drift=1.3, correct=0.0), "direction is as captioned in 0.000"),
    (model(drift=None), "subject_drift is unavailable in 12 of 12 scenes: the subject was lost"),
])  # fmt: skip
def test_each_check_refuses_alone(pair, word) -> None:
    decision = decide(BASE, pair)
    assert not decision.passed
    assert len(decision.reasons) == 1
    assert word in decision.reasons[0]
    assert decision.verdict == decision.reasons[0]


def test_a_gain_within_the_noise_is_refused() -> None:
    pair = {key: scene(3.0 + (0.8 if i % 2 else -0.9)) for i, key in enumerate(BASE)}
    assert [check.name for check in decide(BASE, pair).checks if not check.passed] == ["drift"]


def test_one_lost_scene_in_twelve_is_left_out_two_are_not() -> None:
    pair = model(drift=1.3)
    pair["s0"] = scene(None)
    assert decide(BASE, pair).passed
    pair["s1"] = scene(None)
    assert "2 of 12 scenes" in decide(BASE, pair).verdict


def test_few_scenes_and_unmeasured_metrics() -> None:
    assert "2 scenes were evaluated" in decide(model(2, drift=3.0), model(2, drift=1.0)).verdict
    assert len(decide({}, {}).reasons) == 4
    bare = {key: {"subject_drift": results["subject_drift"]} for key, results in model(drift=1.0).items()}
    assert "motion_ratio is unavailable in 12 of 12 scenes: it was not measured" in decide(BASE, bare).verdict


def test_unpaired_scenes_are_an_error() -> None:
    with pytest.raises(UserError, match="found in only one of them: extra"):
        decide(BASE, {**BASE, "extra": scene(1.0)})


def test_the_shipped_toml_states_the_defaults() -> None:
    assert Thresholds.load(TOML) == Thresholds()
    assert decide(BASE, model(drift=1.3), {"min_drift_gain": 2.5}).reasons


def test_every_mistake_in_a_gate_file_is_named(tmp_path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text('[gate]\nmin_motoin_ratio = 1\nmin_scenes = 2.5\nmax_unavailable = 1.5\nmin_drift_gain = "much"\n'
                    "min_motion_ratio = -1\n")  # fmt: skip
    with pytest.raises(UserError) as caught:
        Thresholds.load(path)
    assert len(caught.value.problems) == 5
    assert "did you mean min_motion_ratio?" in caught.value.problems[0]
    for text in ("[gate", "\0"):
        path.write_text(text)
        with pytest.raises(UserError, match="not TOML"):
            Thresholds.load(path)
    with pytest.raises(UserError, match="cannot be read"):
        Thresholds.load(tmp_path / "absent.toml")
