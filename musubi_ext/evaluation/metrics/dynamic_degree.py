"""How much of the picture changes from frame to frame."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.flow import Gray
from musubi_ext.evaluation.metrics.registry import Better, metric
from musubi_ext.evaluation.result import Reading
from musubi_ext.evaluation.stream import PairStatistic

THRESHOLD = 10  # gray levels


def changing_fraction(gray: NDArray[np.uint8]) -> float:
    """Mean fraction of pixels with |Δgray| > 10 between consecutive gray frames (F, H, W), F ≥ 2."""
    return float(np.mean([_changed(a, b) for a, b in pairwise(gray)]))


def _changed(first: Gray, second: Gray) -> float:
    return float(np.count_nonzero(cv2.absdiff(first, second) > THRESHOLD) / first.size)


CHANGED = PairStatistic("changed fraction", lambda pair: _changed(pair.first, pair.second), flow=False)


@metric(
    "dynamic_degree",
    unit="fraction",
    better=Better.REPORT,
    range=(0, 1),
    source="Circle-Rotate motion metrics: pixels whose gray value changes by more than 10",
    pairs=(CHANGED,),
)
def dynamic_degree(clip: Clip) -> Reading:
    """`changing_fraction` of all frames."""
    return Reading(float(clip.over_pairs(CHANGED).mean()), clip.shape[0])
