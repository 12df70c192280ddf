"""The colour model finds the subject in rendered clips, sharp and blurred, and says when it is lost."""

from __future__ import annotations

import numpy as np
import pytest

from musubi_ext.evaluation.masks import MaskSource, centroids, found, subject_masks
from musubi_ext.evaluation.metrics.mask_iou import iou
from musubi_ext.evaluation.metrics.subject_drift import drift
from musubi_ext.evaluation.suite import evaluate


@pytest.mark.parametrize("domain", ["orbit", "wild"])
@pytest.mark.parametrize(("sigma", "noise", "floor"), [(0, 0, 0.95), (1, 0, 0.9), (1.5, 0, 0.85), (1, 8, 0.9)])
def test_iou_of_colour_masks(scene, scenes, spoil, domain, sigma, noise, floor) -> None:
    scores, drifts = [], []
    for number in scenes:
        truth = scene(number, domain)
        masks = subject_masks(MaskSource.COLOR, spoil(truth.frames, sigma, noise), truth)
        assert found(masks).all()
        scores.append(np.median([iou(a, b) for a, b in zip(masks, truth.masks, strict=True)]))
        drifts.append(abs(drift(masks) - drift(truth.masks)))
    assert np.median(scores) >= floor
    assert min(scores) >= 0.8
    assert np.median(drifts) <= 0.2  # pixels


def test_true_masks_are_the_truths(scene) -> None:
    truth = scene(0)
    assert subject_masks(MaskSource.TRUTH, truth.frames, truth) is truth.masks


def test_a_subject_that_vanishes_makes_drift_unavailable(scene) -> None:
    truth = scene(0)
    frames = truth.frames.copy()
    frames[8:] = 128
    result = evaluate(frames, truth=truth, metrics=["subject_drift", "subject_flow", "swept_angle"])
    assert result["subject_drift"].value is None
    assert result["subject_drift"].unavailable == "the subject was found in 8 of 16 sampled frames, below 90%"
    assert "below 90%" in str(result["subject_flow"].unavailable)
    assert result["swept_angle"].unavailable == "the subject was found in 8 of 17 frames and not in the last"


def test_one_lost_frame_in_sixteen_is_counted(scene) -> None:
    truth = scene(1)
    frames = truth.frames.copy()
    frames[5] = 128
    result = evaluate(frames, truth=truth, metrics=["subject_drift", "swept_angle_error"])
    assert result["subject_drift"].frames == 15
    assert result["subject_drift"].value == pytest.approx(drift(truth.masks), abs=0.4)
    assert result["swept_angle_error"].value is not None
    assert result["swept_angle_error"].value < 4


def test_colour_needs_a_visible_subject(scene) -> None:
    truth = scene(0)
    hidden = type(truth)(truth.frames, truth.masks & False, truth.azimuth, truth.direction)
    result = evaluate(truth.frames, truth=hidden, metrics=["subject_drift"])["subject_drift"]
    assert "not visible in the truth's first frame" in str(result.unavailable)


def test_centroids_are_x_then_y() -> None:
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2, 5] = True
    assert centroids(mask).tolist() == [[5, 2]]
    with pytest.raises(ValueError, match="no centroid"):
        centroids(mask & False)
