"""How well the subject's silhouette covers the true one."""

from __future__ import annotations

import numpy as np

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import Better, metric
from musubi_ext.evaluation.result import Reading
from musubi_ext.evaluation.truth import Masks


def iou(a: Masks, b: Masks) -> float:
    """Intersection over union of two masks (H, W); 1 when both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


@metric(
    "mask_iou",
    unit="fraction",
    better=Better.HIGHER,
    range=(0, 1),
    source="Jaccard index of subject mask and true mask, median over frames",
)
def mask_iou(clip: Clip) -> Reading:
    """Median over frames. On a rendered clip it checks the mask source, on a generated one the subject's place."""
    pairs = zip(clip.masks, clip.truth.masks, strict=True)
    return Reading(float(np.median([iou(a, b) for a, b in pairs])), len(clip.frames))
