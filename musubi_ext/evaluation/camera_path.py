"""How the view moved through a clip: pan, zoom and roll of each frame against the first, from what stands still.

The picture of frame t shows the first frame's plane through a window that was shifted by `pan` (pixels of the first
frame, right and down), magnified by `zoom` and rolled clockwise by `roll` degrees about the picture's centre c:

    x_t = c + zoom · Rot(−roll) · (x_0 − c − pan),        Rot(a): clockwise on the screen by a

so that a camera that pans right moves what it shows to the left. Frame-to-frame maps of the background's corners
(`registration`) are taken at the picture's centre and multiplied up: for a shifted, turned and scaled picture that is
exact, and for a camera that turns on the spot it is the path that the centre of view takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.registration import (
    Doubles,
    Flags,
    Gray,
    Key,
    key_of,
    mapped,
    projectivity,
    reduced,
    sightings,
)

RENEW = 0.6  # of a key frame's corners: when fewer follow, the next key frame is taken
AGREE = 0.4  # of the corners found again that must move as one picture
FEWEST = 8  # such corners
SCALE_STEP = 1.6  # zoom against the key frame, from which on a new one shows more


@dataclass(frozen=True)
class View:
    """Per frame: pan (F, 2) in pixels, zoom (F,), roll (F,) in degrees, against the first frame. NaN where unknown."""

    pan: Doubles
    zoom: Doubles
    roll: Doubles

    @property
    def known(self) -> Flags:
        """(F,): whether the frame's view is known."""
        return ~np.isnan(self.zoom)


def view_matrix(pan: Sequence[float] | Doubles, zoom: float, roll: float, size: tuple[int, int]) -> Doubles:
    """The map (3, 3) from the first frame's pixels to those of a frame seen so; `size` is (width, height)."""
    centre = np.array([(size[0] - 1) / 2, (size[1] - 1) / 2])
    angle = np.deg2rad(-roll)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = centre - turn @ (centre + np.asarray(pan, np.float64))
    return np.vstack([np.column_stack([turn, shift]), [0.0, 0.0, 1.0]])


def view_of(maps: Doubles, size: tuple[int, int]) -> View:
    """Pan, zoom and roll of similarities (F, 3, 3): the inverse of `view_matrix`. NaN stays NaN."""
    centre = np.array([(size[0] - 1) / 2, (size[1] - 1) / 2])
    zoom = np.hypot(maps[:, 0, 0], maps[:, 1, 0])
    roll = -np.rad2deg(np.arctan2(maps[:, 1, 0], maps[:, 0, 0]))
    turn = maps[:, :2, :2] / zoom[:, None, None] ** 2
    pan = np.einsum("fji,fj->fi", turn, centre - maps[:, :2, 2]) - centre
    return View(pan, zoom, roll)


def measure_view(gray: NDArray[np.uint8], subject: Flags | None = None) -> View:
    """The view of gray frames (F, H, W). Corners on `subject` (F, H, W) are left out; without it, the most decide."""
    pictures, factor = zip(*(reduced(frame) for frame in gray), strict=True)
    size = pictures[0].shape[1], pictures[0].shape[0]
    maps = np.full((len(gray), 3, 3), np.nan)
    maps[0] = total = np.eye(3)
    key, since = key_of(pictures[0], _background(subject, 0, pictures[0])), np.eye(3)
    last = 0
    for index in range(1, len(pictures)):
        found = _followed(key, since, pictures[index])
        if found is None and last:  # once more from the last frame that was understood
            key, since = key_of(pictures[last], _background(subject, last, pictures[last])), np.eye(3)
            found = _followed(key, since, pictures[index])
        if found is None:
            continue
        now, share = found
        total = at_centre(now @ np.linalg.inv(since), size) @ total
        maps[index], since, last = total, now, index
        if share < RENEW or not 1 / SCALE_STEP < np.sqrt(abs(np.linalg.det(now[:2, :2]))) < SCALE_STEP:
            key, since = key_of(pictures[index], _background(subject, index, pictures[index])), np.eye(3)
    view = view_of(maps, size)
    return View(view.pan * factor[0], view.zoom, view.roll)


def at_centre(map_: Doubles, size: tuple[int, int]) -> Doubles:
    """The similarity (3, 3) that moves the picture's centre and what is beside it as a map (3, 3) does."""
    centre = np.array([(size[0] - 1) / 2, (size[1] - 1) / 2])
    around = centre + np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    moved = mapped(map_, around)
    right, down = (moved[1] - moved[2]) / 2, (moved[3] - moved[4]) / 2
    a, b = (right[0] + down[1]) / 2, (right[1] - down[0]) / 2
    turn = np.array([[a, -b], [b, a]])
    return np.vstack([np.column_stack([turn, moved[0] - turn @ centre]), [0.0, 0.0, 1.0]])


def _background(subject: Flags | None, index: int, picture: Gray) -> Flags:
    """Where corners may be taken (h, w): beside the subject, with a margin for what blurs at its edge."""
    if subject is None:
        return np.ones(picture.shape, bool)
    height, width = picture.shape
    mask = cv2.resize(subject[index].astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    margin = 2 * max(1, round(0.01 * max(height, width))) + 1
    return np.asarray(cv2.dilate(mask, np.ones((margin, margin), np.uint8)) == 0)


def _followed(key: Key, since: Doubles, picture: Gray) -> tuple[Doubles, float] | None:
    """The map from the key frame to `picture`, and the share of its corners that follow it; None if they do not."""
    if not len(key.corners):
        return None
    places = sightings(key, since, picture)
    seen = ~np.isnan(places[:, 0])
    fitted = projectivity(key.corners[seen], places[seen])
    if fitted is None or fitted[1].sum() < FEWEST or fitted[1].mean() < AGREE:
        return None
    return fitted[0], float(fitted[1].sum() / len(key.corners))
