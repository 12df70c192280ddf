"""A camera on a circle about the subject: the projection, its derivatives and what is likely before a picture is seen.

Unknown are, per frame, the angle θ around the subject, where the circle's centre appears (p, q) and the distance e^ρ
to it; once, the camera's elevation φ and its focal length e^g; per track, a point X in space. With E(φ) the turn about
the camera's x axis and R(θ) the one about the vertical,

    P = E(φ) · R(θ) · X + (0, 0, e^ρ),   u = e^g · Px / Pz + p,   v = e^g · Py / Pz + q.

Picture lengths are in picture widths from the centre, lengths in space in distances from the first camera to the
circle's centre: no scale is left open. θ grows as the camera moves to its left, which captions call "right to left".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

PER_FRAME = 4  # θ, p, q, ρ
NEAREST = 0.05  # depth below which a point counts as that near

# Means and standard deviations; wide enough for phones, drones and the renderer's 50° lens.
ELEVATION, ELEVATION_STD = np.deg2rad(15.0), np.deg2rad(15.0)
FOCAL, FOCAL_STD = np.log(1.2), 0.3  # ln of widths: 45° across, one standard deviation is 34° to 59°
PLACE_STD = 0.08  # widths: the centre's place in the picture, over the whole clip
PLACE_STEP = 0.006  # widths between key frames
DISTANCE_STEP = 0.03  # ρ between key frames
PACE_STEP = np.deg2rad(1.5)  # change of θ's step between key frames
POINT_STD = 1.5
FIXED = 1e-4  # standard deviation of what defines the origin: θ and ρ of the first frame


@dataclass(frozen=True)
class Circle:
    """`frames` (K, 4): θ in radians, p, q in widths, ρ; `lens` (2,): φ in radians, g; `points` X (N, 3)."""

    frames: Doubles
    lens: Doubles
    points: Doubles
    cost: float = np.inf

    @property
    def angle(self) -> Doubles:
        """Degrees (K,) swept since the first frame, + = "right to left"."""
        return np.asarray(np.rad2deg(self.frames[:, 0] - self.frames[0, 0]))

    @property
    def state(self) -> Doubles:
        """Frames, then lens: the unknowns (4 K + 2,) that are not points."""
        return np.concatenate([self.frames.ravel(), self.lens])


@dataclass(frozen=True)
class View:
    """Points in each frame: directions P − (0, 0, e^ρ) and pictures' e^g · P / Pz, both of (N, K, …); depth (N, K)."""

    turn: Doubles  # (K, 3, 3)
    turned: Doubles  # (N, K, 3)
    picture: Doubles  # (N, K, 2), without p and q
    depth: Doubles


def view(circle: Circle) -> View:
    """Project the points of `circle` into all its frames."""
    turn = turns(circle)
    turned = np.einsum("kij,nj->nki", turn, circle.points)
    depth = np.maximum(turned[..., 2] + np.exp(circle.frames[:, 3]), NEAREST)
    return View(turn, turned, np.exp(circle.lens[1]) * turned[..., :2] / depth[..., None], depth)


def derivatives(circle: Circle, seen: View) -> tuple[Doubles, Doubles]:
    """Of the picture (u, v): by the point (N, K, 2, 3), and by θ, p, q, ρ, φ, g (N, K, 2, 6)."""
    scale = 1 / seen.depth[..., None]

    def by(moved: Doubles) -> Doubles:
        """The picture's derivative where P's is `moved` (…, 3)."""
        return np.asarray((np.exp(circle.lens[1]) * moved[..., :2] - seen.picture * moved[..., 2:]) * scale)

    shape = seen.turned.shape
    by_point = np.stack([by(np.broadcast_to(seen.turn[None, :, :, axis], shape)) for axis in range(3)], -1)
    by_state = np.zeros((*seen.picture.shape, PER_FRAME + 2))
    by_state[..., 0] = by(np.einsum("kij,nj->nki", turns(circle, by_angle=True), circle.points))
    by_state[..., 0, 1] = by_state[..., 1, 2] = 1
    by_state[..., 3] = -seen.picture * scale * np.exp(circle.frames[:, 3])[None, :, None]
    by_state[..., 4] = by(np.stack([0 * seen.depth, -seen.turned[..., 2], seen.turned[..., 1]], -1))
    by_state[..., 5] = seen.picture
    return by_point, by_state


def turns(circle: Circle, *, by_angle: bool = False) -> Doubles:
    """E(φ) · R(θ) of each frame (K, 3, 3), or its derivative by θ."""
    cos, sin = np.cos(circle.frames[:, 0]), np.sin(circle.frames[:, 0])
    zero, one = 0 * cos, 0 * cos + 1
    if by_angle:
        cos, sin, one = -sin, cos, zero
    around = np.stack([cos, zero, -sin, zero, one, zero, sin, zero, cos], -1).reshape(-1, 3, 3)
    c, s = np.cos(circle.lens[0]), np.sin(circle.lens[0])
    return np.asarray(np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ around)


def steady(frames: int, points: int, sweep: float) -> Circle:
    """A circle at constant speed over `sweep` degrees with everything else as expected, points at the centre."""
    path = np.zeros((frames, PER_FRAME))
    path[:, 0] = np.deg2rad(sweep) * np.linspace(0, 1, frames)
    return Circle(path, np.array([ELEVATION, FOCAL]), np.zeros((points, 3)))


def prior(frames: int) -> tuple[Doubles, Doubles]:
    """Matrix and right-hand side of A · state = b; each row's error is in standard deviations."""
    entries: list[tuple[dict[int, float], float, float]] = [({0: 1.0}, FIXED, 0.0), ({3: 1.0}, FIXED, 0.0)]
    elevation = frames * PER_FRAME
    entries += [({elevation: 1.0}, ELEVATION_STD, ELEVATION), ({elevation + 1: 1.0}, FOCAL_STD, float(FOCAL))]
    for here in range(0, frames * PER_FRAME, PER_FRAME):
        # one weak wish per frame: together they weigh as one
        entries += [({here + place: 1.0}, PLACE_STD * float(np.sqrt(frames)), 0.0) for place in (1, 2)]
        before, earlier = here - PER_FRAME, here - 2 * PER_FRAME
        if before >= 0:
            steps = ((1, PLACE_STEP), (2, PLACE_STEP), (3, DISTANCE_STEP))
            entries += [({here + slot: 1.0, before + slot: -1.0}, std, 0.0) for slot, std in steps]
        if earlier >= 0:
            entries.append(({here: 1.0, before: -2.0, earlier: 1.0}, float(PACE_STEP), 0.0))
    matrix = np.zeros((len(entries), frames * PER_FRAME + 2))
    for row, (factors, std, _) in enumerate(entries):
        for index, factor in factors.items():
            matrix[row, index] = factor / std
    return matrix, np.array([value / std for _, std, value in entries])
