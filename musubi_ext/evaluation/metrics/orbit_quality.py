"""How well the camera circles: direction, angle, evenness, closure, from the clip's pixels alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musubi_ext.evaluation.asked import caption_asks
from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.per_clip import once
from musubi_ext.evaluation.result import Reading, UnavailableError
from musubi_ext.orbits.geometry.orbit import OrbitGeometry, estimate_orbit

SOURCE = "a circle fitted to followed corners (orbits.geometry)"
FEWEST_SPEEDS = 3


@once
def _orbit(clip: Clip) -> OrbitGeometry:
    return estimate_orbit(clip.frames)


def _value(clip: Clip, name: str) -> Reading:
    """A value of the estimate, or the reason why it has none."""
    orbit = _orbit(clip)
    if name in orbit.unavailable:
        raise UnavailableError(orbit.unavailable[name])
    return Reading(float(getattr(orbit, name)), len(orbit.key_frames) or clip.shape[0])


def angular_jerk(frames: Sequence[int], angles: Sequence[float]) -> float:
    """√mean((ω₍k+1₎ − 2 ω₍k₎ + ω₍k−1₎)²) / |mean ω| of the angular speed ω between key frames; 0 for steady gain too.

    ω₍k₎ = (θ₍k+1₎ − θ₍k₎) / (t₍k+1₎ − t₍k₎) stands halfway between two key frames t; where these are not evenly spaced,
    second differences are divided ones times the square of the mean spacing. Jerk is the third derivative of the
    angle; it is told without units (N. Hogan, D. Sternad, 2009), so that neither duration nor angle changes it. Raises
    ValueError for fewer than four key frames or a path that leads nowhere.
    """
    time, angle = np.asarray(frames, np.float64), np.asarray(angles, np.float64)
    if len(time) < FEWEST_SPEEDS + 1 or angle[-1] == angle[0]:
        raise ValueError(f"{len(time)} key frames over {angle[-1] - angle[0] if len(time) else 0:.1f}°")
    speed = np.diff(angle) / np.diff(time)
    middle = (time[1:] + time[:-1]) / 2
    slope = np.diff(speed) / np.diff(middle)
    spacing = (time[-1] - time[0]) / (len(time) - 1)
    bend = 2 * np.diff(slope) / (middle[2:] - middle[:-2]) * spacing**2
    return float(np.sqrt(np.mean(bend**2)) / abs((angle[-1] - angle[0]) / (time[-1] - time[0])))


@metric("orbit_direction", unit="sign", better=Better.REPORT, range=(-1, 1), source=SOURCE, backend=OPENCV)
def orbit_direction(clip: Clip) -> Reading:
    """+1 the caption's "right to left", −1 "left to right", 0 no orbit; unavailable when unsure."""
    return _value(clip, "direction")


@metric("orbit_swept_angle", unit="deg", better=Better.REPORT, range=(0, None), source=SOURCE, backend=OPENCV)
def orbit_swept_angle(clip: Clip) -> Reading:
    """Degrees that the camera goes round, without sign; 0 when it stands still or turns on the spot."""
    return _value(clip, "swept_angle")


@metric(
    "orbit_angular_jerk",
    unit="1",
    better=Better.LOWER,
    range=(0, None),
    source=f"second difference of the angular speed over its mean; {SOURCE}",
    backend=OPENCV,
)
def orbit_angular_jerk(clip: Clip) -> Reading:
    """`angular_jerk` at the key frames; the fit prefers even turning, so small trembling does not show."""
    orbit = _orbit(clip)
    if "steadiness" in orbit.unavailable:
        raise UnavailableError(orbit.unavailable["steadiness"])
    return Reading(angular_jerk(orbit.key_frames, orbit.angles), len(orbit.key_frames))


@metric("orbit_steadiness", unit="1", better=Better.LOWER, range=(0, None), source=SOURCE, backend=OPENCV)
def orbit_steadiness(clip: Clip) -> Reading:
    """Standard deviation over mean of the angular speed; 0 is perfectly steady."""
    return _value(clip, "steadiness")


@metric("orbit_loop_closure", unit="1", better=Better.HIGHER, range=(-1, 1), source=SOURCE, backend=OPENCV)
def orbit_loop_closure(clip: Clip) -> Reading:
    """Correlation of the first and the last frame of a whole round; unavailable below 300°."""
    return _value(clip, "loop_closure")


@metric(
    "orbit_direction_correct",
    unit="0/1",
    better=Better.HIGHER,
    range=(0, 1),
    source=f"1 when the direction is the one asked for, else 0; {SOURCE}",
    backend=OPENCV,
)
def orbit_direction_correct(clip: Clip) -> Reading:
    """Against the direction asked for, else the caption's. A clip that does not turn is not correct."""
    try:
        asked = clip.asked.direction
    except UnavailableError:
        asked = None
    asked = asked or caption_asks(clip.caption).direction
    if asked is None:
        raise UnavailableError("neither the request nor the caption names a direction to circle in")
    found = _value(clip, "direction")
    return Reading(float(found.value == asked), found.frames)
