"""What a clip's pixels say about its orbit: direction, swept angle, steadiness, centring, closure of the loop.

Corners are followed (`tracks`), a camera that only turns is ruled out (`parallax`), and a circle about the
subject is fitted both ways round (`adjustment`); the direction is that of the better fit. Nothing is learned,
and the focal length is estimated along. How well it does on rendered and on real clips is in docs/DATA_RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from musubi_ext.errors import UserError
from musubi_ext.orbits.geometry.adjustment import NOISE, Adjustment
from musubi_ext.orbits.geometry.parallax import parallax
from musubi_ext.orbits.geometry.tracks import follow
from musubi_ext.orbits.geometry.turntable import Circle, Doubles
from musubi_ext.video import Frames

KEYS = 17  # frames that the circle is fitted to
FEWEST_FRAMES = 5
FEWEST_TRACKS, MOST_TRACKS = 12, 140
SIGHTINGS = 3  # key frames that a track must be seen in: two say nothing about a circle
STILL = 0.03  # widths: a clip of which four fifths of the corners wander less stands still
HALF_STILL = 0.01  # widths: likewise for half of them
PARALLAX = 0.18  # share of the motion, below which the camera turned on the spot
TURNING = 5.0  # degrees; less has no direction
MARGIN = 0.02  # of the cost: below, either way round fits as well
PLENTY = 40  # tracks, from which on their number no longer limits the confidence
NEAR = 0.4  # distances to the subject: the radius of what counts as the subject
CLOSE = 3.0  # standard deviations: tracks that miss the fit by more are not of the subject
FEW = "too few corners on the subject"
LOOP = 300.0  # degrees, from which on the last frame should look like the first


@dataclass(frozen=True)
class OrbitGeometry:
    """Measured on a clip; a value that could not be measured is None and its reason is in `unavailable`.

    `direction`: +1 the camera moves to its left ("right to left"), −1 to its right, 0 no orbit or unsure.
    `swept_angle`: degrees, at least 0; 0 when the camera stands still or turns on the spot.
    `steadiness`: standard deviation over mean of the angular speed; 0 is perfectly steady.
    `centring`, `centring_spread`: mean distance of the subject from the picture's middle and the standard deviation of
    its place, both horizontal and in picture widths.
    `loop_closure`: correlation of first and last frame, −1 to 1, for sweeps of 300° and more.
    `confidence`: 0 to 1, of direction and swept angle; it orders clips by trust and is no probability.
    `key_frames`, `angles`: the frames that a circle was fitted to and the degrees swept until each, signed like
    `direction`; empty where none was fitted.
    """

    direction: int
    swept_angle: float | None
    steadiness: float | None
    centring: float | None
    centring_spread: float | None
    loop_closure: float | None
    confidence: float
    unavailable: Mapping[str, str] = field(default_factory=dict)
    key_frames: tuple[int, ...] = ()
    angles: tuple[float, ...] = ()


def estimate_orbit(frames: Frames) -> OrbitGeometry:
    """Measure uint8 RGB frames (F, H, W, 3); the same frames give the same figures.

    Raises UserError for arrays of another shape or type.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise UserError(
            f"frames: expected uint8 (F, H, W, 3), found {frames.dtype} {frames.shape} (decode to RGB first)"
        )
    if len(frames) < FEWEST_FRAMES:
        return _unknown(f"{len(frames)} frames, expected {FEWEST_FRAMES} or more")
    keys = np.unique(np.linspace(0, len(frames) - 1, KEYS).round().astype(np.int64))
    tracks = follow(frames)
    width, height = tracks.size
    xy = _longest((tracks.xy[:, keys] - np.array([width, height]) / 2) / width)
    if len(xy) < FEWEST_TRACKS:
        return _unknown(f"{len(xy)} corners could be followed, expected {FEWEST_TRACKS} or more")
    most, half = _wandering(xy)
    if most < STILL:
        return _no_orbit("the picture stands still", 1 - most / STILL)
    if half < HALF_STILL:
        return _no_orbit("the camera stands still while something moves", 1 - half / HALF_STILL)
    with threadpool_limits(1, user_api="blas"):  # many small systems: more threads change bits and only cost time
        return _fitted(Adjustment(xy, NOISE / width), xy, keys, frames)


def _fitted(adjustment: Adjustment, xy: Doubles, keys: NDArray[np.int64], frames: Frames) -> OrbitGeometry:
    circle, other = sorted((adjustment.best(+1), adjustment.best(-1)), key=lambda found: found.cost)
    longer = xy[: max(FEWEST_TRACKS, len(xy) // 2)]
    try:
        share = parallax(longer, float(np.exp(circle.lens[1])))
    except ValueError as error:
        return _unknown(str(error))
    if share < PARALLAX:
        return _no_orbit("the camera turns on the spot: no parallax", 1 - share / PARALLAX)
    margin = 1 - circle.cost / other.cost
    if margin < MARGIN:
        return _unknown("both directions explain the motion equally well")
    return _measured(adjustment, circle, keys, frames, _confidence(adjustment, circle, margin))


def _measured(
    adjustment: Adjustment, circle: Circle, keys: NDArray[np.int64], frames: Frames, confidence: float
) -> OrbitGeometry:
    swept = float(abs(circle.angle[-1]))
    turning = swept >= TURNING
    places = _places(adjustment, circle)
    enough = len(places) >= len(keys) / 2
    closed = swept >= LOOP
    missing = {
        "steadiness": "" if turning else f"the camera sweeps {swept:.1f}°, less than {TURNING:.0f}°",
        "centring": "" if enough else FEW,
        "centring_spread": "" if enough else FEW,
        "loop_closure": "" if closed else f"the camera sweeps {swept:.0f}°, less than a round",
    }
    return OrbitGeometry(
        direction=int(np.sign(circle.angle[-1])) if turning else 0,
        swept_angle=swept,
        steadiness=_steadiness(circle, keys) if turning else None,
        centring=float(np.mean(np.abs(places))) if enough else None,
        centring_spread=float(np.std(places)) if enough else None,
        loop_closure=_closure(frames) if closed else None,
        confidence=confidence,
        unavailable={name: reason for name, reason in missing.items() if reason},
        key_frames=tuple(keys.tolist()),
        angles=tuple(circle.angle.tolist()),
    )


def _longest(xy: Doubles) -> Doubles:
    """The tracks seen in most key frames, at most 140 of those seen in three or more."""
    sightings = (~np.isnan(xy[..., 0])).sum(axis=1)
    order = np.argsort(-sightings, kind="stable")
    return np.asarray(xy[order[sightings[order] >= SIGHTINGS][:MOST_TRACKS]])


def _wandering(xy: Doubles) -> tuple[float, float]:
    """How far, in widths, corners get in the whole clip at the pace of their own sighting: 80th percentile, median."""
    seen = ~np.isnan(xy[..., 0])
    first, last = seen.argmax(axis=1), xy.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)
    rows = np.arange(len(xy))
    pace = np.linalg.norm(xy[rows, last] - xy[rows, first], axis=1) / (last - first)
    most, half = np.percentile(pace, [80, 50]) * (xy.shape[1] - 1)
    return float(most), float(half)


def _steadiness(circle: Circle, keys: NDArray[np.int64]) -> float:
    speed = np.diff(circle.angle) / np.diff(keys)
    return float(np.std(speed) / abs(np.mean(speed)))


def _places(adjustment: Adjustment, circle: Circle) -> list[float]:
    """The subject's horizontal place in widths from the middle, in each key frame that shows three corners of it."""
    reach = np.linalg.norm(circle.points[:, [0, 2]], axis=1)
    fits = np.nanmedian(adjustment.residual(circle), axis=1) < CLOSE
    rows = np.where(adjustment.seen, adjustment.xy[..., 0], np.nan)[(reach < NEAR) & fits].T
    return [float(np.percentile(row[~np.isnan(row)], [10, 90]).mean()) for row in rows if (~np.isnan(row)).sum() >= 3]


def _closure(frames: Frames) -> float:
    """Correlation of the first and the last frame's brightness at 32 columns."""
    size = (32, max(2, round(32 * frames.shape[1] / frames.shape[2])))
    first, last = (cv2.resize(frames[i].mean(-1), size, interpolation=cv2.INTER_AREA).ravel() for i in (0, -1))
    first, last = first - first.mean(), last - last.mean()
    return float(first @ last / max(np.linalg.norm(first) * np.linalg.norm(last), 1e-9))


def _confidence(adjustment: Adjustment, circle: Circle, margin: float) -> float:
    """How much better than the other way round it fits, by how many tracks, how closely."""
    misfit = float(np.nanmedian(adjustment.residual(circle)))
    return float(min(1.0, margin / 0.5) * min(1.0, len(adjustment.xy) / PLENTY) / (1 + (misfit / 2) ** 2))


def _unknown(reason: str) -> OrbitGeometry:
    names = ("direction", "swept_angle", "steadiness", "centring", "centring_spread", "loop_closure")
    return OrbitGeometry(0, None, None, None, None, None, 0.0, dict.fromkeys(names, reason))


def _no_orbit(reason: str, confidence: float) -> OrbitGeometry:
    names = ("steadiness", "centring", "centring_spread", "loop_closure")
    return OrbitGeometry(0, 0.0, None, None, None, None, float(confidence), dict.fromkeys(names, reason))
