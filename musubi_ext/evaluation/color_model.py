"""The subject's colour against its surroundings', learnt from one frame and its mask.

A surface in changing light keeps the direction of its RGB vector and changes its length, so a colour is a ray from
black (the dichromatic model without highlights, Shafer 1985). Subject and surroundings are small sets of rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.cluster.vq import kmeans2

from musubi_ext.video import Frames

Rays = NDArray[np.float64]

SUBJECT_RAYS, SURROUNDING_RAYS = 2, 6
NOISE = 6.0  # levels: codec, decoder blur and sensor noise around a ray
DARK = 12.0  # levels: below this length a colour has no direction
ANGLE = np.deg2rad(22)  # a colour further than this from every ray of the subject is not the subject


@dataclass(frozen=True)
class ColorModel:
    """Unit rays (K, 3) of the subject and of its surroundings, in RGB."""

    subject: Rays
    surroundings: Rays

    @classmethod
    def fit(cls, frame: Frames, mask: NDArray[np.bool_]) -> ColorModel:
        """Learn from one frame (H, W, 3) and the subject's mask (H, W); mixed pixels on the outline are left out."""
        inside, outside = _core(mask), _core(~mask)
        return cls(_rays(frame[inside], SUBJECT_RAYS), _rays(frame[outside], SURROUNDING_RAYS))

    def log_ratio(self, frame: Frames) -> NDArray[np.float64]:
        """Log likelihood (H, W) of subject over surroundings, Gaussian in the distance to the nearest ray of each."""
        pixels = ndimage.gaussian_filter(frame.astype(np.float64), (0.4, 0.4, 0))
        own, other = _distance(pixels, self.subject), _distance(pixels, self.surroundings)
        length = np.linalg.norm(pixels, axis=-1)
        foreign = np.maximum(length, DARK) * np.sin(ANGLE)
        return np.asarray((np.minimum(other, foreign) ** 2 - own**2) / (2 * NOISE**2), dtype=np.float64)


def _core(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    core = ndimage.binary_erosion(mask, iterations=1, border_value=1)
    return core if core.any() else mask


def _rays(pixels: Frames, count: int) -> Rays:
    """Directions (≤ count, 3) of the colours (N, 3) that are bright enough to have one."""
    values = pixels.astype(np.float64)
    length = np.linalg.norm(values, axis=1)
    bright = length > DARK
    if not bright.any():
        return np.full((1, 3), 3**-0.5)
    directions = values[bright] / length[bright, None]
    colours = np.unique(directions.round(3), axis=0)
    rays = colours if len(colours) <= count else _clusters(directions, count)
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True), dtype=np.float64)


def _clusters(directions: Rays, count: int) -> Rays:
    """k-means centres, started from the directions furthest from each other: no random draw, no empty cluster."""
    chosen = [directions.mean(axis=0)]
    for _ in range(count):
        away = np.min([((directions - centre) ** 2).sum(axis=1) for centre in chosen], axis=0)
        chosen.append(directions[np.argmax(away)])
    centres, labels = kmeans2(directions, np.array(chosen[1:]), minit="matrix")
    return np.asarray(centres[np.unique(labels)], dtype=np.float64)


def _distance(pixels: NDArray[np.float64], rays: Rays) -> NDArray[np.float64]:
    """Distance (…) in levels of colours (…, 3) to the nearest of the rays (K, 3)."""
    along = np.maximum(pixels @ rays.T, 0)
    squared = (pixels**2).sum(axis=-1, keepdims=True) - along**2
    return np.asarray(np.sqrt(np.maximum(squared.min(axis=-1), 0)), dtype=np.float64)
