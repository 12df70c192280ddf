"""The subject's wander over its ground, against the renderer's poses and against pictures moved by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from musubi_ext.evaluation.camera_motion import dominating_motion, stands_still
from musubi_ext.evaluation.flow import sample_indices
from musubi_ext.evaluation.ground_motion import ground_motion
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.metrics.subject_drift import drift
from musubi_ext.evaluation.result import Result, UnavailableError
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.evaluation.truth import Masks
from musubi_ext.evaluation.wander import wander
from musubi_ext.orbits.render import Clip, render
from musubi_ext.video import Frames

NAME = "subject_drift_compensated"


def compensated(clip: Clip) -> Result:
    return evaluate(clip.frames, masks=clip.mask, metrics=[NAME])[NAME]


def true_wander(clip: Clip) -> float:
    """Drift, in pixels, of the subject's centre against where it would be unmoved, under the true cameras."""
    corners = clip.boxes[0].reshape(-1, 3)
    centre = (corners.min(axis=0) + corners.max(axis=0)) / 2 - clip.subject[0]

    def seen(points: np.ndarray) -> np.ndarray:
        camera = np.einsum("fij,fj->fi", clip.pose[:, :3, :3], np.broadcast_to(points, (17, 3))) + clip.pose[:, :3, 3]
        pixels = camera @ clip.intrinsics.T
        return pixels[:, :2] / pixels[:, 2:]

    path = (seen(centre + clip.subject) - seen(centre + clip.subject[:1]))[sample_indices(17)]
    return float(np.sqrt((path.std(axis=0) ** 2).sum()))


def slid(offsets: list[tuple[int, int]], subject: list[tuple[int, int]]) -> tuple[Frames, Masks]:
    """A ground of soft blotches and a square on it, both 96 × 96, moved by these pixels (x, y) frame by frame."""
    wide = cv2.GaussianBlur(np.random.default_rng(5).normal(0, 1, (200, 200)), (0, 0), 2.5)
    wide = np.clip(128 + 40 * wide / wide.std(), 0, 255).astype(np.uint8)
    frames, masks = [], []
    for (x, y), (u, v) in zip(offsets, subject, strict=True):
        picture = np.repeat(wide[50 - y : 146 - y, 50 - x : 146 - x, None], 3, axis=2).copy()
        mask = np.zeros((96, 96), bool)
        mask[38 + v : 58 + v, 38 + u : 58 + u] = True
        picture[mask] = (220, 30, 30)
        frames.append(picture)
        masks.append(mask)
    return np.stack(frames), np.stack(masks)


def value_of(frames: Frames, masks: Masks) -> float:
    result = evaluate(frames, masks=masks, metrics=[NAME])[NAME]
    assert result.value is not None, result.unavailable
    return result.value


STEPS = [(t, t // 2) for t in range(16)]


def test_a_still_clip_has_none() -> None:
    frames, masks = slid([(0, 0)] * 16, [(0, 0)] * 16)
    assert value_of(frames, masks) == 0


def test_a_camera_that_moves_a_still_subject_leaves_none() -> None:
    frames, masks = slid(STEPS, STEPS)
    assert drift(masks) > 4
    assert value_of(frames, masks) < 0.15


def test_a_subject_that_slides_over_a_still_ground_keeps_its_raw_drift() -> None:
    frames, masks = slid([(0, 0)] * 16, STEPS)
    assert value_of(frames, masks) == pytest.approx(drift(masks), abs=1e-6)


def test_a_subject_that_stays_in_the_picture_while_its_ground_slides_drifts() -> None:
    frames, masks = slid(STEPS, [(0, 0)] * 16)
    assert drift(masks) == 0
    assert value_of(frames, masks) == pytest.approx(drift(slid(STEPS, STEPS)[1]), rel=0.05)


def test_wanderers_are_told_from_still_subjects_whatever_the_camera_does() -> None:
    truths, values = [], []
    for seed, domain in (
        (61, "orbit"),
        (62, "wild"),
        (63, "wild"),
        (64, "pan"),
        (65, "wild"),
        (66, "orbit"),
        (67, "pan"),
    ):
        clip = render(seed, domain, look="textured", size=(96, 96))
        result = compensated(clip)
        assert result.value is not None, result.unavailable
        truths.append(true_wander(clip))
        values.append(result.value)
        if domain == "pan":
            assert result.value < 0.3 * drift(clip.mask)
    assert np.corrcoef(truths, values)[0, 1] > 0.85
    assert np.median(np.abs(np.subtract(truths, values))) < 1.2  # pixels of 96


def test_the_ground_is_followed_as_the_true_camera_moves_it() -> None:
    clip = render(68, "orbit", look="textured", size=(128, 128))
    gray = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in clip.frames]

    def plane(frame: int) -> np.ndarray:
        columns = np.stack([clip.pose[frame, :3, 0], clip.pose[frame, :3, 1], clip.pose[frame, :3, 3]], axis=1)
        return np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]]) @ clip.intrinsics @ columns

    total, last = np.eye(3), None
    for t in range(16):
        step = ground_motion((gray[t], gray[t + 1]), (clip.mask[t], clip.mask[t + 1]), last)
        assert step is not None
        assert not step.doubt
        last, total = step.matrix, step.matrix @ total
    base = plane(0) @ [0, 0, 1]  # the ground under the subject
    found, true = total @ base, plane(16) @ [0, 0, 1]
    assert found[:2] / found[2] == pytest.approx(true[:2] / true[2], abs=0.5)


@pytest.mark.parametrize("domain", ["orbit", "wild", "pan"])
def test_without_texture_on_the_ground_it_is_unavailable(domain, spoil) -> None:
    clip = render(69, domain)
    for frames in (clip.frames, spoil(clip.frames, 1, 8)):
        reason = str(evaluate(frames, masks=clip.mask, metrics=[NAME])[NAME].unavailable)
        assert "the ground around the subject has too little texture" in reason


def test_a_plain_picture_that_stands_still_is_known_to() -> None:
    clip = render(70, "static")
    assert compensated(clip).value == 0
    gray = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in render(70, "pan").frames[:2]]
    assert stands_still(gray[0], gray[0], ~clip.mask[0])
    assert not stands_still(gray[0], gray[1], ~clip.mask[0])
    assert not stands_still(gray[0] * 0, gray[0] * 0, ~clip.mask[0])


def test_a_base_below_the_picture_is_unavailable() -> None:
    clip = render(71, look="textured")
    lowest = int(np.nonzero(clip.mask.any(axis=(0, 2)))[0].max())
    frames, masks = clip.frames[:, : lowest - 4], clip.mask[:, : lowest - 4]
    reason = evaluate(frames, masks=masks, metrics=[NAME])[NAME].unavailable
    assert str(reason).startswith("the subject's base is below the picture in ")


def test_coverage_and_length_rules_hold() -> None:
    clip = render(72, look="textured")
    masks = clip.mask.copy()
    masks[4:7] = False
    lost = evaluate(clip.frames, masks=masks, metrics=[NAME])[NAME]
    assert lost.unavailable == "the subject was found in 13 of 16 sampled frames, below 90%"
    masks = clip.mask.copy()
    masks[4] = False
    kept = evaluate(clip.frames, masks=masks, metrics=[NAME])[NAME]
    assert kept.frames == 15
    assert kept.value == pytest.approx(compensated(clip).value, abs=0.3)
    one = evaluate(clip.frames[:1], masks=clip.mask[:1], metrics=[NAME])[NAME]
    assert one.unavailable == "motion needs two frames, the clip has one"
    with pytest.raises(UnavailableError, match="found in no frame"):
        wander(clip.frames[..., 0], clip.mask & False, sample_indices(17))


def test_it_names_its_masks_and_repeats_itself() -> None:
    clip = render(73, "wild", look="textured")
    first, second = (evaluate(clip.frames, masks=MaskSource.FLOW, metrics=[NAME])[NAME] for _ in range(2))
    assert first == second
    assert (first.masks, first.coverage, first.unit) == ("flow", 1.0, "px")


def test_large_clips_are_measured_in_their_own_pixels() -> None:
    frames, masks = slid(STEPS, [(0, 0)] * 16)
    large = np.stack([cv2.resize(f, (384, 384), interpolation=cv2.INTER_CUBIC) for f in frames])
    where = masks.repeat(4, axis=1).repeat(4, axis=2)
    assert value_of(large, where) == pytest.approx(4 * value_of(frames, masks), rel=0.05)


def test_the_dominating_motion_is_the_backgrounds() -> None:
    frames, masks = slid([(0, 0), (3, 1)], [(0, 0), (-4, 0)])
    gray = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in frames]
    for model in ("similarity", "homography"):
        found = dominating_motion(gray[0], gray[1], ~masks[0], model)
        assert found is not None
        assert found.share > 0.8
        place = found.matrix @ [48, 48, 1]
        assert place[:2] / place[2] == pytest.approx([51, 49], abs=0.3)
    assert dominating_motion(gray[0] * 0, gray[1] * 0, ~masks[0]) is None
    assert dominating_motion(gray[0], gray[1], masks[0] & False) is None
