"""How much fine detail frames hold, and how much of it is left as a video goes on."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.result import Reading, UnavailableError

LAST = 4  # of sixteen sampled frames: the last quarter
FLAT = 1e-3  # variance of a picture without detail, of which nothing can be lost


def laplacian_variance(gray: NDArray[np.uint8]) -> float:
    """Variance of the 3×3 Laplacian (4 neighbours) of a gray frame (H, W), as `orbits.checks.measures` takes it."""
    return float(cv2.Laplacian(gray, cv2.CV_32F).var(dtype=np.float64))


def _variances(clip: Clip) -> list[float]:
    return [laplacian_variance(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)) for frame in clip.sampled]


@metric(
    "sharpness",
    unit="level²",
    better=Better.REPORT,
    range=(0, None),
    source='Pech-Pacheco et al. 2000, median of 16 frames: "Sharpness" of the Circle-Rotate data; noise raises it',
    backend=OPENCV,
)
def sharpness(clip: Clip) -> Reading:
    """Median over the sampled frames; depends on the picture's size and on what it shows."""
    return Reading(float(np.median(_variances(clip))), len(set(clip.samples.tolist())))


@metric(
    "sharpness_ratio",
    unit="1",
    better=Better.REPORT,
    range=(0, None),
    source="sharpness of the last 4 of 16 sampled frames over the first frame's: below 1, blur accumulates",
    backend=OPENCV,
)
def sharpness_ratio(clip: Clip) -> Reading:
    """1 for a video that keeps its detail. What comes into view counts too: compare it with another's."""
    variances = _variances(clip)
    if variances[0] < FLAT:
        raise UnavailableError("the first frame has no detail that could be lost")
    frames = len({0, *clip.samples[-LAST:].tolist()})
    return Reading(float(np.mean(variances[-LAST:]) / variances[0]), frames)
