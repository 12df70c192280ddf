"""Regions of a picture: which masks hold one, where its centre is, and which pieces belong to the subject."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from musubi_ext.evaluation.truth import Masks

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the first frame, x1 and y1 exclusive
Point = tuple[float, float]  # x, y in pixels of the first frame


def found(masks: Masks) -> NDArray[np.bool_]:
    """Which (N,) of masks (N, H, W) are not empty."""
    return np.asarray(masks.any(axis=(1, 2)), dtype=bool)


def coverage(masks: Masks) -> float:
    """Share of masks (N, H, W) that are not empty; 0 when there are none."""
    return float(found(masks).mean()) if len(masks) else 0.0


def centroids(masks: Masks) -> NDArray[np.float64]:
    """Centres (N, 2) as (x, y) in pixels of masks (N, H, W), none of them empty."""
    area = masks.sum(axis=(1, 2)).astype(np.float64)
    if not area.all():
        raise ValueError("an empty mask has no centroid")
    x = (masks.sum(axis=1) * np.arange(masks.shape[2])).sum(axis=1) / area
    y = (masks.sum(axis=2) * np.arange(masks.shape[1])).sum(axis=1) / area
    return np.stack([x, y], axis=1)


def pieces(candidate: NDArray[np.bool_], weight: NDArray[np.floating], share: float) -> NDArray[np.bool_]:
    """The connected pieces of `candidate` (H, W) with at least `share` of the heaviest one's weight, holes filled.

    A piece weighs the sum of `weight` (H, W, at least 0) over its pixels; pieces of weight 0 never count.
    """
    labels, count = ndimage.label(candidate)
    if not count:
        return np.zeros_like(candidate)
    heavy = np.bincount(labels.ravel(), weights=weight.ravel(), minlength=count + 1)
    heavy[0] = 0
    keep = (heavy > 0) & (heavy >= share * heavy.max())
    return np.asarray(ndimage.binary_fill_holes(keep[labels]), dtype=bool)


def check_box(box: Box, height: int, width: int) -> None:
    """Raise ValueError unless `box` is (x0, y0, x1, y1) with some area inside a picture of this size."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(f"box: expected 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}, found {box}")


def check_point(point: Point, height: int, width: int) -> None:
    """Raise ValueError unless `point` is an (x, y) inside a picture of this size."""
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise ValueError(f"point: expected 0 <= x < {width} and 0 <= y < {height}, found {point}")
