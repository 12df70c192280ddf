"""The subject followed by its colour, learnt from the first frame of the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from musubi_ext.evaluation.color_model import ColorModel
from musubi_ext.evaluation.masks.regions import pieces
from musubi_ext.evaluation.truth import Masks
from musubi_ext.video import Frames

LOST = 0.1  # of the first mask's area: a smaller region is noise, the subject is lost
FRAGMENT = 0.1  # of the largest region's area: smaller ones are not parts of the subject
REACH = 4  # pixels of 64 that a subject may move between frames beyond its last silhouette


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
    touching = np.zeros(count + 1, bool)
    touching[np.unique(labels[near])] = True
    touching[0] = False
    candidate = touching[labels]
    return pieces(candidate, candidate.astype(np.float64), FRAGMENT)
