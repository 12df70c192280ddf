"""The flow in two steps is OpenCV's flow, for every size and number of threads."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from musubi_ext.evaluation.farneback import expand, flow, is_exact
from musubi_ext.evaluation.flow import FARNEBACK, consecutive_flows, dense_flow
from musubi_ext.evaluation.suite import evaluate

needs_exact = pytest.mark.skipif(not is_exact(), reason=f"OpenCV {cv2.__version__} rounds places: its own flow is used")


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Gray noise of several scales, (H, W)."""
    rng = np.random.default_rng(seed)
    scales = [cv2.resize(rng.random((8 * s, 8 * s)), (width, height)) / s for s in (1, 2, 4)]
    return np.clip(np.sum(scales, 0) * 110, 0, 255).astype(np.uint8)


def reference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.calcOpticalFlowFarneback(first, second, None, *FARNEBACK))


@needs_exact
@settings(deadline=None, max_examples=25)
@given(st.integers(10, 150), st.integers(10, 150), st.integers(-5, 5), st.integers(-5, 5), st.integers(0, 9))
def test_flow_is_opencvs(height: int, width: int, dx: int, dy: int, seed: int) -> None:
    assume((dx, dy) != (0, 0))  # where nothing moves, the border hangs on the signs of rounding errors
    wide = picture(seed, height + 10, width + 10)
    first, second = wide[5:-5, 5:-5].copy(), wide[5 + dy : 5 + dy + height, 5 + dx : 5 + dx + width].copy()
    ours, theirs = np.moveaxis(flow(expand(first), expand(second)), 0, -1), reference(first, second)
    speed = np.linalg.norm(theirs, axis=-1).mean()
    assert np.abs(ours - theirs).mean() <= 1e-4 * max(speed, 0.5)
    assert np.linalg.norm(ours, axis=-1).mean() == pytest.approx(speed, rel=1e-4, abs=1e-4)


def test_threads_change_nothing_and_order_is_kept() -> None:
    grays = [np.roll(picture(0, 70, 90), shift, axis=1) for shift in (0, 1, 3, 6, 10, 15)]
    one, two = (list(consecutive_flows(iter(grays), threads)) for threads in (1, 3))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert [round(float(np.median(found[20:-20, 30:-30, 0]))) for found in one] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("shape", [(7, 9), (64, 64)])
def test_tiny_and_identical_frames_are_opencvs_to_the_bit(shape: tuple[int, int]) -> None:
    first = picture(1, *shape)
    assert np.array_equal(dense_flow(first, first), reference(first, first))
    if min(shape) < 10:
        assert np.array_equal(dense_flow(first, picture(2, *shape)), reference(first, picture(2, *shape)))


def test_one_pass_and_single_pairs_agree() -> None:
    frames = np.stack([np.roll(picture(3, 64, 80), i, axis=0) for i in range(20)])[..., None].repeat(3, -1)
    grays = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in frames]
    speeds = [float(np.hypot(*np.moveaxis(reference(a, b), -1, 0)).mean()) for a, b in zip(grays, grays[1:])]  # noqa: B905, RUF007
    found = evaluate(frames, metrics=["motion_magnitude", "global_flow"])
    assert found["motion_magnitude"].value == pytest.approx(np.mean(speeds), rel=1e-4)
    fast = evaluate(frames, metrics=["motion_magnitude"], profile="fast")["motion_magnitude"]
    assert "1/1 size" in fast.backend  # 64 pixels cannot be reduced
    assert fast.value == pytest.approx(np.mean(speeds), rel=0.2)


def test_the_fast_profile_says_so_and_measures_in_pixels_of_the_clip() -> None:
    frames = np.stack([np.roll(picture(4, 256, 256), 3 * i, axis=1) for i in range(17)])[..., None].repeat(3, -1)
    masks = np.zeros(frames.shape[:3], bool)
    masks[:, 90:150, 90:150] = True
    found = evaluate(
        frames, metrics=["motion_magnitude", "subject_flow", "ssim_first_last"], masks=masks, profile="fast"
    )
    assert found["motion_magnitude"].backend.endswith(", flow at 1/4 size")
    assert found["motion_magnitude"].value == pytest.approx(3, rel=0.2)
    assert found["subject_flow"].value == pytest.approx(48 / 15, rel=0.1)
