"""How much of the picture changes from frame to frame."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import Better, metric
from musubi_ext.evaluation.result import Reading, UnavailableError

THRESHOLD = 10  # gray levels


def changing_fraction(gray: NDArray[np.uint8]) -> float:
    """Mean fraction of pixels with |Δgray| > 10 between consecutive gray frames (F, H, W), F ≥ 2."""
    return float(np.mean([(np.abs(b.astype(np.int16) - a) > THRESHOLD).mean() for a, b in pairwise(gray)]))


@metric(
    "dynamic_degree",
    unit="fraction",
    better=Better.REPORT,
    range=(0, 1),
    source="Circle-Rotate motion metrics: pixels whose gray value changes by more than 10",
)
def dynamic_degree(clip: Clip) -> Reading:
    """`changing_fraction` of all frames."""
    if len(clip.frames) < 2:
        raise UnavailableError("change needs two frames, the clip has one")
    return Reading(changing_fraction(clip.gray), len(clip.frames))
