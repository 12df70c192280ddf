"""Corners followed through a clip: what the geometry of a camera's path is estimated from.

Detection: J. Shi, C. Tomasi, "Good features to track", CVPR 1994. Following: J.-Y. Bouguet, "Pyramidal implementation
of the Lucas Kanade feature tracker", 2000, each step also taken backwards (Z. Kalal et al., ICPR 2010).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.video import Frames

Doubles = NDArray[np.float64]
Gray = NDArray[np.uint8]

LONG_SIDE = 320  # pixels; larger pictures are reduced to it, since detail below this costs time and adds noise
TARGET = 160  # corners alive at a time
SPACING = 0.02  # least distance of two corners, in long sides
QUALITY = 0.004  # of the best corner's smaller eigenvalue
WINDOW = 13  # pixels
LEVELS = 3  # halvings of the picture
ROUND_TRIP = 0.4  # pixels: a step that does not lead back this closely ends the track
RENEW = 4  # frames between two detections
EDGE = 3  # pixels beside the border that hold no corner


@dataclass(frozen=True)
class Tracks:
    """Positions (N, F, 2) in pixels of pictures of `size` (width, height), NaN where a corner is not seen."""

    xy: Doubles
    size: tuple[int, int]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(N, F): whether the corner was followed to this frame."""
        return ~np.isnan(self.xy[..., 0])


def follow(frames: Frames) -> Tracks:
    """Follow corners through uint8 RGB frames (F, H, W, 3); lost ones are replaced every few frames."""
    pictures = [_gray(frame) for frame in frames]
    height, width = pictures[0].shape
    here = np.empty((0, 2), np.float32)
    names = np.empty(0, np.int64)
    rows: list[Doubles] = []
    for index, picture in enumerate(pictures):
        if index and len(here):
            here, kept = _step(pictures[index - 1], picture, here)
            names = names[kept]
        if index % RENEW == 0 and index < len(pictures) - 2:
            fresh = _corners(picture, here)
            names = np.concatenate([names, len(rows) + np.arange(len(fresh))])
            here = np.concatenate([here, fresh])
            rows += [np.full((len(pictures), 2), np.nan) for _ in fresh]
        for name, position in zip(names, here, strict=True):
            rows[name][index] = position
    return Tracks(np.stack(rows) if rows else np.empty((0, len(pictures), 2)), (width, height))


def _gray(frame: Frames) -> Gray:
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    scale = LONG_SIDE / max(gray.shape)
    if scale < 1:
        gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(gray, np.uint8)


def _corners(picture: Gray, taken: NDArray[np.float32]) -> NDArray[np.float32]:
    """New corners (N, 2), none beside one already followed."""
    spacing = max(3.0, SPACING * max(picture.shape))
    free = np.zeros_like(picture)
    free[EDGE:-EDGE, EDGE:-EDGE] = 255
    for x, y in taken:
        cv2.circle(free, (round(float(x)), round(float(y))), int(spacing), 0, -1)
    room = TARGET - len(taken)
    if room <= 0:
        return np.empty((0, 2), np.float32)
    found = cv2.goodFeaturesToTrack(picture, room, QUALITY, spacing, mask=free, blockSize=5)
    return np.empty((0, 2), np.float32) if found is None else np.asarray(found.reshape(-1, 2), np.float32)


def _step(before: Gray, after: Gray, here: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Positions in the next picture of the corners that were found again (M, 2), and which those are (N,)."""
    window = (WINDOW, WINDOW)
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, here[:, None], None, winSize=window, maxLevel=LEVELS)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, winSize=window, maxLevel=LEVELS)
    height, width = after.shape
    there, back = there[:, 0], back[:, 0]
    inside = (there >= EDGE).all(1) & (there[:, 0] < width - EDGE) & (there[:, 1] < height - EDGE)
    kept = (found[:, 0] == 1) & (returned[:, 0] == 1) & inside & (np.linalg.norm(back - here, axis=1) < ROUND_TRIP)
    return there[kept], kept
