"""Paired statistics keep their symmetries; files of different scenes or settings are refused with all that differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from musubi_ext.cli import main
from musubi_ext.errors import UserError
from musubi_ext.evaluation.comparable import load, scene_of
from musubi_ext.evaluation.compare import Comparison, MetricComparison, compare_files
from musubi_ext.evaluation.effects import cohens_dz, estimate, holm, rank_biserial, sign_test
from musubi_ext.evaluation.result import Result, write_results
from musubi_ext.storage import sha256

DIFFERENCES = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=1, max_size=12)


def result(value: float | None, unit: str = "px", **fields: Any) -> Result:
    why = "the subject was lost" if value is None else None
    return Result(value, unit, **{"frames": 16, "resolution": "64x64", "backend": "test 1"} | fields, unavailable=why)


def write(path: Path, drift: dict[str, float | None], motion: float = 1.0, **fields: Any) -> Path:
    clips = {
        name: {
            "subject_drift": result(value, **fields),
            "motion_magnitude": result(motion, **fields),
            "direction_subject_correct": result(float(value is not None), "0/1", **fields),
        }
        for name, value in drift.items()
    }
    write_results(path, clips)
    return path


def metric(comparison: Comparison, name: str = "subject_drift") -> MetricComparison:
    return next(of for of in comparison.metrics if of.name == name)


BASE = {f"s{i}.mp4": 3.0 + 0.1 * i for i in range(12)}
PAIR = {name: value - 1.5 - 0.05 * (i % 3) for i, (name, value) in enumerate(BASE.items())}


@settings(max_examples=25, deadline=None)
@given(DIFFERENCES)
def test_swapping_base_and_pair_flips_every_sign(differences: list[float]) -> None:
    turned = [-d for d in differences]
    for centre in ("median", "mean"):
        there, back = estimate(differences, centre), estimate(turned, centre)
        assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=1e-9)
        assert there.low <= there.high
    assert rank_biserial(turned) == -rank_biserial(differences)
    assert -1 <= rank_biserial(differences) <= 1
    first, second = cohens_dz(differences), cohens_dz(turned)
    assert (first is None and second is None) or first == pytest.approx(-second)
    signs, other = sign_test(differences), sign_test(turned)
    assert (signs.rose, signs.fell, signs.equal) == (other.fell, other.rose, other.equal)
    assert signs.p == other.p
    assert 0 < signs.p <= 1


def test_effects_are_the_published_ones() -> None:
    d = [1.0, 2.0, -0.5, 3.0, 0.0, 4.0]
    kept = [x for x in d if x]
    ranks = len(kept) * (len(kept) + 1) / 2
    assert rank_biserial(d) == pytest.approx(1 - 2 * wilcoxon(kept).statistic / ranks)  # statistic: the smaller sum
    assert cohens_dz(d) == pytest.approx(np.mean(d) / np.std(d, ddof=1))
    assert sign_test(d).p == pytest.approx(2 * (1 + 5) / 2**5)  # at most 1 of 5 falls, either way
    assert sign_test([0.0, 0.0]).p == 1
    assert cohens_dz([0.1, 0.1, 0.1]) is None
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_pair_with_less_drift_reads_as_better_and_the_other_way_round(tmp_path: Path) -> None:
    base, pair = write(tmp_path / "base.json", BASE), write(tmp_path / "pair.json", PAIR)
    there, back = compare_files(base, pair), compare_files(pair, base)
    drift, turned = metric(there), metric(back)
    assert (drift.reading, turned.reading) == ("pair", "base")
    assert drift.difference is not None
    assert drift.difference.value == pytest.approx(-1.55)
    assert drift.rank_biserial == -1
    assert drift.signs is not None
    assert (drift.signs.rose, drift.signs.fell) == (0, 12)
    assert drift.p_holm == pytest.approx(3 * 2 * 0.5**12)
    assert turned.difference is not None
    assert turned.difference.high == pytest.approx(-drift.difference.low)
    document = json.loads(json.dumps(there.as_dict(), allow_nan=False))
    assert document["schema"] == "musubi-ext/comparison"
    assert document["inputs"]["pair"] == {"name": "pair.json", "sha256": sha256(pair)}


def test_what_stillness_wins_is_not_credited(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", BASE)
    frozen = compare_files(base, write(tmp_path / "pair.json", dict.fromkeys(BASE, 0.0), motion=0.0))
    assert metric(frozen).reading == "still"
    assert frozen.moves is False
    assert len(frozen.motion.frozen) == len(BASE)


def test_scenes_without_a_value_are_left_out_with_the_reason(tmp_path: Path) -> None:
    lost = PAIR | {"s0.mp4": None}
    drift = metric(compare_files(write(tmp_path / "b.json", BASE), write(tmp_path / "p.json", lost)))
    assert len(drift.differences) == 11
    assert drift.lacking == {"s0.mp4": "pair: the subject was lost"}


def test_other_settings_are_refused_with_all_that_differs(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", BASE, masks="color", coverage=1.0)
    pair = write(tmp_path / "pair.json", PAIR, resolution="128x64", frames=17, backend="test 2", masks="flow",
                 coverage=1.0)  # fmt: skip
    with pytest.raises(UserError) as caught:
        compare_files(base, pair)
    text = "\n".join(caught.value.problems)
    for part in ("resolution of", "64x64 in base.json, 128x64 in pair.json", "metric version", "mask provider",
                 "color in base.json, flow in pair.json", "frames used", "every scene"):  # fmt: skip
        assert part in text
    for other in ({"settings": {"profile": "fast"}}, {"settings": {"profile": "exact"}}):
        path = tmp_path / f"{other['settings']['profile']}.json"
        path.write_text(json.dumps(json.loads(base.read_text()) | other))
    with pytest.raises(UserError, match=r"setting profile: 'fast' in fast.json, 'exact' in exact.json"):
        compare_files(tmp_path / "fast.json", tmp_path / "exact.json")


def test_frames_that_lost_their_subject_are_not_another_setting(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", BASE, masks="flow", coverage=1.0)
    pair = write(tmp_path / "pair.json", PAIR, masks="flow", coverage=15 / 16, frames=15, stride=1.1)
    assert metric(compare_files(base, pair)).reading == "pair"


def test_scenes_pair_up_by_what_they_show_not_by_name(tmp_path: Path) -> None:
    for name, drift, suffix in (("base", BASE, "_b"), ("pair", PAIR, "_p")):
        path = write(tmp_path / f"{name}.json", {key + suffix: value for key, value in drift.items()})
        request = {"prompt": "a car", "first": {"name": "x.png", "sha256": "0" * 64}}
        scenes = {key + suffix: scene_of({"request": request | {"seed": i}}) for i, key in enumerate(drift)}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"scenes": scenes}))
    found = compare_files(tmp_path / "base.json", tmp_path / "pair.json")
    assert found.pairing.pair["s3.mp4_b"] == "s3.mp4_p"
    document = json.loads((tmp_path / "pair.json").read_text())
    document["scenes"]["s3.mp4_p"]["seed"] = 99
    (tmp_path / "pair.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"s3.mp4_b: no clip of the same scene"):
        compare_files(tmp_path / "base.json", tmp_path / "pair.json")
    assert scene_of({"other": 1}) is None


def test_clips_of_one_name_that_show_different_scenes_are_refused(tmp_path: Path) -> None:
    for name, seed in (("base", 0), ("pair", 1)):
        path = write(tmp_path / f"{name}.json", BASE)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"scenes": {"s1.mp4": {"seed": seed}}}))
    with pytest.raises(UserError, match=r"s1.mp4: seed: 0 in the base's file, 1 in the pair's"):
        compare_files(tmp_path / "base.json", tmp_path / "pair.json")


def test_files_of_version_1_are_still_compared(tmp_path: Path) -> None:
    for name, drift in (("base", BASE), ("pair", PAIR)):
        path = write(tmp_path / f"{name}.json", drift)
        document = json.loads(path.read_text())
        document["version"] = 1
        for of in document["clips"].values():
            for fields in of.values():
                for key in ("stride", "licence", "masks", "coverage"):
                    fields.pop(key, None)
        path.write_text(json.dumps(document))
    assert metric(compare_files(tmp_path / "base.json", tmp_path / "pair.json")).reading == "pair"


def test_clips_without_partner_and_empty_files_are_named(tmp_path: Path) -> None:
    base, few = write(tmp_path / "base.json", BASE), write(tmp_path / "few.json", {"s0.mp4": 1.0, "x.mp4": 1.0})
    with pytest.raises(UserError) as caught:
        compare_files(base, few)
    assert "s1.mp4, s2.mp4" in caught.value.problems[0]
    assert "and 3 more" in caught.value.problems[0]
    assert "x.mp4" in caught.value.problems[1]
    with pytest.raises(UserError, match="holds no clip"):
        load(write(tmp_path / "none.json", {}))


def test_the_command_writes_prints_and_answers_with_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    base, pair = write(tmp_path / "base.json", BASE), write(tmp_path / "pair.json", PAIR)
    gate = tmp_path / "gate.toml"
    gate.write_text("[metrics.subject_drift]\nmin_effect = 1\n")
    out, html, verdict = tmp_path / "compare.json", tmp_path / "compare.html", tmp_path / "verdict.json"
    words = ["compare", str(base), str(pair), "--gate", str(gate), "-o", str(out)]
    assert main([*words, "--html", str(html), "--verdict", str(verdict)]) == 0
    said = capsys.readouterr().out
    assert "the pair is better" in said
    assert "gate: passed" in said
    document = json.loads(out.read_text())
    assert document["verdict"] == json.loads(verdict.read_text())
    assert "passed" in html.read_text()
    gate.write_text("[metrics.subject_drift]\nmin_effect = 2\n")
    assert main(words) == 1
    assert json.loads(out.read_text())["verdict"]["passed"] is False


def test_every_mistake_of_a_command_line_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text("[metrics.subject_drfit]\n")
    base = write(tmp_path / "base.json", BASE)
    words = ["--gate", str(gate), "-o", "x.txt", "--base_videos", str(tmp_path / "none")]
    assert main(["compare", str(base), str(tmp_path / "absent.json"), *words]) == 2
    said = capsys.readouterr().err
    for part in ("did you mean subject_drift?", "absent.json", "x.txt", "expected a folder of videos", "add --html"):
        assert part in said
