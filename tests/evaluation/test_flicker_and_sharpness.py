"""Flicker counts change that is not steady, and nothing else; sharpness counts detail."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.evaluation.metrics.flicker import acceleration, brightening
from musubi_ext.evaluation.metrics.sharpness import laplacian_variance
from musubi_ext.evaluation.profile import Profile
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.stream import Pair
from musubi_ext.orbits.checks import measures
from musubi_ext.video import Frames

SIDE = 96
COUNT = 8


def picture() -> Frames:
    rng = np.random.default_rng(2)
    layers = [cv2.resize(rng.uniform(0, 255, (200 // s, 200 // s, 3)), (200, 200)) for s in (5, 20)]
    return np.clip(np.mean(layers, axis=0), 0, 255).astype(np.uint8)


def panned(places: np.ndarray) -> Frames:
    """The picture seen from `places` (F, 2), pixels right and down."""
    shifts = [np.array([[1.0, 0.0, -20 - x], [0.0, 1.0, -20 - y]]) for x, y in places]
    return np.stack([cv2.warpAffine(picture(), shift, (SIDE, SIDE), flags=cv2.INTER_CUBIC) for shift in shifts])


def steady(x: float, y: float) -> Frames:
    return panned(np.arange(COUNT)[:, None] * [x, y])


def with_light(frames: Frames, levels: list[float]) -> Frames:
    return np.clip(frames.astype(float) / 2 + 60 + np.array(levels)[:, None, None, None], 0, 255).astype(np.uint8)


def value(name: str, frames: Frames, profile: Profile = Profile.EXACT) -> float:
    return METRICS[name].compute(Clip(frames, profile=profile)).value


@pytest.mark.parametrize("profile", list(Profile))
def test_a_still_video_does_not_flicker(profile: Profile) -> None:
    frames = steady(0, 0)
    assert value("temporal_flicker", frames, profile) == pytest.approx(0, abs=1e-3)
    assert value("luminance_flicker", frames, profile) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("speed", [(2, 0), (0, -1.5), (3, 1)])
def test_a_steady_pan_does_not_flicker(speed: tuple[float, float]) -> None:
    """Up to what the flow does not know at the border."""
    frames = steady(*speed)
    assert value("motion_magnitude", frames) > 1
    assert value("temporal_flicker", frames) < 0.03
    assert value("luminance_flicker", frames) < 0.2


def test_an_object_that_moves_steadily_does_not_flicker_either() -> None:
    frames = steady(0, 0)
    subject = cv2.resize(picture()[50:90, 50:90], (40, 40))
    for index in range(COUNT):
        frames[index, 30:70, 20 + 2 * index : 60 + 2 * index] = subject
    shaken = frames.copy()
    shaken[1::2] = np.roll(frames[1::2], 2, axis=2)
    assert value("temporal_flicker", frames) < value("temporal_flicker", shaken) / 5


def test_shaking_is_counted_in_pixels() -> None:
    places = np.array([[2.0 * (index % 2), 0.0] for index in range(COUNT)])  # speeds +2, −2, +2: they change by 4
    assert value("temporal_flicker", panned(places)) == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("speed", [0.0, 2.0])
def test_alternating_light_is_counted_in_levels(speed: float, profile: Profile) -> None:
    frames = with_light(steady(speed, 0), [0, 6] * (COUNT // 2))
    assert value("luminance_flicker", frames, profile) == pytest.approx(12, abs=0.3)


def test_a_steady_fade_is_no_flicker() -> None:
    frames = with_light(steady(0, 0), [3.0 * index for index in range(COUNT)])
    assert value("luminance_flicker", frames) == pytest.approx(0, abs=0.05)


def test_acceleration_in_closed_form() -> None:
    before = np.full((20, 30, 2), 1.5, np.float32)
    assert acceleration(before, before, (30, 20)) == 0
    after = before + np.array([3, -4], np.float32)
    assert acceleration(before, after, (30, 20)) == pytest.approx(5)
    assert np.isnan(acceleration(before + 99, after, (30, 20)))
    assert acceleration(
        np.full((400, 380, 2), 2.0, np.float32), np.full((400, 380, 2), 3.0, np.float32), (380, 400)
    ) == (pytest.approx(np.sqrt(2)))


def test_acceleration_is_taken_along_the_path() -> None:
    """A field that is carried along by itself, f₂(x + f₁(x)) = f₁(x): every place keeps its speed."""
    columns = np.indices((40, 60), dtype=np.float32)[1]
    speed, slope = 2.0, 0.02
    before = np.stack([speed + slope * columns, 0 * columns], -1)
    after = np.stack([(speed + slope * columns) / (1 + slope), 0 * columns], -1)
    assert acceleration(before, after, (60, 40)) < 1e-2
    assert acceleration(before, before, (60, 40)) > 0.04


def test_brightening_on_a_coarser_flow() -> None:
    first = np.full((64, 64), 50, np.uint8)
    pair = Pair(first, first + 7, np.zeros((16, 16, 2), np.float32), None)
    assert brightening(pair) == 7


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(1, 6), st.integers(1, 40), st.integers(1, 40)), st.integers(0, 2))
def test_any_clip_gives_a_number_or_a_reason(shape: tuple[int, int, int], kind: int) -> None:
    frames = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    frames = frames[:1].repeat(shape[0], 0) if kind == 1 else frames * (kind > 0)
    for name in ("temporal_flicker", "luminance_flicker", "sharpness", "sharpness_ratio"):
        try:
            found = METRICS[name].compute(Clip(frames.astype(np.uint8))).value
        except UnavailableError:
            continue
        assert np.isfinite(found)
        assert found >= 0


def test_two_frames_are_too_few_to_flicker() -> None:
    for name in ("temporal_flicker", "luminance_flicker"):
        with pytest.raises(UnavailableError, match="three frames, the clip has 2"):
            value(name, steady(1, 0)[:2])


def test_sharpness_in_closed_form() -> None:
    board = (np.indices((8, 8)).sum(axis=0) % 2 * 100).astype(np.uint8)
    assert laplacian_variance(board) == pytest.approx(400.0**2)  # ±4 · 100 at every pixel, borders mirrored
    assert laplacian_variance(np.full((8, 8), 7, np.uint8)) == 0


def test_sharpness_is_the_data_checks_own() -> None:
    frames = steady(1, 1)
    gray = Clip(frames).gray
    assert value("sharpness", frames) == pytest.approx(measures.sharpness(gray), rel=0.05)
    assert value("sharpness", frames[:1]) == measures.sharpness(gray[:1])


def test_blur_that_accumulates_shows_in_the_ratio() -> None:
    frames = steady(0, 0)
    assert value("sharpness_ratio", frames) == 1
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 0.3 + 0.3 * index) for index, frame in enumerate(frames)])
    assert value("sharpness_ratio", blurred) < 0.3
    with pytest.raises(UnavailableError, match="no detail"):
        value("sharpness_ratio", np.full((5, 8, 8, 3), 3, np.uint8))
