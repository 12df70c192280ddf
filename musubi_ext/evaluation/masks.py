"""Where the subject is: true masks for rendered clips, a colour model followed through generated ones."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from musubi_ext.evaluation.color_model import ColorModel
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.truth import Masks, Truth
from musubi_ext.video import Frames

LOST = 0.1  # of the first mask's area: a smaller region is noise, the subject is lost
FRAGMENT = 0.1  # of the largest region's area: smaller ones are not parts of the subject
REACH = 4  # pixels of 64 that a subject may move between frames beyond its last silhouette


class MaskSource(StrEnum):
    """`TRUTH`: the truth's own masks, right for its own frames only. `COLOR`: a colour model of the first true mask."""

    TRUTH = "truth"
    COLOR = "color"


def subject_masks(source: MaskSource, frames: Frames, truth: Truth) -> Masks:
    """Masks (F, H, W) of the subject in `frames` (F, H, W, 3); a frame where it was not found has an empty one."""
    if source is MaskSource.TRUTH:
        return truth.masks
    if not truth.masks[0].any():
        raise UnavailableError("the subject is not visible in the truth's first frame: no colour to follow")
    return track(ColorModel.fit(truth.frames[0], truth.masks[0]), frames, truth.masks[0])


def track(model: ColorModel, frames: Frames, first_mask: NDArray[np.bool_]) -> Masks:
    """Follow the region of the subject's colour through `frames`, beginning where `first_mask` (H, W) is.

    Regions count when they touch the last known silhouette widened by a step; holes are filled. Where nothing large
    enough is left the mask is empty, and the search goes on around the last silhouette, wider with each frame missed.
    """
    masks = np.zeros(frames.shape[:3], dtype=bool)
    last, missed = first_mask, 0
    step = max(1, round(REACH * max(frames.shape[1:3]) / 64))
    for index, frame in enumerate(frames):
        near = ndimage.binary_dilation(last, iterations=step * (1 + missed))
        mask = _subject(model.log_ratio(frame) > 0, near)
        if mask.sum() < LOST * first_mask.sum():
            missed += 1
            continue
        masks[index], last, missed = mask, mask, 0
    return masks


def _subject(candidate: NDArray[np.bool_], near: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = ndimage.label(candidate)
    if not count:
        return candidate
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    touching = np.bincount(labels[near], minlength=count + 1) > 0
    sizes = np.where(touching, sizes, 0)
    keep = (sizes > 0) & (sizes >= FRAGMENT * sizes.max())
    return np.asarray(ndimage.binary_fill_holes(keep[labels]), dtype=bool)


def found(masks: Masks) -> NDArray[np.bool_]:
    """Which (N,) of masks (N, H, W) are not empty."""
    return np.asarray(masks.any(axis=(1, 2)), dtype=bool)


def centroids(masks: Masks) -> NDArray[np.float64]:
    """Centres (N, 2) as (x, y) in pixels of masks (N, H, W), none of them empty."""
    area = masks.sum(axis=(1, 2)).astype(np.float64)
    if not area.all():
        raise ValueError("an empty mask has no centroid")
    x = (masks.sum(axis=1) * np.arange(masks.shape[2])).sum(axis=1) / area
    y = (masks.sum(axis=2) * np.arange(masks.shape[1])).sum(axis=1) / area
    return np.stack([x, y], axis=1)
