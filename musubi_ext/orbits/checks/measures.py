"""What a clip's pixels say about it: sharpness, cuts, black bars, frozen frames. Numbers only; `checks.py` judges them.

All of it is measured on the frames that training would read, at its size but never enlarged: a blur that the resize
hides is no fault, and one that it adds is the resolution's.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.filmstrip import frame_indices
from musubi_ext.video import Frames

SAMPLED = 16  # frames looked at where every frame would say the same
STILL = 0.3  # gray levels: mean difference of a frame that repeats the one before (a re-encoded copy stays below 0.2)
NEIGHBOURS = 4  # frame steps to either side that a cut is compared with
FLOOR = 4.0  # gray levels added to that: film grain and small motion are no cut
BLACK = 24  # brightest level of a black bar: 16 is video black, the rest is what compression leaves
GrayFrames = NDArray[np.uint8]


def gray_frames(frames: Frames) -> GrayFrames:
    """Luma (F, H, W) of uint8 RGB frames (F, H, W, 3), as OpenCV weighs it."""
    return np.stack([np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in frames])


def sharpness(gray: GrayFrames) -> float:
    """Variance of the Laplacian of gray (F, H, W), median over 16 frames: the "Sharpness" of the Circle-Rotate data.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy" (ICPR 2000), as OpenCV users compute it: 3×3
    kernel of 4 neighbours. Its value depends on the size of the picture.
    """
    chosen = gray[frame_indices(len(gray), SAMPLED)]
    return float(np.median([cv2.Laplacian(frame, cv2.CV_32F).var(dtype=np.float64) for frame in chosen]))


def frame_steps(gray: GrayFrames) -> NDArray[np.float64]:
    """Mean absolute difference (F − 1,) of each frame with the one before, in gray levels."""
    return np.array([cv2.absdiff(before, after).mean() for before, after in pairwise(gray)], np.float64)


def cut_strength(steps: NDArray[np.float64]) -> float:
    """How many times the largest frame step exceeds the steps around it; 1 is steady motion, 0 a single frame.

    Each step is divided by the median of four before and four after, plus 4 gray levels. Frozen frames are passed
    over: where every second frame repeats the one before, every other step would look like a cut.
    """
    strongest, moving = 0.0, steps[steps >= STILL]
    for index, step in enumerate(moving):
        around = np.delete(moving[max(0, index - NEIGHBOURS) : index + NEIGHBOURS + 1], min(index, NEIGHBOURS))
        strongest = max(strongest, step / (FLOOR + (np.median(around) if len(around) else 0.0)))
    return float(strongest)


def frozen_share(steps: NDArray[np.float64]) -> float:
    """Share of frames, 0 to 1, that repeat the frame before; 0 for a single frame."""
    return float((steps < STILL).mean()) if len(steps) else 0.0


def bar_share(gray: GrayFrames) -> float:
    """Share of the picture, 0 to 1, covered by black rows and columns at its edges in every sampled frame."""
    brightest = gray[frame_indices(len(gray), SAMPLED)].max(axis=0)
    rows, columns = (np.percentile(brightest, 98, axis=axis) > BLACK for axis in (1, 0))
    return 1.0 - _extent(rows) * _extent(columns)


def _extent(lit: NDArray[np.bool_]) -> float:
    """Share of a side from the first lit line to the last."""
    found = np.flatnonzero(lit)
    return float(found[-1] - found[0] + 1) / len(lit) if len(found) else 0.0
