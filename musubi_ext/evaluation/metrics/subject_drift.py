"""How far the subject wanders in the picture."""

from __future__ import annotations

import numpy as np

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.masks import centroids, found
from musubi_ext.evaluation.metrics.registry import Better, metric
from musubi_ext.evaluation.result import Reading, UnavailableError
from musubi_ext.evaluation.truth import Masks

COVERAGE = 0.9  # of the sampled frames; below it a lost subject would pass for a still one


def drift(masks: Masks) -> float:
    """sqrt(std(cx)² + std(cy)²) in pixels: population deviations of the centroids of masks (N, H, W), none empty."""
    places = centroids(masks)
    # Deviations do not change when the origin does; from the first place on, a still subject is exactly 0.
    return float(np.sqrt(((places - places[0]).std(axis=0) ** 2).sum()))


def sighted(masks: Masks) -> Masks:
    """The masks that are not empty. Raises UnavailableError when fewer than 90% of them are."""
    present = found(masks)
    if present.mean() < COVERAGE:
        raise UnavailableError(f"the subject was found in {present.sum()} of {len(present)} sampled frames, below 90%")
    return masks[present]


@metric(
    "subject_drift",
    unit="px",
    better=Better.LOWER,
    range=(0, None),
    source="Circle-Rotate subject_drift.py: deviation of the mask centroid over 16 frames",
)
def subject_drift(clip: Clip) -> Reading:
    """Drift over the sixteen sampled frames. A frozen video scores 0: read it beside the motion metrics."""
    masks = sighted(clip.masks[clip.samples])
    return Reading(drift(masks), len(masks))
