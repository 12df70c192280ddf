"""Peak signal-to-noise ratio: against the truth, and of the last frame against the first."""

from __future__ import annotations

import cv2
import numpy as np

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import Better, metric
from musubi_ext.evaluation.result import Reading, UnavailableError
from musubi_ext.video import Frames


def psnr(a: Frames, b: Frames) -> float:
    """10·log10(255² / mean((a − b)²)) in dB over all values of two uint8 arrays of one shape.

    Raises UnavailableError for identical frames, whose PSNR is infinite and has no place in JSON.
    """
    if a.ndim > 3:  # frame by frame: the differences of a whole clip would need eight times its memory
        error = sum(cv2.norm(x, y, cv2.NORM_L2SQR) for x, y in zip(a, b, strict=True)) / a.size
    else:
        error = cv2.norm(a, b, cv2.NORM_L2SQR) / a.size
    if error == 0:
        raise UnavailableError("identical frames: PSNR is infinite")
    return float(10 * np.log10(255.0**2 / error))


@metric(
    "psnr",
    unit="dB",
    better=Better.HIGHER,
    range=(0, None),
    source="10·log10(255²/MSE) against the truth, one MSE over all frames and RGB",
)
def psnr_truth(clip: Clip) -> Reading:
    """PSNR against the truth, from the squared error of the whole clip: a perfect given first frame cannot win it."""
    return Reading(psnr(clip.frames, clip.truth.frames), len(clip.frames))


@metric(
    "psnr_first_last",
    unit="dB",
    better=Better.REPORT,
    range=(0, None),
    source='Circle-Rotate "fidelity": first frame against last, RGB; a static video scores best',
)
def psnr_first_last(clip: Clip) -> Reading:
    """PSNR of the last frame against the first."""
    return Reading(psnr(clip.sampled[0], clip.sampled[-1]), 2)
