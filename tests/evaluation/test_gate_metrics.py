"""[metrics.NAME] tables: nothing missing, unavailable or frozen passes; the verdict names its inputs' bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from musubi_ext.errors import UserError
from musubi_ext.evaluation.compare import compare_files
from musubi_ext.evaluation.gate import decide
from musubi_ext.evaluation.result import Result, write_results
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.evaluation.verdict import judge
from musubi_ext.storage import sha256

Scene = dict[str, Result]


def scene(drift: float | None = 1.0, ssim: float = 0.8, speed: float | None = 1.0) -> Scene:
    values = {"subject_drift": drift, "ssim": ssim, "motion_magnitude": speed}
    lost = {name: "it was lost" if value is None else None for name, value in values.items()}
    return {name: Result(value, "px", 17, "64x64", "test", lost[name]) for name, value in values.items()}


def model(count: int = 12, **fields: float | None) -> dict[str, Scene]:
    return {f"s{i}": scene(**fields) for i in range(count)}


BASE = model(drift=3.0)
LESS_DRIFT = {"metrics": {"subject_drift": {"min_effect": 0.5}}}


def failed(pair: dict[str, Scene], toml: dict, base: dict[str, Scene] = BASE) -> list[str]:
    return [check.name for check in decide(base, pair, toml).checks if not check.passed]


def test_an_improvement_passes_by_its_metrics_alone() -> None:
    decision = decide(BASE, model(drift=1.0), LESS_DRIFT)
    assert decision.passed
    assert [check.name for check in decision.checks] == [
        "scenes", "motion", "subject_drift.available", "subject_drift.min_effect"]  # fmt: skip
    last = decision.checks[-1]
    assert (last.value, last.threshold) == (2.0, 0.5)
    assert "improves by 2 px" in last.message


@pytest.mark.parametrize(("limits", "pair", "name"), [
    ({"min_effect": 2.5}, model(drift=1.0), "subject_drift.min_effect"),
    ({"min_effect": 0}, model(drift=3.0), "subject_drift.min_effect"),
    ({"max_loss": 0.5}, model(drift=4.0), "subject_drift.max_loss"),
    ({"max": 0.5}, model(drift=1.0), "subject_drift.max"),
    ({"min": 1.5}, model(drift=1.0), "subject_drift.min"),
    ({}, model(drift=None), "subject_drift.available"),
    ({"max_unavailable": 0.05}, model(11, drift=1.0) | {"s11": scene(None)}, "subject_drift.available"),
])  # fmt: skip
def test_each_limit_refuses_alone(limits: dict, pair: dict[str, Scene], name: str) -> None:
    assert failed(pair, {"metrics": {"subject_drift": limits}}) == [name]


def test_what_is_within_the_limits_passes() -> None:
    assert failed(model(drift=3.4), {"metrics": {"subject_drift": {"max_loss": 0.5, "max": 4}}}) == []
    mixed = model(11, drift=1.0) | {"s11": scene(None)}
    assert failed(mixed, LESS_DRIFT) == []
    assert failed(model(drift=1.0, ssim=0.9), {"metrics": {"ssim": {"min_effect": 0.05}}}) == []
    assert failed(model(drift=1.0, ssim=0.7), {"metrics": {"ssim": {"min_effect": 0.05}}}) == ["ssim.min_effect"]


def test_a_missing_metric_fails_and_says_so() -> None:
    decision = decide(BASE, model(drift=1.0), {"metrics": {"psnr": {"min": 20}}})
    assert decision.reasons == ["psnr is unavailable in 12 of 12 scenes: it was not measured"]
    optional = {"metrics": {"psnr": {"min": 20, "required": False}}}
    assert decide(BASE, model(drift=1.0), optional).passed


def test_a_frozen_pair_never_wins() -> None:
    assert failed(model(drift=0.0, speed=0.0), LESS_DRIFT) == ["motion"]
    half = {name: scene(0.5, speed=1.4 if i < 8 else 0.0) for i, name in enumerate(BASE)}
    decision = decide(BASE, half, LESS_DRIFT)
    assert "4 of 12 scenes stand still" in decision.verdict
    assert failed(model(drift=0.0, speed=None), LESS_DRIFT) == ["motion"]
    unmeasured = {name: {"subject_drift": of["subject_drift"]} for name, of in model(drift=1.0).items()}
    assert "motion_magnitude is unavailable in 12 of 12 scenes: it was not measured" in (
        decide(BASE, unmeasured, LESS_DRIFT).verdict
    )
    floor = {"gate": {"min_motion_ratio": 0}, **LESS_DRIFT}
    assert failed(model(drift=0.0, speed=0.0), floor) == ["motion"]


def test_a_frozen_base_asks_only_for_motion() -> None:
    still = model(drift=3.0, speed=0.0)
    assert failed(model(drift=1.0), LESS_DRIFT, still) == []
    assert failed(model(drift=1.0, speed=0.0), LESS_DRIFT, still) == ["motion"]


def test_checks_of_rendered_scenes_are_made_where_they_are_written_down() -> None:
    toml = {"gate": {"min_drift_gain": 0.0}, **LESS_DRIFT}
    assert "drift" in [check.name for check in decide(BASE, model(drift=1.0), toml).checks]
    assert Thresholds.parse({"metrics": {}}) == Thresholds()
    assert Thresholds.parse({"min_scenes": 3}) == Thresholds.parse({"gate": {"min_scenes": 3}})


def test_every_mistake_in_the_tables_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("""
[gate]
min_scens = 3
[motion]
metric = "motion_magnitud"
min = 0
max = 1
[metrics.subject_drfit]
min = 1
[metrics.subject_drift]
min_efect = 1
better = "higher"
max = "much"
[metrics.psnr]
min_effect = 1
max_loss = 1
min = 3
max = 2
[metrics.ssim]
min_effect = -1
required = "yes"
max_unavailable = 2
[metrics.motion_magnitude]
min_effect = 1
[metrics.lpips]
required = false
[metric]
x = 1
""")
    with pytest.raises(UserError) as caught:
        Thresholds.load(path)
    text = "\n".join(caught.value.problems)
    for part in (
        "unknown table 'metric' (did you mean metrics?)",
        "unknown threshold 'min_scens' (did you mean min_scenes?)",
        "motion.metric: 'motion_magnitud' does not measure motion (did you mean motion_magnitude?)",
        "motion.min: expected a number above 0, found 0",
        "motion.max: unknown key",
        "metrics.subject_drfit: no such metric (did you mean subject_drift?)",
        "metrics.subject_drift.min_efect: unknown key (did you mean min_effect?)",
        "metrics.subject_drift.better: higher, but lower is better",
        "metrics.subject_drift.max: expected a finite number, found 'much'",
        "metrics.psnr: min_effect and max_loss exclude one another",
        "metrics.psnr: min 3 is above max 2",
        "metrics.ssim.min_effect: expected at least 0, found -1",
        "metrics.ssim.required: expected true or false",
        "metrics.ssim.max_unavailable: expected a fraction",
        "metrics.motion_magnitude.min_effect: neither way is better",
        "metrics.lpips: asks for nothing",
    ):
        assert part in text
    assert len(caught.value.problems) == 16
    assert all(str(path) in line for line in caught.value.problems)


@pytest.mark.parametrize("text", ["gate = 5", "metrics = 1", "[metrics]\npsnr = 3", "[gate]\nmin_scenes = inf"])
def test_a_table_that_is_no_table_is_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(UserError, match="expected"):
        Thresholds.load(path)


def test_the_verdict_is_a_document_with_the_hashes_of_its_inputs(tmp_path: Path) -> None:
    base, pair, gate = tmp_path / "base.json", tmp_path / "pair.json", tmp_path / "gate.toml"
    write_results(base, BASE)
    write_results(pair, model(drift=2.8))
    gate.write_text("[metrics.subject_drift]\nmin_effect = 0.5\n[metrics.psnr]\nmin = 20\n")
    judge(compare_files(base, pair), gate).write(tmp_path / "verdict.json")
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert (verdict["schema"], verdict["version"], verdict["passed"]) == ("musubi-ext/verdict", 1, False)
    assert verdict["inputs"] == {
        name: {"name": path.name, "sha256": sha256(path)}
        for name, path in (("base", base), ("pair", pair), ("gate", gate))
    }
    checks = {check["name"]: check for check in verdict["checks"]}
    assert checks["subject_drift.min_effect"]["value"] == pytest.approx(0.2)
    assert checks["subject_drift.min_effect"]["threshold"] == 0.5
    assert checks["psnr.available"]["passed"] is False
    assert len(verdict["reasons"]) == 2
    assert verdict["compared"]["scenes"] == list(BASE)
    assert str(tmp_path) not in json.dumps(verdict)
    before = verdict["inputs"]["pair"]["sha256"]
    write_results(pair, model(drift=2.7))
    assert judge(compare_files(base, pair), gate).as_dict()["inputs"]["pair"]["sha256"] != before
