"""Angles recovered from pictures are the rendered ones, through blur and noise; stillness is not an orbit."""

from __future__ import annotations

import numpy as np
import pytest

from musubi_ext.evaluation.masks import MaskSource, subject_masks
from musubi_ext.evaluation.orbit import direction_of, frame_azimuths, subject_azimuths, swept
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.evaluation.truth import Sweep, Truth


@pytest.mark.parametrize(
    ("sigma", "noise", "limit"), [(0, 0, 1.0), (1, 0, 2.0), (1.5, 0, 3.0), (0, 8, 1.0), (1, 8, 2.0)]
)
def test_angle_of_true_orbits(scene, scenes, spoil, sigma, noise, limit) -> None:
    per_frame, total = [], []
    for number in scenes:
        truth = scene(number)
        frames = spoil(truth.frames, sigma, noise)
        azimuth = subject_azimuths(frames, subject_masks(MaskSource.COLOR, frames, truth), truth.sweep)
        assert direction_of(azimuth) == truth.direction
        assert direction_of(frame_azimuths(frames, truth.sweep)) == truth.direction
        per_frame.append(np.median(np.abs(azimuth - truth.azimuth)))
        total.append(abs(swept(azimuth) - swept(truth.azimuth)))
    assert np.median(per_frame) <= limit
    assert np.median(total) <= limit
    assert max(total) <= 8


def test_wild_subjects_keep_their_angle_and_direction(scene, scenes) -> None:
    errors = []
    for number in scenes:
        truth = scene(number, "wild")
        result = evaluate(truth.frames, truth=truth, metrics=["swept_angle_error", "direction_subject_correct"])
        assert result["direction_subject_correct"].value == 1
        errors.append(result["swept_angle_error"].value)
    assert np.median(errors) <= 4  # a wandering subject is truly seen from another side than the camera's azimuth says


def test_a_frozen_frame_has_no_direction(scene, scenes) -> None:
    for number in scenes:
        truth = scene(number)
        frozen = np.repeat(truth.frames[:1], len(truth.frames), axis=0)
        result = evaluate(frozen, truth=truth)
        assert result["direction_subject"].value == 0
        assert result["direction_subject_correct"].value == 0
        assert result["direction_correct"].value == 0
        assert result["swept_angle_error"].value == pytest.approx(90, abs=5)
        assert result["motion_ratio"].value == 0
        assert result["subject_drift"].value == 0


def test_the_subject_alone_contradicts_a_lying_background(scene) -> None:
    """The background turns one way, the subject pasted on it the other: the two directions differ."""
    truth, other = scene(0), scene(0).sweep
    back = [int(np.argmin(np.abs(other.azimuth + a))) for a in truth.azimuth]
    frames = np.where(other.masks[back][..., None], other.frames[back], truth.frames)
    masks = other.masks[back]
    azimuth = subject_azimuths(frames, masks, other)
    assert swept(azimuth) == pytest.approx(-90, abs=6)
    assert direction_of(frame_azimuths(frames, other)) == truth.direction


def test_direction_needs_five_degrees() -> None:
    assert direction_of(np.float32([0, 4.9])) == 0
    assert direction_of(np.float32([0, 5.1])) == 1
    assert direction_of(np.float32([0, 50, -6])) == -1


def test_reasons_when_no_angle_can_be_had(scene) -> None:
    truth = scene(0)
    plain = Truth(truth.frames, truth.masks, truth.azimuth, truth.direction)
    result = evaluate(truth.frames, truth=plain, metrics=["swept_angle", "direction"])
    assert all("no reference sweep" in str(r.unavailable) for r in result.values())
    half = Sweep(truth.sweep.frames[:, ::2], truth.sweep.masks[:, ::2], truth.sweep.azimuth)
    small = Truth(truth.frames, truth.masks, truth.azimuth, truth.direction, half)
    result = evaluate(truth.frames, truth=small, metrics=["swept_angle", "direction"])
    assert all("reference sweep of (32, 64)" in str(r.unavailable) for r in result.values())
    front = Sweep(truth.sweep.frames[60:], truth.sweep.masks[60:], truth.sweep.azimuth[60:])
    ahead = Truth(truth.frames, truth.masks, truth.azimuth, truth.direction, front)
    assert "no view at azimuth 0" in str(evaluate(truth.frames, truth=ahead)["direction"].unavailable)
