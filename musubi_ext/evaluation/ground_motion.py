"""How the ground under the subject moves in the picture, from frame to frame, by comparing its brightness.

Points of a plane move by a homography, whatever the camera does; the ground around the subject's base is at the
subject's depth, so it moves as a subject that stands still does. The homography is refined from the dominating motion
by Gauss-Newton steps on brightness (B. Lucas, T. Kanade, 1981; S. Baker, I. Matthews, "Lucas-Kanade 20 years on",
2004) with Geman and McClure's weights against what does not belong to the plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.camera_motion import Gray, Matrix, dominating_motion
from musubi_ext.evaluation.masks.regions import centroids

Flags = NDArray[np.bool_]
Doubles = NDArray[np.float64]

CERTAIN = 3.0  # certainty below which a motion is a guess; rendered grounds have 8 and more or less than 1
ALIKE, FOLLOWED = 6.0, 0.8  # levels; share of the pixels
STEPS = 20
CONVERGED = 1e-5  # in units of the region's extent
BLURS = (2.0, 1.0)  # pixels, coarse to fine
BESIDE, ABOVE, BELOW = 1.6, 0.25, 1.6  # reach of the region around the mask's centroid, in the subject's size
MARGIN = 2  # pixels around the mask that may show the subject or its edge
NOISE = 1.5  # levels: least noise of a picture
OUTLIER = 2.0  # in noise: what differs more counts little
TIE = 1e-3  # weight a pixel of staying at the start, where the picture says nothing
MOST = 6000  # pixels compared
FEWEST = 150  # pixels of ground, of 64 × 64; more in larger pictures


@dataclass(frozen=True)
class GroundMotion:
    """`matrix` (3, 3) takes ground pixels (x, y, 1) of one frame to the next.

    `certainty` (trusted from `CERTAIN` on): least eigenvalue of the information that both frames share, per compared
    pixel, where the region's extent is 1 and noise is 1; below 1 some motion of the plane leaves the picture as it is.
    `share` (trusted from `FOLLOWED` on): of the compared pixels, those within `ALIKE` levels after the motion.
    """

    matrix: Matrix
    certainty: float
    share: float

    def better(self, other: GroundMotion) -> bool:
        """Whether this is rather to be trusted than `other`."""
        return (not self.doubt, self.share) > (not other.doubt, other.share)

    @property
    def doubt(self) -> str:
        """Why this motion is not to be trusted; empty when it is."""
        if self.certainty < CERTAIN:
            return f"has too little texture (certainty {self.certainty:.2f}, at least {CERTAIN:g} is needed)"
        if self.share < FOLLOWED:
            return f"does not move as one plane ({self.share:.0%} of it does, at least {FOLLOWED:.0%} must)"
        return ""


def ground_motion(
    frames: tuple[Gray, Gray], masks: tuple[Flags, Flags], guess: Matrix | None = None
) -> GroundMotion | None:
    """From one gray frame (H, W) to the next, outside the subject's `masks` (H, W); None when no ground is in view.

    `guess` is the motion between the frames before; the dominating corner motion and standing still are tried as well.
    """
    region, free = _around(masks[0]) & _outside(masks[0]), _outside(masks[1])
    first, second = frames
    if region.sum() < FEWEST * (max(first.shape) / 64) ** 1.5:
        return None
    starts = [np.eye(3)] if guess is None else [np.eye(3), guess]
    corner = dominating_motion(first, second, region, "homography")
    if corner is not None:
        starts.append(corner.matrix)
    task = _Alignment(first, second, region, free)
    best: GroundMotion | None = None
    for start in sorted(starts, key=task.cost):
        motion = task.refined(start)
        if best is None or motion.better(best):
            best = motion
        if not best.doubt:
            break
    return best


def _outside(mask: Flags) -> Flags:
    kernel = np.ones((2 * MARGIN + 1,) * 2, np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) == 0, dtype=bool)


def _around(mask: Flags) -> Flags:
    """Beside and below the subject, and as far above its middle as ground is likely to reach behind it."""
    size = float(np.sqrt(mask.sum()))
    (x, y) = centroids(mask[None])[0]
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    return np.asarray(
        (np.abs(columns - x) < BESIDE * size) & (rows > y - ABOVE * size) & (rows < y + BELOW * size), dtype=bool
    )


@dataclass(frozen=True)
class _Level:
    """Brightness and slopes (N,) of the first frame's pixels, and pictures (H, W) of the second frame's."""

    first: Doubles
    along_x: Doubles
    along_y: Doubles
    second: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


class _Alignment:
    """Brightness of the region's pixels in the first frame against their places in the second."""

    def __init__(self, first: Gray, second: Gray, region: Flags, free: Flags) -> None:
        rows, columns = np.nonzero(region)
        every = max(1, len(rows) // MOST)
        xy = np.stack([columns[::every], rows[::every]], axis=1).astype(np.float64)
        self.middle, self.extent = xy.mean(axis=0), float(max(xy.std(axis=0).max(), 1.0))
        self.unit = (xy - self.middle) / self.extent
        scale = np.diag([1 / self.extent, 1 / self.extent, 1.0])
        shift = np.array([[1, 0, -self.middle[0]], [0, 1, -self.middle[1]], [0, 0, 1.0]])
        self.to_unit = scale @ shift
        self.free = free.astype(np.float32)
        self.levels = [self._level(first, second, (rows[::every], columns[::every]), blur) for blur in BLURS]

    @staticmethod
    def _level(first: Gray, second: Gray, pixels: tuple[NDArray[np.int64], NDArray[np.int64]], blur: float) -> _Level:
        picture, along_x, along_y = (p[pixels].astype(np.float64) for p in _slopes(first, blur))
        return _Level(picture, along_x, along_y, _slopes(second, blur))

    def cost(self, matrix: Matrix) -> float:
        """Mean absolute difference in levels under `matrix`, at the coarse blur."""
        level = self.levels[0]
        places, inside = self._places(self._unit(matrix))
        if inside.mean() < 0.5:
            return float("inf")
        return float(np.abs(_sampled(level.second[0], places) - level.first)[inside].mean())

    def refined(self, matrix: Matrix) -> GroundMotion:
        motion = start = self._unit(matrix)
        shared = np.zeros((8, 8))
        for level in self.levels:
            for _ in range(STEPS):
                step, shared = self._step(level, motion, start)
                motion = motion + np.append(step, 0.0).reshape(3, 3)
                if np.abs(step).max() < CONVERGED:
                    break
        back = np.linalg.inv(self.to_unit) @ motion @ self.to_unit
        certainty = float(np.linalg.eigvalsh(shared)[0]) / len(self.unit)
        places, inside = self._places(motion)
        gap = np.abs(_sampled(self.levels[-1].second[0], places) - self.levels[-1].first)[inside]
        share = float((gap < ALIKE).mean()) if len(gap) else 0.0
        return GroundMotion(back / back[2, 2], certainty, share)

    def _unit(self, matrix: Matrix) -> Matrix:
        unit = self.to_unit @ matrix @ np.linalg.inv(self.to_unit)
        return np.asarray(unit / unit[2, 2])

    def _places(self, motion: Matrix) -> tuple[Doubles, Flags]:
        """Pixels (N, 2) of the second frame, and which of them (N,) it shows outside the subject."""
        moved = np.c_[self.unit, np.ones(len(self.unit))] @ motion.T
        places = moved[:, :2] / moved[:, 2:] * self.extent + self.middle
        height, width = self.free.shape
        inside = (places >= 1).all(axis=1) & (places[:, 0] <= width - 2) & (places[:, 1] <= height - 2)
        return places, inside & (_sampled(self.free, places) > 0.5)

    def _step(self, level: _Level, motion: Matrix, start: Matrix) -> tuple[Doubles, Doubles]:
        """Change (8,) of the first eight entries, and the information (8, 8) that both frames agree on."""
        picture, along_x, along_y = level.second
        places, inside = self._places(motion)
        gap = _sampled(picture, places) - level.first
        noise = max(1.4826 * float(np.median(np.abs(gap[inside]))) if inside.any() else 0.0, NOISE)
        weight = inside / (1 + (gap / (OUTLIER * noise)) ** 2) ** 2 / noise**2
        jacobian = self._jacobian(_sampled(along_x, places), _sampled(along_y, places), places, motion)
        weighted = jacobian * weight[:, None]
        tie = TIE * len(gap)
        step = np.linalg.solve(
            weighted.T @ jacobian + tie * np.eye(8), -(weighted.T @ gap) - tie * (motion - start).ravel()[:8]
        )
        # Grain has slopes too, but not the same in both frames: their product keeps what belongs to the ground.
        shared = weighted.T @ self._jacobian(level.along_x, level.along_y, places, motion)
        return np.asarray(step, np.float64), np.asarray((shared + shared.T) / 2, np.float64)

    def _jacobian(self, along_x: Doubles, along_y: Doubles, places: Doubles, motion: Matrix) -> Doubles:
        """Change (N, 8) of each pixel's brightness with the entries of `motion`."""
        u, v = self.unit.T
        x, y = ((places - self.middle) / self.extent).T
        depth = motion[2, 0] * u + motion[2, 1] * v + 1
        slope_x, slope_y = along_x * self.extent / depth, along_y * self.extent / depth
        toward = -(slope_x * x + slope_y * y)
        return np.stack(
            [slope_x * u, slope_x * v, slope_x, slope_y * u, slope_y * v, slope_y, toward * u, toward * v], axis=1
        )


def _slopes(gray: Gray, sigma: float) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The blurred picture and its derivatives by x and y, levels a pixel."""
    picture = np.asarray(cv2.GaussianBlur(gray.astype(np.float32), (0, 0), sigma), np.float32)
    return picture, cv2.Sobel(picture, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(picture, cv2.CV_32F, 0, 1, scale=1 / 8)


def _sampled(picture: NDArray[np.float32], places: Doubles) -> Doubles:
    """Values (N,) at `places` (N, 2), bilinear."""
    where = places.astype(np.float32)[:, None]
    values = cv2.remap(picture, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values[:, 0], dtype=np.float64)
