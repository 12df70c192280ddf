"""What the subject and its surroundings look like: histograms of colour, and which of the two a pixel looks like.

Two codings vote: the colour itself (Lab), and its chromaticity, which stays when the light on a surface changes
(ColorModel says why). Colours that neither has shown say nothing: evidence 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from musubi_ext.video import Frames

Codes = tuple[NDArray[np.int32], ...]  # a bin's number for each pixel, one array a coding
Map = NDArray[np.float32]

LAB_BINS = (16, 32, 32)  # of L, a, b in 8 bits
CHROMA_BINS = (48, 48)  # of r / (r + g + b) and g / (r + g + b)
DARK = 4.0  # levels added to each channel, so that the chromaticity of black is gray and steady
SOFT = 1.0  # bins: Gaussian over the histogram
EDGE = 1e-3  # variance of a channel in [0, 1] above which a difference is an edge, not grain
FLOOR = 0.3  # of a uniform distribution: what an unseen colour counts for on both sides


def codes(frame: Frames) -> Codes:
    """Bins of an RGB frame (H, W, 3) in each coding, (H, W)."""
    lab = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2LAB).astype(np.int32)
    values = frame.astype(np.float32) + DARK
    share = values[..., :2] / values.sum(axis=-1, keepdims=True)
    chroma = np.minimum((share * CHROMA_BINS[0]).astype(np.int32), CHROMA_BINS[0] - 1)
    return (
        ((lab[..., 0] >> 4) * LAB_BINS[1] + (lab[..., 1] >> 3)) * LAB_BINS[2] + (lab[..., 2] >> 3),
        chroma[..., 0] * CHROMA_BINS[1] + chroma[..., 1],
    )


def log_ratio(
    code: NDArray[np.int32], weight: NDArray[np.floating], shape: tuple[int, ...], floor: float
) -> Callable[[NDArray[np.int32]], Map]:
    """Log of the frequency of a bin among pixels of `weight` (…) in [0, 1] over its frequency among the others."""
    inside = _histogram(code, weight, shape)
    outside = _histogram(code, 1 - weight, shape)
    least = floor / inside.size
    table = np.log((inside + least) / (outside + least)).astype(np.float32)
    return lambda of: np.asarray(table[of], dtype=np.float32)


def _histogram(code: NDArray[np.int32], weight: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.float64]:
    counts = np.bincount(code.ravel(), weights=weight.ravel().astype(np.float64), minlength=int(np.prod(shape)))
    soft = ndimage.gaussian_filter(counts.reshape(shape), SOFT, mode="constant").ravel()
    return np.asarray(soft / max(soft.sum(), 1e-9), dtype=np.float64)


@dataclass(frozen=True)
class Appearance:
    """Subject against surroundings, learnt from pixels and how much each belongs to the subject."""

    tables: tuple[Callable[[NDArray[np.int32]], Map], ...]

    @classmethod
    def fit(cls, seen: Codes, weight: NDArray[np.floating]) -> Appearance:
        """Learn from codes (…) and the subject's share of each pixel (…), 0 to 1."""
        shapes = (LAB_BINS, CHROMA_BINS)
        return cls(tuple(log_ratio(c, weight, shape, FLOOR) for c, shape in zip(seen, shapes, strict=True)))

    def evidence(self, seen: Codes) -> Map:
        """Mean log ratio (H, W) of the codings: above 0 looks like the subject."""
        ratios = [table(code) for table, code in zip(self.tables, seen, strict=True)]
        return np.asarray(np.mean(ratios, axis=0), dtype=np.float32)


def smoothed(frame: Frames, values: Map, radius: int) -> Map:
    """`values` (H, W) smoothed within the edges of `frame` (H, W, 3): the guided filter of K. He et al., ECCV 2010.

    One filter a colour channel, averaged.
    """
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(picture: NDArray[np.floating]) -> Map:
        return np.asarray(cv2.blur(picture, side, borderType=cv2.BORDER_REPLICATE), dtype=np.float32)

    total = np.zeros(values.shape, np.float32)
    level = mean(values)
    for channel in range(3):
        guide = frame[..., channel].astype(np.float32) / 255
        middle = mean(guide)
        slope = (mean(guide * values) - middle * level) / (mean(guide * guide) - middle * middle + EDGE)
        total += mean(slope) * guide + mean(level - slope * middle)
    return np.asarray(total / 3, dtype=np.float32)
