"""How the camera moves the picture between two frames, seen on what is not the subject.

`dominating_motion` is the similarity or homography that most background corners follow (M. Fischler, R. Bolles,
"Random sample consensus", 1981); a picture with depth has more than one motion, and this is the most frequent one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Model = Literal["similarity", "homography"]
Gray = NDArray[np.uint8]
Matrix = NDArray[np.float64]

CORNERS, QUALITY, SPACING = 400, 0.005, 0.015  # at most; of the best corner's response; of the long side
WINDOW = 0.06  # of the long side: what is compared around a corner
LEVELS = 3  # halvings of the picture
ROUND_TRIP = 0.5  # pixels that a corner followed there and back may miss its start by
TOLERANCE = 0.004  # of the long side, at least half a pixel: a corner this close follows the motion
STILL = 8.0  # times: see `stands_still`
FAINT = 0.05  # levels: a picture that changes less when shifted has no structure
FEWEST = {"similarity": 6, "homography": 10}


@dataclass(frozen=True)
class CameraMotion:
    """`matrix` (3, 3) takes pixels (x, y, 1) of the first frame to the second; `share` of `corners` follow it."""

    matrix: Matrix
    share: float
    corners: int


def dominating_motion(
    first: Gray, second: Gray, background: NDArray[np.bool_], model: Model = "similarity"
) -> CameraMotion | None:
    """The motion that most corners of `first` (H, W) inside `background` (H, W) follow to `second` (H, W).

    None when too few corners can be followed, or when they agree on nothing. The same frames give the same motion.
    """
    start, end = corner_pairs(first, second, background)
    if len(start) < FEWEST[model]:
        return None
    tolerance = max(0.5, TOLERANCE * max(first.shape))
    if model == "similarity":
        found, inliers = cv2.estimateAffinePartial2D(start, end, ransacReprojThreshold=tolerance, maxIters=2000)
        matrix = None if found is None else np.vstack([found, [0, 0, 1]])
    else:
        matrix, inliers = cv2.findHomography(start, end, cv2.RANSAC, tolerance, maxIters=2000)
    if matrix is None or not np.isfinite(matrix).all():
        return None
    return CameraMotion(np.asarray(matrix, np.float64), float(inliers.mean()), len(start))


def corner_pairs(
    first: Gray, second: Gray, background: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Corners (N, 2) of `first` inside `background` and their places (N, 2) in `second`, each checked backwards."""
    empty = np.empty((0, 2), np.float32)
    long = max(first.shape)
    spacing = max(2.0, SPACING * long)
    found = cv2.goodFeaturesToTrack(first, CORNERS, QUALITY, spacing, mask=background.astype(np.uint8), blockSize=3)
    if found is None:
        return empty, empty
    start = np.asarray(found.reshape(-1, 2), np.float32)
    side = max(7, round(WINDOW * long)) | 1
    window = (side, side)
    there, ahead, _ = cv2.calcOpticalFlowPyrLK(first, second, start[:, None], None, winSize=window, maxLevel=LEVELS)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(second, first, there, None, winSize=window, maxLevel=LEVELS)
    close = np.linalg.norm(back[:, 0] - start, axis=1) < ROUND_TRIP
    kept = (ahead[:, 0] == 1) & (returned[:, 0] == 1) & close
    return start[kept], np.asarray(there[:, 0][kept], np.float32)


def stands_still(first: Gray, second: Gray, background: NDArray[np.bool_]) -> bool:
    """Whether the `background` (H, W) has not moved by more than about an eighth of a pixel from `first` to `second`.

    True when shifting the first picture by one pixel, any way, changes it at least `STILL` times as much as the second
    differs from it; a background without structure never is.
    """
    inside = background[1:-1, 1:-1]
    if not inside.any():
        return False
    a, b = (cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.0) for picture in (first, second))
    height, width = a.shape

    def difference(dx: int, dy: int, other: NDArray[np.float32]) -> float:
        shifted = a[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]
        return float(np.abs(shifted - other[1:-1, 1:-1])[inside].mean())

    least = min(difference(dx, dy, a) for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)))
    return least > FAINT and difference(0, 0, b) * STILL < least
