"""Identity invariants of the metrics, on pictures whose answer is known by arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.evaluation.metrics.dynamic_degree import changing_fraction
from musubi_ext.evaluation.metrics.mask_iou import iou
from musubi_ext.evaluation.metrics.motion_ratio import first_to_last_change
from musubi_ext.evaluation.metrics.psnr import psnr
from musubi_ext.evaluation.metrics.registry import metric
from musubi_ext.evaluation.metrics.ssim import ssim
from musubi_ext.evaluation.metrics.subject_drift import drift
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.evaluation.truth import Masks

GRAY = arrays.arrays(np.uint8, st.tuples(st.integers(8, 20), st.integers(8, 20)))


def disc(dx: float, dy: float, count: int = 16, size: int = 160, radius: float = 9.0) -> Masks:
    """A disc that moves (dx, dy) pixels per frame."""
    y, x = np.mgrid[:size, :size]
    centres = [(30 + dx * i, 30 + dy * i) for i in range(count)]
    return np.stack([(x - cx) ** 2 + (y - cy) ** 2 <= radius**2 for cx, cy in centres])


@settings(deadline=None, max_examples=30)
@given(GRAY)
def test_ssim_of_an_image_with_itself_is_one(image: np.ndarray) -> None:
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-12)


def test_drift_of_a_still_disc_is_zero() -> None:
    assert drift(disc(0, 0)) == 0


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 2), (5, 0), (3, 4)])
def test_drift_of_a_moving_disc(dx: float, dy: float) -> None:
    """The population deviation of 0..15 is sqrt((16² − 1) / 12) = 4.609772."""
    assert drift(disc(dx, dy)) == pytest.approx(4.609772228646444 * np.hypot(dx, dy), rel=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 255), st.integers(1, 40))
def test_psnr_of_a_constant_shift(level: int, shift: int) -> None:
    a = np.full((4, 5, 3), level, np.uint8)
    b = np.clip(a.astype(int) + shift, 0, 255).astype(np.uint8)
    actual = int(b[0, 0, 0]) - level
    if actual == 0:
        with pytest.raises(UnavailableError, match="identical frames: PSNR is infinite"):
            psnr(a, b)
    else:
        assert psnr(a, b) == pytest.approx(20 * np.log10(255 / actual))
        assert psnr(a, b) == psnr(b, a)


@pytest.mark.parametrize(("border", "flow"), [(8, 0.0), (0, 2.5e-3)])
def test_a_static_video_does_not_move(border: int, flow: float) -> None:
    """Exactly 0 inside a dark border; OpenCV's border artefact, which the published values contain, stays tiny."""
    frame = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    frame[:, 48 - border :] = 0
    frame[48 - border :] = 0
    masks = np.zeros((17, 48, 48), bool)
    masks[:, 10:20, 10:20] = True
    results = evaluate(np.repeat(frame[None], 17, axis=0), masks=masks)
    for name in ("motion_magnitude", "global_flow", "subject_flow"):
        assert results[name].value <= flow, name
    assert results["dynamic_degree"].value == 0
    assert results["subject_drift"].value == 0
    assert results["ssim_first_last"].value == pytest.approx(1)
    assert results["psnr_first_last"].unavailable == "identical frames: PSNR is infinite"


def test_flow_measures_a_shift_inside_the_mask() -> None:
    rng = np.random.default_rng(1)
    noise = np.repeat(np.repeat(rng.integers(0, 256, (40, 40)), 4, 0), 4, 1).astype(np.uint8)
    frames = np.stack([np.roll(noise, i, axis=1)[:96, :96] for i in range(16)])[..., None].repeat(3, axis=-1)
    masks = np.zeros(frames.shape[:3], bool)
    masks[:, 30:60, 30:60] = True
    assert evaluate(frames, metrics=["subject_flow"], masks=masks)["subject_flow"].value == pytest.approx(1, rel=0.1)


def test_dynamic_degree_is_strictly_above_ten_levels() -> None:
    gray = np.zeros((2, 2, 2), np.uint8)
    gray[1] = [[10, 11], [0, 255]]
    assert changing_fraction(gray) == 0.5


def test_motion_ratio_and_iou_by_hand() -> None:
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[-1] = 8
    assert first_to_last_change(frames) == 8
    a, b = np.array([[1, 1, 0]], bool), np.array([[0, 1, 1]], bool)
    assert iou(a, b) == pytest.approx(1 / 3)
    assert iou(a, a) == 1
    assert iou(~a & a, b & ~b) == 1


def test_every_metric_says_what_it_is() -> None:
    expected = {
        "subject_drift", "subject_flow", "global_flow", "motion_magnitude", "dynamic_degree", "psnr", "ssim",
        "psnr_first_last", "ssim_first_last", "mask_iou", "motion_ratio", "swept_angle", "swept_angle_error",
        "direction", "direction_correct", "direction_subject", "direction_subject_correct",
    }  # fmt: skip
    assert expected <= set(METRICS)
    assert all(m.unit and m.source and m.backend and m.better.value for m in METRICS.values())
    assert METRICS["subject_drift"].better == "lower"
    assert METRICS["motion_ratio"].better == "report"
    with pytest.raises(ValueError, match="registered twice"):
        metric("psnr", unit="dB", better=METRICS["psnr"].better, range=(0, None), source="")(METRICS["psnr"].compute)
