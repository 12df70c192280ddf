"""One call, every metric, valid JSON; truth files read back; mistakes named."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from musubi_ext.errors import UserError
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.evaluation.result import Result, read_results, results_document, write_results
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.evaluation.truth import Truth
from musubi_ext.orbits.render import write_dataset


def test_truth_against_itself(scene) -> None:
    truth = scene(0)
    result = evaluate(truth.frames, truth=truth, masks=MaskSource.TRUTH)
    assert list(result) == list(METRICS)
    assert result["psnr"].value is None
    assert result["psnr"].unavailable == "identical frames: PSNR is infinite"
    assert result["ssim"].value == pytest.approx(1)
    assert result["motion_ratio"].value == 1
    assert result["mask_iou"].value == 1
    assert result["direction_subject_correct"].value == 1
    assert result["swept_angle_error"].value < 4
    for name, metric in METRICS.items():
        low, high = metric.range
        value = result[name].value
        assert value is None or ((low is None or value >= low) and (high is None or value <= high + 1e-9)), name


def test_evaluation_is_deterministic_and_leaves_opencv_alone(scene) -> None:
    truth = scene(2, "wild")
    threads = cv2.getNumThreads()
    assert evaluate(truth.frames, truth=scene(2)) == evaluate(truth.frames, truth=scene(2))
    assert cv2.getNumThreads() == threads


def test_without_truth_the_reasons_are_given(scene) -> None:
    result = evaluate(scene(0).frames)
    assert result["motion_magnitude"].value > 0
    needy = {name for name, r in result.items() if r.unavailable == "no truth was given for this clip"}
    assert needy >= {
        "direction", "direction_correct", "direction_subject", "direction_subject_correct", "mask_iou", "motion_ratio",
        "psnr", "ssim", "subject_drift", "subject_flow", "swept_angle", "swept_angle_error",
    }  # fmt: skip
    assert not needy & {"motion_magnitude", "dynamic_degree", "global_flow", "psnr_first_last", "ssim_first_last"}


def test_other_frame_count_than_the_truths(scene) -> None:
    truth = scene(0)
    reason = evaluate(truth.frames[:9], truth=truth, metrics=["psnr"])["psnr"].unavailable
    assert reason == "the clip has 9 frames of 64x64, its truth 17 of 64x64"


def test_a_reference_changes_the_unit_of_motion(scene) -> None:
    truth = scene(0)
    dim = (truth.frames // 2).astype(np.uint8)
    ratio = evaluate(truth.frames, truth=truth, reference=dim, metrics=["motion_ratio"])["motion_ratio"].value
    assert ratio == pytest.approx(2, rel=0.05)
    still = np.repeat(truth.frames[:1], 17, axis=0)
    result = evaluate(truth.frames, truth=truth, reference=still, metrics=["motion_ratio"])["motion_ratio"]
    assert "identical" in str(result.unavailable)


def test_a_single_frame_answers_what_it_can(scene) -> None:
    result = evaluate(scene(0).frames[:1])
    assert "two frames" in str(result["motion_magnitude"].unavailable)
    assert "two frames" in str(result["dynamic_degree"].unavailable)
    assert "two frames" in str(result["global_flow"].unavailable)


def test_unknown_metrics_are_all_named() -> None:
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(UserError) as caught:
        evaluate(frames, metrics=["subject_drfit", "psnr", "xyzzy"])
    assert len(caught.value.problems) == 2
    assert "did you mean subject_drift?" in caught.value.problems[0]
    with pytest.raises(ValueError, match=r"expected uint8 \(F, H, W, 3\)"):
        evaluate(frames.astype(np.float32))
    with pytest.raises(ValueError, match="masks: expected"):
        evaluate(frames, masks=np.zeros((3, 16, 16), bool))


def test_results_round_trip_as_strict_json(scene, tmp_path) -> None:
    truth = scene(0)
    clips = {"a": evaluate(truth.frames, truth=truth), "b": evaluate(truth.frames)}
    path = tmp_path / "results.json"
    write_results(path, clips)

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    document = json.loads(path.read_text(), parse_constant=refuse)
    assert document == results_document(clips)
    assert (document["schema"], document["version"]) == ("musubi-ext/results", 2)
    assert set(document["clips"]["a"]["psnr"]) == {
        "value", "unit", "frames", "resolution", "stride", "backend", "licence", "masks", "coverage", "unavailable"
    }  # fmt: skip
    drift = document["clips"]["a"]["subject_drift"]
    assert (drift["frames"], drift["stride"], drift["resolution"]) == (16, 16 / 15, "64x64")
    assert (drift["masks"], drift["coverage"], document["clips"]["a"]["psnr"]["masks"]) == ("color", 1, "")
    assert (document["clips"]["a"]["psnr_first_last"]["stride"], document["clips"]["a"]["ssim"]["stride"]) == (16, 1)
    assert read_results(path) == clips


FOREIGN = [
    "not json",
    "[]",
    '{"schema": "musubi-ext/results", "version": 3, "clips": {}}',
    '{"schema": "musubi-ext/results", "version": 2, "clips": {"a": {"psnr": {"value": NaN, "unit": "dB", "frames": 1, '
    '"resolution": "8x8", "backend": "numpy", "unavailable": null}}}}',
    '{"schema": "musubi-ext/results", "version": 1, "clips": {"a": {"psnr": {"value": 1}}}}',
]


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_results_are_refused(tmp_path, text) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"results\.json"):
        read_results(path)


def test_results_of_version_1_are_still_read(tmp_path) -> None:
    path = tmp_path / "results.json"
    old = {"value": 1.5, "unit": "px", "frames": 16, "resolution": "64x64", "backend": "numpy 2", "unavailable": None}
    path.write_text(json.dumps({"schema": "musubi-ext/results", "version": 1, "clips": {"a": {"subject_drift": old}}}))
    result = read_results(path)["a"]["subject_drift"]
    assert (result.value, result.frames) == (1.5, 16)
    assert (result.licence, result.masks, result.coverage) == ("", "", None)


def test_a_result_is_a_finite_value_or_a_reason() -> None:
    for value, reason in ((None, None), (1.0, "why"), (float("inf"), None), (float("nan"), None)):
        with pytest.raises(ValueError, match="value"):
            Result(value, "px", 1, "64x64", "numpy", reason)


def test_truth_of_a_rendered_dataset(tmp_path) -> None:
    plain, held_out = (write_dataset(tmp_path / str(w), 1, with_sweep=w)[0].with_suffix(".npz") for w in (False, True))
    assert Truth.load(plain).sweep is None
    truth = Truth.load(held_out)
    assert truth.frames.shape == (17, 64, 64, 3)
    assert truth.sweep is not None
    assert evaluate(truth.frames, truth=truth, metrics=["swept_angle_error"])["swept_angle_error"].value < 5


def test_a_broken_truth_names_every_problem(tmp_path) -> None:
    path = tmp_path / "clip.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"clip\.npz: expected a rendered clip's truth"):
        Truth.load(path)
    np.savez(path, frames=np.zeros((2, 8, 8, 3), np.uint8), sweep_mask=np.zeros((1, 8, 8), bool))
    with pytest.raises(UserError) as caught:
        Truth.load(path)
    assert len(caught.value.problems) == 5
    np.savez(path, frames=np.zeros((2, 8, 8)), mask=np.zeros((2, 8, 8)), azimuth=np.zeros(3), direction=np.int64(2))
    with pytest.raises(UserError) as caught:
        Truth.load(path)
    assert [p.split(": ")[1] for p in caught.value.problems] == ["frames", "azimuth", "direction"]
