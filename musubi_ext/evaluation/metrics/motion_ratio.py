"""Whether a clip moves as much as it should: the floor beside drift, which a frozen video would win."""

from __future__ import annotations

import numpy as np

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import Better, metric
from musubi_ext.evaluation.result import Reading, UnavailableError
from musubi_ext.video import Frames


def first_to_last_change(frames: Frames) -> float:
    """Mean absolute difference, in levels, between the first and the last of frames (F, H, W, 3)."""
    return float(np.abs(frames[-1].astype(np.float64) - frames[0].astype(np.float64)).mean())


@metric(
    "motion_ratio",
    unit="1",
    better=Better.REPORT,
    range=(0, None),
    source="first-to-last change of the clip over that of the reference (the truth, or its VAE reconstruction)",
)
def motion_ratio(clip: Clip) -> Reading:
    """0 for a frozen video, 1 for the reference itself; unavailable when the reference does not change."""
    reference = first_to_last_change(clip.reference)
    if reference == 0:
        raise UnavailableError("the reference's first and last frame are identical")
    return Reading(first_to_last_change(clip.sampled) / reference, 2)
