"""Orbit metrics without truth: rendered orbits, what is none, and the closed forms of the angular jerk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musubi_ext.evaluation.asked import Asked
from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.evaluation.metrics.orbit_quality import angular_jerk
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.orbits.geometry.orbit import estimate_orbit
from musubi_ext.orbits.render import Clip as Rendered
from musubi_ext.orbits.render import render

NAMES = [name for name in METRICS if name.startswith("orbit_")]


@pytest.fixture(scope="module")
def orbit() -> Rendered:
    return render(42, "orbit", -1, size=(96, 96), frames=21, look="textured")


def value(name: str, clip: Clip) -> float:
    return METRICS[name].compute(clip).value


def test_a_rendered_orbit_is_described(orbit: Rendered) -> None:
    clip = Clip(orbit.frames, caption=orbit.caption)
    assert value("orbit_direction", clip) == orbit.direction == -1
    assert value("orbit_swept_angle", clip) == pytest.approx(90, abs=15)
    assert value("orbit_steadiness", clip) < 0.1
    assert value("orbit_angular_jerk", clip) < 0.2
    assert value("orbit_direction_correct", clip) == 1
    with pytest.raises(UnavailableError, match="less than a round"):
        value("orbit_loop_closure", clip)


def test_an_uneven_pace_has_more_jerk(orbit: Rendered) -> None:
    uneven = np.array([0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 19, 20])
    steady = np.array([0, 2, 4, 6, 8, 9, 10, 11, 12, 14, 16, 18, 20])
    jerk = [value("orbit_angular_jerk", Clip(orbit.frames[chosen])) for chosen in (steady, uneven)]
    assert jerk[1] > 1.3 * jerk[0]


def test_the_wrong_way_and_no_way_are_not_correct(orbit: Rendered) -> None:
    caption = "camera circles right to left"
    assert value("orbit_direction_correct", Clip(orbit.frames, caption=caption)) == 0
    assert value("orbit_direction_correct", Clip(orbit.frames[:1].repeat(9, 0), caption=caption)) == 0
    assert value("orbit_direction_correct", Clip(orbit.frames[:, :, ::-1], caption=caption)) == 1


def test_what_was_asked_for_counts_before_the_caption(orbit: Rendered) -> None:
    asked = Asked(direction=-1)
    assert value("orbit_direction_correct", Clip(orbit.frames, asked=asked, caption="circle right->left")) == 1
    assert value("orbit_direction_correct", Clip(orbit.frames, asked=Asked(), caption="circle right->left")) == 0


def test_a_direction_is_neither_guessed_nor_assumed(orbit: Rendered) -> None:
    with pytest.raises(UnavailableError, match="neither the request nor the caption"):
        value("orbit_direction_correct", Clip(orbit.frames, caption="a cat"))
    noise = np.random.default_rng(0).integers(0, 256, orbit.frames.shape, dtype=np.uint8)
    for name in NAMES:
        with pytest.raises(UnavailableError):
            value(name, Clip(noise, caption=orbit.caption))
        with pytest.raises(UnavailableError):
            value(name, Clip(orbit.frames[:2], caption=orbit.caption))


def test_still_clips_have_no_direction_and_no_angle(orbit: Rendered) -> None:
    clip = Clip(orbit.frames[:1].repeat(12, 0))
    assert value("orbit_direction", clip) == value("orbit_swept_angle", clip) == 0
    for name in ("orbit_steadiness", "orbit_angular_jerk", "orbit_loop_closure"):
        with pytest.raises(UnavailableError, match="stands still"):
            value(name, clip)


def test_the_estimate_tells_its_angles(orbit: Rendered) -> None:
    found = estimate_orbit(orbit.frames)
    assert len(found.angles) == len(found.key_frames) == 17
    assert (found.key_frames[0], found.key_frames[-1], found.angles[0]) == (0, 20, 0)
    assert abs(found.angles[-1]) == found.swept_angle
    np.testing.assert_allclose(found.angles, orbit.azimuth[list(found.key_frames)], atol=12)
    assert estimate_orbit(orbit.frames[:2]).angles == ()


def test_the_estimate_is_made_once(orbit: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    from musubi_ext.evaluation.metrics import orbit_quality

    calls = []
    monkeypatch.setattr(orbit_quality, "estimate_orbit", lambda frames: calls.append(1) or estimate_orbit(frames))
    clip = Clip(orbit.frames, caption=orbit.caption)
    for name in ("orbit_direction", "orbit_swept_angle", "orbit_direction_correct"):
        METRICS[name].compute(clip)
    assert len(calls) == 1


@given(st.floats(-5, 5), st.floats(-0.2, 0.2), st.lists(st.integers(1, 5), min_size=4, max_size=17))
def test_constant_speed_and_constant_gain_have_no_jerk(speed: float, gain: float, gaps: list[int]) -> None:
    time = np.concatenate([[0], np.cumsum(gaps)])
    angle = speed * time + gain * time**2
    if abs(angle[-1]) > 0.1:
        assert angular_jerk(time.tolist(), angle.tolist()) < 1e-6 * (1 + abs(gain) * time[-1] ** 3 / abs(angle[-1]))


def test_jerk_in_closed_form() -> None:
    time = np.arange(9)
    assert angular_jerk(time, (time**3).tolist()) == pytest.approx(6 / 64)  # ω'' = 6, mean ω = 8³/8
    alternating = np.concatenate([[0], np.cumsum([1.0, 3.0] * 4)])
    assert angular_jerk(time, alternating.tolist()) == pytest.approx(4 / 2)
    assert angular_jerk(time, (-5 * alternating).tolist()) == pytest.approx(4 / 2)  # whatever the way and the angle
    assert angular_jerk((3 * time).tolist(), alternating.tolist()) == pytest.approx(4 / 2)  # and the duration
    with pytest.raises(ValueError, match="key frames"):
        angular_jerk([0, 1, 2], [0, 1, 2])
