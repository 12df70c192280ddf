"""Where a picture, or a part of it, went: its corners found again in a later frame, and the map that moves them.

Detection: J. Shi, C. Tomasi, "Good features to track", CVPR 1994. Following: J.-Y. Bouguet, "Pyramidal implementation
of the Lucas Kanade feature tracker", 2000, each step also taken backwards (Z. Kalal et al., ICPR 2010). Before the step
the older picture is warped to where it was last seen, so that turned and enlarged corners still look alike; maps are
fitted to most of them by RANSAC (M. Fischler, R. Bolles, 1981). No weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
Gray = NDArray[np.uint8]

LONG_SIDE = 640  # pixels; larger pictures are reduced to it, since detail below this costs time and adds little
CORNERS = 300
SPACING = 0.008  # least distance of two corners, in long sides
QUALITY = 0.001  # of the best corner's smaller eigenvalue; corners that noise makes are not found again
WINDOW = 15  # pixels
LEVELS = 3  # halvings of the picture
ROUND_TRIP = 0.5  # pixels: a step that does not lead back this closely is no sighting
EDGE = 2  # pixels beside the border that hold no corner
TOLERANCE = 1.5  # pixels from the fitted map, within which a corner follows it
FEWEST = 4  # corners that agree on a map
FEWEST_PLANE = 12  # likewise on a homography
RICHER = 1.1  # times the followers of a similarity that a homography needs to be preferred to it


@dataclass(frozen=True)
class Key:
    """A picture (H, W) whose corners (N, 2) are looked for in others."""

    picture: Gray
    corners: Doubles


def reduced(gray: Gray) -> tuple[Gray, float]:
    """A frame (H, W) with its long side at most 640 pixels, and the factor from its pixels back to the frame's."""
    scale = LONG_SIDE / max(gray.shape)
    if scale >= 1:
        return gray, 1.0
    small = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), gray.shape[1] / small.shape[1]


def key_of(picture: Gray, area: Flags) -> Key:
    """The corners of a picture (H, W) inside `area` (H, W)."""
    allowed = area.astype(np.uint8) * 255
    allowed[:EDGE], allowed[-EDGE:], allowed[:, :EDGE], allowed[:, -EDGE:] = 0, 0, 0, 0
    spacing = max(2.0, SPACING * max(picture.shape))
    found = cv2.goodFeaturesToTrack(picture, CORNERS, QUALITY, spacing, mask=allowed, blockSize=5)
    corners = np.empty((0, 2)) if found is None else np.asarray(found, np.float64).reshape(-1, 2)
    return Key(picture, corners)


def sightings(key: Key, guess: Doubles, picture: Gray, levels: int = LEVELS) -> Doubles:
    """Where the corners are in `picture` (N, 2), NaN where not found; `guess` (3, 3) says where about to look.

    `levels`: halvings of the picture. Each doubles how far a corner is found, and how much around it must move alike.
    """
    height, width = picture.shape
    places = np.full(key.corners.shape, np.nan)
    expected = mapped(guess, key.corners)
    inside = ((expected >= EDGE) & (expected < [width - EDGE, height - EDGE])).all(axis=1)
    if not inside.any():
        return places
    border = cv2.BORDER_REPLICATE
    warped = np.asarray(cv2.warpPerspective(key.picture, guess, (width, height), borderMode=border), np.uint8)
    start = expected[inside].astype(np.float32)
    there, back, followed = _round_trip(warped, picture, start, levels)
    followed &= ((there >= EDGE) & (there < [width - EDGE, height - EDGE])).all(axis=1)
    followed &= np.linalg.norm(back - start, axis=1) < ROUND_TRIP
    places[np.flatnonzero(inside)[followed]] = there[followed]
    return places


def _round_trip(before: Gray, after: Gray, start: NDArray[np.float32], levels: int) -> tuple[Doubles, Doubles, Flags]:
    window = (WINDOW, WINDOW)
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, start[:, None], None, winSize=window, maxLevel=levels)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, winSize=window, maxLevel=levels)
    both = (found[:, 0] == 1) & (returned[:, 0] == 1)
    return np.asarray(there[:, 0], np.float64), np.asarray(back[:, 0], np.float64), both


def similarity(source: Doubles, target: Doubles) -> tuple[Doubles, Flags] | None:
    """The shift, turn and scale (3, 3) that moves most of `source` (N, 2) onto `target`, and which those are (N,)."""
    if len(source) < FEWEST:
        return None
    found, kept = cv2.estimateAffinePartial2D(
        source.astype(np.float32), target.astype(np.float32), ransacReprojThreshold=TOLERANCE
    )
    followers = None if kept is None else kept[:, 0].astype(bool)
    if found is None or followers is None or followers.sum() < FEWEST or not np.isfinite(found).all():
        return None
    return np.vstack([found, [0, 0, 1]]).astype(np.float64), followers


def projectivity(source: Doubles, target: Doubles) -> tuple[Doubles, Flags] | None:
    """As `similarity`, or the homography where that moves clearly more: a camera that turns on the spot."""
    plain = similarity(source, target)
    if len(source) < FEWEST_PLANE or (plain is not None and plain[1].all()):
        return plain
    found, kept = cv2.findHomography(source.astype(np.float32), target.astype(np.float32), cv2.RANSAC, TOLERANCE)
    if found is None or not np.isfinite(found).all() or np.linalg.det(found) <= 0:
        return plain
    followers = kept[:, 0].astype(bool)
    if followers.sum() < FEWEST_PLANE or (plain is not None and followers.sum() < RICHER * plain[1].sum()):
        return plain
    return np.asarray(found, np.float64), followers


def mapped(map_: Doubles, points: Doubles) -> Doubles:
    """Points (N, 2) through a map (3, 3)."""
    moved = points @ map_[:, :2].T + map_[:, 2]
    return np.asarray(moved[:, :2] / moved[:, 2:])


def likeness(key: Key, map_: Doubles, picture: Gray, area: Flags) -> float:
    """Correlation, −1 to 1, of the key's `area` (H, W) with where `map_` puts it in `picture`; 0 if nothing varies."""
    height, width = key.picture.shape
    brought = cv2.warpPerspective(picture, map_, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    ones = np.full(picture.shape, 255, np.uint8)
    inside = cv2.warpPerspective(ones, map_, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    both = area & inside
    if both.sum() < 0.25 * area.sum():
        return 0.0
    a, b = key.picture[both].astype(np.float64), brought[both].astype(np.float64)
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))
