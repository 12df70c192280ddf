"""Clips that are too long to be held: one pass over their frames answers everything that pairs of frames can tell.

What looks at all frames at once is unavailable for such a clip; what looks at sixteen of them, or at one frame and the
next, is not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.errors import UserError, shown
from musubi_ext.evaluation.flow import Flow, Gray, consecutive_flows, magnitude, sample_indices
from musubi_ext.evaluation.profile import Profile
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.orbits.clips import ClipInfo
from musubi_ext.orbits.decode import pool as decode
from musubi_ext.video import Frames

HELD_BYTES = 768 << 20  # of RGB frames in memory: 291 of 1280×720, 129 of 1920×1080


@dataclass(frozen=True)
class Pair:
    """A gray frame (H, W), the next one, the flow between them and the flow of the pair before, None for the first.

    The flow (h, w, 2) is in pixels of the clip; the fast profile samples it on a coarser grid. It is empty unless one
    of the statistics asked for it.
    """

    first: Gray
    second: Gray
    flow: Flow
    before: Flow | None


@dataclass(frozen=True)
class PairStatistic:
    """A number measured on every pair of consecutive frames; `flow`: whether it looks at the flow."""

    name: str
    measure: Callable[[Pair], float]
    flow: bool = True


MEAN_SPEED = PairStatistic("mean speed", lambda pair: float(magnitude(pair.flow).mean()))


def gray_of(frame: Frames) -> Gray:
    """An RGB frame (H, W, 3) in gray, OpenCV's weights (BT.601)."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def scan(
    grays: Iterable[Gray], statistics: Sequence[PairStatistic], profile: Profile, threads: int
) -> dict[PairStatistic, NDArray[np.float64]]:
    """Every statistic over the pairs of consecutive gray frames (H, W): arrays (F − 1,). Holds a few frames."""
    held: deque[Gray] = deque()
    values: dict[PairStatistic, list[float]] = {statistic: [] for statistic in statistics}
    before: Flow | None = None
    for flow in _flows(_remembered(grays, held, profile), any(s.flow for s in statistics), profile, threads):
        first = held.popleft()
        pair = Pair(first, held[0], enlarged(flow, first.shape), before)
        for statistic, found in values.items():
            found.append(statistic.measure(pair))
        before = pair.flow
    return {statistic: np.array(found, np.float64) for statistic, found in values.items()}


def enlarged(flow: Flow, shape: tuple[int, ...]) -> Flow:
    """A flow (h, w, 2) between reduced frames in pixels of the clip, whose frames have `shape` (H, W)."""
    if flow.shape[:2] == shape or not flow.size:
        return flow
    return np.asarray(flow * np.array([shape[1] / flow.shape[1], shape[0] / flow.shape[0]], np.float32), np.float32)


def _remembered(grays: Iterable[Gray], held: deque[Gray], profile: Profile) -> Iterator[Gray]:
    for gray in grays:
        held.append(gray)
        yield profile.reduced(gray)


def _flows(grays: Iterator[Gray], wanted: bool, profile: Profile, threads: int) -> Iterator[Flow]:
    if wanted:
        yield from consecutive_flows(grays, threads, profile.levels)
        return
    nothing = np.empty((0, 0, 2), np.float32)
    for _ in pairwise(grays):
        yield nothing


class VideoFile:
    """A file whose frames are decoded in one pass, while earlier ones are measured; held only if they are few enough.

    `info`: as probed.
    """

    def __init__(self, path: Path | str, info: ClipInfo) -> None:
        self.path, self.info = path, info
        self._count = info.frames  # as the container counts them, until a pass has decoded them

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(F, H, W, 3)."""
        return self._count, self.info.height, self.info.width, 3

    @property
    def is_long(self) -> bool:
        """Whether its frames are too many to be held."""
        return math.prod(self.shape) > HELD_BYTES

    def read(
        self, statistics: Sequence[PairStatistic], profile: Profile, threads: int
    ) -> tuple[dict[PairStatistic, NDArray[np.float64]], Frames]:
        """The statistics, and the frames met on the way: all (F, H, W, 3), of a long clip the sampled (16, H, W, 3).

        Raises UserError when the file cannot be decoded to its end.
        """
        for _ in range(2):  # a container may count frames that its decoder does not give: once more, with what it gives
            count, is_long = self._count, self.is_long
            wanted = sample_indices(count).tolist() if is_long else list(range(count))
            places = {index: place for place, index in enumerate(dict.fromkeys(wanted))}
            kept = np.empty((len(places), *self.shape[1:]), np.uint8)
            values = scan(self._grays(places, kept), statistics, profile, threads)
            if self._count == count:
                return values, kept[[places[index] for index in wanted]] if is_long else kept
        raise UserError(f"{shown(self.path)}: gives another number of frames each time it is decoded (re-encode it)")

    def refusal(self) -> UnavailableError:
        """Why the frames of a long clip cannot be looked at together."""
        size = math.prod(self.shape) / (1 << 30)
        return UnavailableError(
            f"needs all {self.shape[0]} frames at once, {size:.1f} GiB; {HELD_BYTES / (1 << 30):.2f} GiB are the limit"
        )

    def _grays(self, places: Mapping[int, int], kept: Frames) -> Iterator[Gray]:
        count = 0
        for frame in decode.stream(self.path, self.info.size):
            if count in places:
                kept[places[count]] = frame
            count += 1
            yield gray_of(frame)
        self._count = count
