"""The path that a point of an object takes through a clip, without weights.

The corners of the object in the first frame are found again frame by frame (`registration`) and a shift, turn and scale
is fitted to most of them; the point moves with it. When few of them are left, since the object turns, the corners of a
later frame take over. When they are lost, or what they led to looks otherwise, the object as last seen is searched for
in the whole frame by correlation (J. P. Lewis, "Fast normalized cross-correlation", 1995). A point of a turning object
is a point of its surface: it moves against the object's middle, and what takes over from it drifts.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.registration import (
    LEVELS,
    WINDOW,
    Doubles,
    Flags,
    Gray,
    Key,
    key_of,
    likeness,
    mapped,
    reduced,
    sightings,
    similarity,
)

INSIDE = 0.9  # of a box's half sides: the ellipse taken for the object, since a box's corners show what is behind
NEARBY = 0.05  # long sides: radius of what is taken for the object when no box is given
RENEW = 0.6  # of a key frame's corners: when fewer follow, the next key frame is taken
AGREE = 0.4  # of the corners found again that must move as one
SCALE_STEP = 1.3  # largest change of size from a sighting to the next
ALIKE = 0.5  # correlation with the key frame, below which it is not the object
SEARCHED = 0.7  # likewise for a place found by searching

Box = tuple[float, float, float, float]


def follow_point(gray: NDArray[np.uint8], point: Doubles, box: Box | None = None) -> Doubles:
    """Where `point` (2,) of the first of gray frames (F, H, W) is in each: (F, 2) in pixels, NaN where not found.

    `box` (left, top, right, bottom) bounds the object it belongs to; without one its surroundings do.
    """
    first, factor = reduced(gray[0])
    start = np.asarray(point, np.float64) / factor
    area = _area(first.shape, start, None if box is None else np.array(box) / factor)
    path = np.full((len(gray), 2), np.nan)
    path[0] = start
    key, key_area, origin, since, last = key_of(first, area), area, np.eye(3), np.eye(3), first
    for index in range(1, len(gray)):
        picture, _ = reduced(gray[index])
        found = _followed(key, key_area, since, picture) or _searched(key, key_area, since, picture)
        if found is None and not np.array_equal(since, np.eye(3)):
            moved = _moved(key_area, since)  # once more from the last frame in which it was seen
            fresh = key_of(last, moved)
            found = _followed(fresh, moved, np.eye(3), picture)
            if found is not None:
                key, key_area, origin, since = fresh, moved, since @ origin, np.eye(3)
        if found is None:
            continue
        since, share = found
        path[index], last = mapped(since @ origin, start[None])[0], picture
        if share < RENEW:
            key_area, origin = _moved(key_area, since), since @ origin
            key, since = key_of(picture, key_area), np.eye(3)
    return path * factor


def _area(shape: tuple[int, ...], point: Doubles, box: Doubles | None) -> Flags:
    """The object's pixels in the first frame (h, w)."""
    rows, columns = np.indices(shape[:2])
    if box is None:
        middle, half = point, np.full(2, max(8.0, NEARBY * max(shape)))
    else:
        middle, half = (box[:2] + box[2:]) / 2, np.maximum(INSIDE * (box[2:] - box[:2]) / 2, 2.0)
    return np.asarray(((columns - middle[0]) / half[0]) ** 2 + ((rows - middle[1]) / half[1]) ** 2 <= 1)


def _levels(area: Flags) -> int:
    """As many halvings as leave a corner's window inside the object: beyond, what is behind it would lead the way."""
    extent = float(np.sqrt(max(area.sum(), 1)))
    return int(np.clip(np.log2(extent / WINDOW), 0, LEVELS))


def _moved(area: Flags, map_: Doubles) -> Flags:
    height, width = area.shape
    return np.asarray(cv2.warpPerspective(area.astype(np.uint8), map_, (width, height), flags=cv2.INTER_NEAREST) > 0)


def _followed(key: Key, area: Flags, since: Doubles, picture: Gray) -> tuple[Doubles, float] | None:
    """The map from the key frame to `picture` and the share of the corners that follow it; None if it is not seen."""
    if not len(key.corners):
        return None
    places = sightings(key, since, picture, _levels(area))
    seen = ~np.isnan(places[:, 0])
    fitted = similarity(key.corners[seen], places[seen])
    if fitted is None or fitted[1].mean() < AGREE:
        return None
    map_, followers = fitted
    step = np.sqrt(abs(np.linalg.det(map_[:2, :2]) / np.linalg.det(since[:2, :2])))
    if not 1 / SCALE_STEP < step < SCALE_STEP or likeness(key, map_, picture, area) < ALIKE:
        return None
    return map_, float(followers.sum() / len(key.corners))


def _searched(key: Key, area: Flags, since: Doubles, picture: Gray) -> tuple[Doubles, float] | None:
    """As `_followed`, from the best place in the whole picture for the object at its last size."""
    height, width = picture.shape
    warped = cv2.warpPerspective(key.picture, since, (width, height))
    rows, columns = np.nonzero(_moved(area, since))
    if not len(rows):
        return None
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    if bottom - top < 5 or right - left < 5:
        return None
    patch = warped[top:bottom, left:right]
    if patch.std() < 2:
        return None
    scores = cv2.matchTemplate(picture, np.ascontiguousarray(patch), cv2.TM_CCOEFF_NORMED)
    _, best, _, (x, y) = cv2.minMaxLoc(np.nan_to_num(scores, posinf=0.0, neginf=0.0))
    if best < SEARCHED:
        return None
    shift = np.array([[1.0, 0.0, x - left], [0.0, 1.0, y - top], [0.0, 0.0, 1.0]])
    return _followed(key, area, shift @ since, picture)
