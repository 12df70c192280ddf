"""Structural similarity: against the truth, and of the last frame against the first."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.result import Reading
from musubi_ext.evaluation.stream import gray_of

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def _window(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(cv2.GaussianBlur(image, (11, 11), 1.5), dtype=np.float64)


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean of the full SSIM map of two gray images (H, W); 1 for identical ones (Wang et al. 2004, eq. 13).

    11×11 Gaussian window of 1.5, mirrored borders, population moments, float64, as Circle-Rotate computes it.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    mx, my = _window(x), _window(y)
    vx, vy = _window(x * x) - mx * mx, _window(y * y) - my * my
    vxy = _window(x * y) - mx * my
    return float(np.mean(((2 * mx * my + C1) * (2 * vxy + C2)) / ((mx * mx + my * my + C1) * (vx + vy + C2))))


@metric(
    "ssim",
    unit="1",
    better=Better.HIGHER,
    range=(-1, 1),
    source="Wang et al. 2004 on gray frames against the truth, mean over frames",
    backend=OPENCV,
)
def ssim_truth(clip: Clip) -> Reading:
    """Mean over frames of the SSIM against the truth."""
    values = [ssim(a, gray_of(b)) for a, b in zip(clip.gray, clip.truth.frames, strict=True)]
    return Reading(float(np.mean(values)), len(clip.frames))


@metric(
    "ssim_first_last",
    unit="1",
    better=Better.REPORT,
    range=(-1, 1),
    source='Circle-Rotate "fidelity": first frame against last, gray; a static video scores best',
    backend=OPENCV,
)
def ssim_first_last(clip: Clip) -> Reading:
    """SSIM of the last frame against the first."""
    return Reading(ssim(gray_of(clip.sampled[0]), gray_of(clip.sampled[-1])), 2)
