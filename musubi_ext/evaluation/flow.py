"""Dense optical flow as Circle-Rotate measures it, and its sampling of sixteen frames."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.farneback import BORDER, LEVELS, Expansion, expand, is_exact
from musubi_ext.evaluation.farneback import flow as flow_of

SAMPLES = 16
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)  # pyramid scale, levels, window, iterations, poly_n, poly_sigma, flags
AHEAD = 2  # frames under way for each thread

Gray = NDArray[np.uint8]
Flow = NDArray[np.float32]


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV on one thread inside the block, so that evaluation neither fights its neighbours nor varies."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sample_indices(frames: int) -> NDArray[np.int64]:
    """Circle-Rotate's frames16: `linspace(0, n-1, 16, dtype=int)`; shorter clips repeat frames."""
    return np.linspace(0, frames - 1, SAMPLES, dtype=np.int64)


def dense_flow(first: Gray, second: Gray) -> Flow:
    """Farnebäck's flow (H, W, 2), x and y in pixels, from one gray frame (H, W) to the next.

    Exactly 0 between identical frames only where the border is dark: OpenCV takes the coefficients beyond the last row
    and column for 0, and a frame compared with itself flows by up to about 2e-3 px on average. The published values
    contain that (their clips repeat frames), so it is not corrected here.
    """
    return _between(_Frame(first), _Frame(second))


def speed(first: Gray, second: Gray) -> NDArray[np.float32]:
    """Magnitude (H, W), in pixels, of `dense_flow`."""
    return magnitude(dense_flow(first, second))


def magnitude(flow: Flow) -> NDArray[np.float32]:
    """Length (H, W) of the vectors of a flow (H, W, 2).

    Not `cv2.magnitude`, whose last bit depends on where in memory its input lies.
    """
    x, y = flow[..., 0], flow[..., 1]
    squares = x * x
    squares += y * y
    return np.asarray(np.sqrt(squares, out=squares), np.float32)


def consecutive_flows(frames: Iterable[Gray], threads: int = 1, levels: int = LEVELS) -> Iterator[Flow]:
    """The flow from each gray frame (H, W) to the next, in order; a few frames are held, however many there are.

    Equal for any number of threads: OpenCV and numpy let other threads run meanwhile. `levels`: of the pyramid.
    """
    if threads == 1:
        expanded = (_Frame(gray, levels) for gray in frames)
        yield from (_between(first, second) for first, second in pairwise(expanded))
        return
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[Flow]] = deque()
        try:
            before: Future[_Frame] | None = None
            for gray in frames:
                # First in, first out: by the time a flow is begun, its two frames are being expanded or done.
                this = pool.submit(_Frame, gray, levels)
                if before is not None:
                    under_way.append(pool.submit(_between_futures, before, this))
                before = this
                if len(under_way) > AHEAD * threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


class _Frame:
    """A gray frame and its expansion, which both neighbours need."""

    def __init__(self, gray: Gray, levels: int = LEVELS) -> None:
        self.gray, self.levels = gray, levels
        self.expansion: Expansion | None = None
        if is_exact() and min(gray.shape) >= 2 * len(BORDER):
            self.expansion = expand(gray, levels)


def _between_futures(first: Future[_Frame], second: Future[_Frame]) -> Flow:
    return _between(first.result(), second.result())


def _between(first: _Frame, second: _Frame) -> Flow:
    # Between identical frames the border decides by the sign of what rounding leaves over: OpenCV's rounding, then.
    if first.expansion is None or second.expansion is None or np.array_equal(first.gray, second.gray):
        settings = (FARNEBACK[0], first.levels, *FARNEBACK[2:])
        return np.asarray(cv2.calcOpticalFlowFarneback(first.gray, second.gray, None, *settings), np.float32)
    return np.moveaxis(flow_of(first.expansion, second.expansion), 0, -1)
