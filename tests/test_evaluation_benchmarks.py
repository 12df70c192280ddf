"""The tables of `make reproduce` reckon right where the answer is known, and draw the same plots twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from musubi_ext.evaluation.result import ClipResults, Result

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def clip(drift: float, **more: Result) -> ClipResults:
    def of(value: float, unit: str = "1") -> Result:
        return Result(value, unit, 16, "64x64", "numpy")

    named = {"subject_drift": of(drift, "px"), "psnr": of(20.0, "dB"), "swept_angle_error": of(5.0, "deg"),
             "direction_subject_correct": of(1.0), "motion_ratio": of(1.0)}  # fmt: skip
    return {**named, **more}


def measured() -> dict[str, dict[str, ClipResults]]:
    """Five scenes of two seeds: the pair's drift is 1 px below the base's in each, after seeds are averaged."""
    from reproduce import CONDITIONS, REFERENCES

    found = {}
    for name in (*REFERENCES, *CONDITIONS):
        less = 1.0 if name.startswith("pair") else 0.0
        found[name] = {f"scene_{i}_{seed}": clip(3.0 + i + seed - less) for i in range(5) for seed in (0, 1)}
    return found


def test_the_difference_of_two_conditions_is_paired_over_scenes() -> None:
    from reproduce_table import by_scene, markdown

    found = measured()
    assert by_scene(found["base"], "subject_drift") == {f"scene_{i}": 3.5 + i for i in range(5)}
    page = markdown({"scenes": 5, "seeds": 2, "steps": 1, "seconds": 60}, found)
    (row,) = [line for line in page.splitlines() if line.startswith("| our pair − base")]
    assert "-1.000 [-1.000, -1.000]" in row  # the scenes differ by far more than the two models
    (base,) = [line for line in page.splitlines() if line.startswith("| base |")]
    assert base.startswith("| base | 5.50 [")


def test_a_missing_value_is_counted_not_averaged() -> None:
    from reproduce_table import by_scene, markdown

    found = measured()
    lost = Result(None, "px", 16, "64x64", "numpy", "the subject was lost")
    found["base"]["scene_0_0"] = clip(3.0, subject_drift=lost)
    assert by_scene(found["base"], "subject_drift")["scene_0"] == 4.0
    page = markdown({"scenes": 5, "seeds": 2, "steps": 1, "seconds": 60}, found)
    (base,) = [line for line in page.splitlines() if line.startswith("| base |")]
    assert base.endswith("| 1 |")


def test_plots_are_the_same_files_for_the_same_figures(tmp_path: Path) -> None:
    from reproduce_table import figures

    first, second = (figures(measured(), tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == [
        "reproduce_subject_drift.svg", "reproduce_psnr.svg", "reproduce_swept_angle_error.svg"
    ]  # fmt: skip
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_resumed_run_counts_the_seconds_of_those_before(tmp_path: Path) -> None:
    from reproduce import _spent

    path, size = tmp_path / "reproduce.json", {"scenes": 5, "seeds": 2, "steps": 1}
    assert _spent(path, size) == 0
    path.write_text(json.dumps({**size, "seconds": 60}))
    assert _spent(path, size) == 60
    assert _spent(path, {**size, "scenes": 6}) == 0


def test_every_marker_and_figure_that_the_scripts_write_is_in_the_documents() -> None:
    page = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    assert "<!-- reproduce:start -->" in page
    for name in ("subject_drift", "subject_drift_from_truth", "psnr", "swept_angle_error"):
        assert f"figures/reproduce_{name}.svg" in page
        assert (ROOT / "docs" / "figures" / f"reproduce_{name}.svg").is_file()


def test_the_page_of_metrics_has_each_with_its_unit_and_direction() -> None:
    from musubi_ext.evaluation.metrics import METRICS

    arrows = {"higher": "↑", "lower": "↓", "report": ""}
    rows = [line for line in (ROOT / "docs" / "EVALUATION.md").read_text(encoding="utf-8").splitlines() if "`" in line]
    for metric in METRICS.values():
        (row,) = [line for line in rows if line.startswith("|") and f"`{metric.name}`" in line.split("|")[1]]
        after = row.split(f"`{metric.name}`")[1].partition("`")[0]
        assert ("↑" in after, "↓" in after) == (arrows[metric.better.value] == "↑", arrows[metric.better.value] == "↓")
        assert metric.unit in row.split("|")[2], row
