"""Flow between any two frames of a clip, measured in runs that share frames and kept while memory lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import cv2
import numpy as np

from musubi_ext.evaluation.flow import Flow, Gray, consecutive_flows, sample_indices
from musubi_ext.evaluation.profile import Profile
from musubi_ext.evaluation.stream import enlarged

KEPT_BYTES = 256 << 20  # of flow; what does not fit is measured again when asked for again


class SharedFlow:
    """Flows (H, W, 2) of a clip of `shape` (F, H, W, 3). It does not hold the clip, which holds it."""

    def __init__(self, shape: tuple[int, int, int, int], profile: Profile, threads: int) -> None:
        self._size = shape[1:3]
        self._profile, self._threads = profile, threads
        self._runs = [sample_indices(shape[0]).tolist(), list(range(shape[0]))]
        self._kept: dict[tuple[int, int], Flow] = {}

    def between(self, first: int, second: int, gray_at: Callable[[int], Gray]) -> Flow:
        """From one frame to another; with a sampled pair come all sampled ones, with a consecutive pair all such.

        `gray_at` gives the clip's gray frames by index.
        """
        pair = (first, second)
        if pair not in self._kept:
            run = next((run for run in self._runs if pair in pairwise(run) and self._fits(run)), None)
            if run is None:
                return next(self._measured([first, second], gray_at))
            self._kept |= zip(pairwise(run), self._measured(run, gray_at), strict=True)
        return self._kept[pair]

    def _fits(self, run: list[int]) -> bool:
        height, width = self._size
        return (len(run) - 1 + len(self._kept)) * height * width * 8 <= KEPT_BYTES

    def _measured(self, run: list[int], gray_at: Callable[[int], Gray]) -> Iterator[Flow]:
        reduced = (self._profile.reduced(gray_at(index)) for index in run)
        for flow in consecutive_flows(reduced, min(self._threads, len(run) - 1), self._profile.levels):
            yield self._full_size(flow)

    def _full_size(self, flow: Flow) -> Flow:
        height, width = self._size
        if flow.shape[:2] == self._size:
            return flow
        return np.asarray(cv2.resize(enlarged(flow, self._size), (width, height)), np.float32)
