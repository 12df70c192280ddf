"""How far the subject wanders from where the true clip shows it: drift without what the camera asks for."""

from __future__ import annotations

import numpy as np

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.masks import centroids, found
from musubi_ext.evaluation.metrics.registry import Better, metric
from musubi_ext.evaluation.metrics.subject_drift import sighted
from musubi_ext.evaluation.result import Reading, UnavailableError
from musubi_ext.evaluation.truth import Masks


def drift_from(masks: Masks, truth: Masks) -> float:
    """sqrt(std(dx)² + std(dy)²) in pixels of the centroids of masks (N, H, W) less those of `truth`, none empty."""
    apart = centroids(masks) - centroids(truth)
    return float(np.sqrt(((apart - apart[0]).std(axis=0) ** 2).sum()))  # from the first on: equal paths are exactly 0


@metric(
    "subject_drift_from_truth",
    unit="px",
    better=Better.LOWER,
    range=(0, None),
    source="deviation over 16 frames of the mask centroid less the true clip's, which only the camera moves",
)
def subject_drift_from_truth(clip: Clip) -> Reading:
    """Camera-compensated drift of a rendered scene: its true subject stands still, so its path is the camera's doing.

    0 for the truth itself. A frozen video scores the truth's own drift, so stillness does not win.
    """
    truth = clip.truth.masks[clip.samples]
    if not found(truth).all():
        raise UnavailableError("the true subject is out of the picture in some of the sampled frames")
    masks = clip.masks[clip.samples]
    seen = found(masks)
    return Reading(drift_from(sighted(masks), truth[seen]), int(seen.sum()))
