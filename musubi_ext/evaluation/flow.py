"""Dense optical flow as Circle-Rotate measures it, and its sampling of sixteen frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

SAMPLES = 16
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)  # pyramid scale, levels, window, iterations, poly_n, poly_sigma, flags


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV on one thread inside the block, so that evaluation neither fights its neighbours nor varies."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def sample_indices(frames: int) -> NDArray[np.int64]:
    """Circle-Rotate's frames16: `linspace(0, n-1, 16, dtype=int)`; shorter clips repeat frames."""
    return np.linspace(0, frames - 1, SAMPLES, dtype=np.int64)


def speed(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Magnitude (H, W), in pixels, of Farnebäck's flow from one gray frame (H, W) to the next.

    Exactly 0 between identical frames only where the border is dark: OpenCV takes the coefficients beyond the last row
    and column for 0, and a frame compared with itself flows by up to about 2e-3 px on average. The published values
    contain that (their clips repeat frames), so it is not corrected here.
    """
    flow = cv2.calcOpticalFlowFarneback(first, second, None, *FARNEBACK)
    return np.asarray(np.hypot(flow[..., 0], flow[..., 1]), dtype=np.float32)
