"""Motion and appearance find the subject without truth or weights, name themselves, and refuse rather than guess."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from musubi_ext.evaluation.masks import MaskSource, centroids, coverage, find_masks, found
from musubi_ext.evaluation.metrics.mask_iou import iou
from musubi_ext.evaluation.metrics.subject_drift import drift
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.orbits.render import render
from musubi_ext.video import Frames

DISC = (200, 60, 30)


def disc(frames: int, step: float, *, size: int = 96, radius: int = 14) -> Frames:
    """A disc that moves `step` pixels a frame from the left of the middle over a still, grainy ground."""
    ground = np.random.default_rng(1).integers(90, 150, (size, size, 1), dtype=np.uint8).repeat(3, axis=2)
    rows, columns = np.mgrid[:size, :size]
    pictures = []
    for index in range(frames):
        inside = (columns - size / 2 - step * (index - frames / 2)) ** 2 + (rows - size / 2) ** 2 < radius**2
        pictures.append(np.where(inside[..., None], np.array(DISC, np.uint8), ground))
    return np.stack(pictures)


@pytest.mark.parametrize("domain", ["orbit", "wild"])
@pytest.mark.parametrize(("look", "side"), [("plain", 64), ("textured", 64), ("textured", 128)])
def test_rendered_subjects_are_found(domain, look, side) -> None:
    for seed in (41, 42):
        clip = render(seed, domain, size=(side, side), look=look)
        result = find_masks(MaskSource.FLOW, clip.frames)
        assert (result.provider, result.coverage, result.licence) == ("flow", 1.0, "")
        scores = [iou(a, b) for a, b in zip(result.masks, clip.mask, strict=True)]
        assert np.median(scores) >= 0.93
        assert drift(result.masks) == pytest.approx(drift(clip.mask), abs=0.25)


def test_a_box_points_at_one_of_two_subjects() -> None:
    frames = disc(9, 1.0)
    frames[:, 8:28, 70:90] = (30, 60, 220)  # a second saturated thing, off the middle
    middle = find_masks("flow", frames).masks
    corner = find_masks("flow", frames, box=(66, 4, 94, 32)).masks
    assert found(middle).all()
    assert found(corner).all()
    assert centroids(middle)[:, 1] == pytest.approx(48, abs=2)
    assert centroids(corner) == pytest.approx(np.tile([79.5, 17.5], (9, 1)), abs=1)


def test_a_moving_disc_drifts_by_the_closed_form() -> None:
    frames = disc(16, 1.5)
    result = evaluate(frames, masks=MaskSource.FLOW, metrics=["subject_drift"])["subject_drift"]
    assert result.value == pytest.approx(4.609772 * 1.5, rel=0.02)
    assert (result.masks, result.coverage) == ("flow", 1.0)
    still = evaluate(disc(16, 0.0), masks=MaskSource.FLOW, metrics=["subject_drift"])["subject_drift"]
    assert still.value == 0


def test_the_same_frames_give_the_same_masks(spoil: Callable[..., Frames]) -> None:
    frames = spoil(render(43, "wild").frames, 1, 8)
    assert np.array_equal(find_masks("flow", frames).masks, find_masks("flow", frames.copy()).masks)


def test_blur_and_grain_cost_little(spoil: Callable[..., Frames]) -> None:
    clip = render(44, "wild", look="textured")
    masks = find_masks("flow", spoil(clip.frames, 1, 8)).masks
    assert np.median([iou(a, b) for a, b in zip(masks, clip.mask, strict=True)]) >= 0.85


def test_frames_without_the_subject_have_empty_masks_and_lower_the_coverage() -> None:
    frames = render(45).frames.copy()
    frames[8:] = 128
    result = find_masks("flow", frames)
    assert found(result.masks).tolist() == [True] * 8 + [False] * 9
    assert result.coverage == coverage(result.masks) == 8 / 17
    lost = evaluate(frames, masks=MaskSource.FLOW, metrics=["subject_drift", "subject_drift_compensated"])
    for name, one in lost.items():
        assert one.unavailable == "the subject was found in 8 of 16 sampled frames, below 90%", name


def test_one_lost_frame_in_seventeen_is_left_out() -> None:
    frames = render(45).frames.copy()
    frames[5] = 128
    result = find_masks("flow", frames)
    assert found(result.masks).tolist() == [index != 5 for index in range(17)]


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_clips_are_answered(frames) -> None:
    result = find_masks("flow", render(46).frames[:frames])
    assert (result.masks.shape, result.coverage) == ((frames, 64, 64), 1.0)


@pytest.mark.parametrize("shape", [(8, 8), (4, 64), (61, 47), (200, 90)])
def test_any_size_comes_back_at_its_own_size(shape) -> None:
    height, width = shape
    frames = np.full((3, height, width, 3), 90, np.uint8)
    frames[:, height // 4 : -(height // 4), width // 3 : -(width // 3)] = DISC
    assert find_masks("flow", frames).masks.shape == (3, height, width)


def test_a_picture_without_a_subject_is_refused() -> None:
    for frames in (
        np.zeros((5, 48, 48, 3), np.uint8),
        np.random.default_rng(0).integers(0, 255, (5, 48, 48, 3), np.uint8),
    ):
        with pytest.raises(
            UnavailableError, match="no subject stands out in the middle of the first frame; give its box"
        ):
            find_masks("flow", frames)


def test_a_subject_of_its_surroundings_colours_is_mostly_refused() -> None:
    reasons = []
    for seed in range(47, 53):
        clip = render(seed, look="textured")
        gray = clip.frames.mean(axis=-1, keepdims=True).repeat(3, axis=-1).astype(np.uint8)
        result = evaluate(gray, masks=MaskSource.FLOW, metrics=["subject_drift"])["subject_drift"]
        reasons += [result.unavailable] if result.value is None else []
    assert len(reasons) >= 3
    assert any("too much like its surroundings'" in str(reason) for reason in reasons)


def test_no_frames_no_masks() -> None:
    with pytest.raises(UnavailableError, match="the clip has no frames"):
        find_masks("flow", np.zeros((0, 64, 64, 3), np.uint8))


def test_boxes_and_points_are_checked() -> None:
    frames = disc(2, 0.0)
    with pytest.raises(ValueError, match=r"box: expected 0 <= x0 < x1 <= 96"):
        find_masks("flow", frames, box=(10, 10, 97, 20))
    with pytest.raises(ValueError, match="box: expected"):
        find_masks("flow", frames, box=(20, 10, 20, 30))
    with pytest.raises(UnavailableError, match="too little of the first frame outside"):
        find_masks("flow", frames, box=(0, 0, 96, 96))
    with pytest.raises(ValueError, match="point: the provider flow takes none"):
        find_masks("flow", frames, point=(5, 5))
    with pytest.raises(ValueError, match="box: the provider color takes none"):
        find_masks("color", frames, box=(10, 10, 20, 20))
    with pytest.raises(ValueError, match="'sam3'"):
        find_masks("sam3", frames)


@pytest.mark.parametrize("source", [MaskSource.TRUTH, MaskSource.COLOR])
def test_providers_that_need_the_truth_say_so(source) -> None:
    with pytest.raises(UnavailableError, match=f"masks by {source} need the truth"):
        find_masks(source, disc(2, 0.0))
