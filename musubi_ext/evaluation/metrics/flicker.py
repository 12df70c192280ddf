"""What trembles: motion that changes from one frame to the next, brightness that goes up and down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.flow import Flow, Gray
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.result import Reading, UnavailableError
from musubi_ext.evaluation.stream import Pair, PairStatistic

Floats = NDArray[np.float32]

ROWS = 180  # of the grid of places looked at: flow is smooth, more cost time and change nothing
MARGIN = 1 / 16  # of each side: there the flow lacks the picture beyond the edge, and what comes into view


def acceleration(before: Flow, flow: Flow, size: tuple[int, int]) -> float:
    """Mean |f₂(x + f₁(x)) − f₁(x)| in pixels: how the speed of what is seen at x changes in the next step.

    `before` f₁ and `flow` f₂ (h, w, 2) are in pixels of a clip of `size` (W, H). Taken along the path of each
    place, not at it: what moves steadily counts nothing, whether the whole picture or an object before it. Left out are
    a sixteenth at each edge and what moves there.
    """
    paths = _paths(before, size)
    change = cv2.remap(flow, *paths.there, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) - paths.of(before)
    return paths.mean(np.hypot(change[..., 0], change[..., 1]))


def brightening(pair: Pair) -> float:
    """Mean of I₂(x + f(x)) − I₁(x) in gray levels: how much brighter what was seen has become."""
    shape = pair.flow.shape[:2]
    first, second = (_resized(gray, shape) for gray in (pair.first, pair.second))
    paths = _paths(pair.flow, (pair.first.shape[1], pair.first.shape[0]))
    moved = cv2.remap(second, *paths.there, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return paths.mean(moved.astype(np.float32) - paths.of(first))


@dataclass(frozen=True)
class _Paths:
    """Places a few cells apart, in a grid, and where they go: `there` x and y in cells; `kept`: inside the margin."""

    step: int
    there: tuple[Floats, Floats]
    kept: NDArray[np.bool_]

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """The values (h, w, …) of a grid at the places."""
        return values[:: self.step, :: self.step]

    def mean(self, values: NDArray[Any]) -> float:
        """Mean over the kept places, NaN if there are none."""
        return float(values[self.kept].mean(dtype=np.float64)) if self.kept.any() else np.nan


def _paths(flow: Flow, size: tuple[int, int]) -> _Paths:
    height, width = flow.shape[:2]
    step = max(1, min(height, width) // ROWS)
    columns, rows = _grid(height, width, step)
    x = columns + flow[::step, ::step, 0] * np.float32(width / size[0])
    y = rows + flow[::step, ::step, 1] * np.float32(height / size[1])
    right, down = MARGIN * width, MARGIN * height
    kept = (columns >= right) & (columns < width - right) & (rows >= down) & (rows < height - down)
    kept &= (x >= right) & (x < width - right) & (y >= down) & (y < height - down)
    return _Paths(step, (x, y), kept)


@lru_cache(maxsize=4)
def _grid(height: int, width: int, step: int) -> tuple[Floats, Floats]:
    columns, rows = np.meshgrid(
        np.arange(0, width, step, dtype=np.float32), np.arange(0, height, step, dtype=np.float32)
    )
    return columns, rows


def _resized(gray: Gray, shape: tuple[int, int]) -> Gray:
    if gray.shape == shape:
        return gray
    return np.asarray(cv2.resize(gray, (shape[1], shape[0]), interpolation=cv2.INTER_AREA), np.uint8)


def _acceleration(pair: Pair) -> float:
    """NaN for the first pair, which has none before it."""
    size = pair.first.shape[1], pair.first.shape[0]
    return np.nan if pair.before is None else acceleration(pair.before, pair.flow, size)


ACCELERATION = PairStatistic("acceleration", _acceleration)
BRIGHTENING = PairStatistic("brightening", brightening)


def _triples(clip: Clip, statistic: PairStatistic) -> NDArray[np.float64]:
    if clip.shape[0] < 3:
        raise UnavailableError(f"flicker needs three frames, the clip has {clip.shape[0]}")
    return clip.over_pairs(statistic)


def _reading(changes: NDArray[np.float64], clip: Clip) -> Reading:
    known = changes[np.isfinite(changes)]
    if len(known) < len(changes) / 2:
        raise UnavailableError("everything leaves the picture from one frame to the next")
    return Reading(float(known.mean()), clip.shape[0])


@metric(
    "temporal_flicker",
    unit="px",
    better=Better.LOWER,
    range=(0, None),
    source="second difference of Farnebäck flow along the path, mean over triples of frames; a still video scores 0",
    backend=OPENCV,
    pairs=(ACCELERATION,),
)
def temporal_flicker(clip: Clip) -> Reading:
    """Mean of `acceleration` over all triples of consecutive frames: pixels per frame, per frame."""
    return _reading(_triples(clip, ACCELERATION)[1:], clip)


@metric(
    "luminance_flicker",
    unit="level",
    better=Better.LOWER,
    range=(0, None),
    source="second difference of brightness along the flow, mean over triples of frames; a still video scores 0",
    backend=OPENCV,
    pairs=(BRIGHTENING,),
)
def luminance_flicker(clip: Clip) -> Reading:
    """Mean change of `brightening` from pair to pair: 0 for a steady fade, 2 d for brightness that alternates by d."""
    return _reading(np.abs(np.diff(_triples(clip, BRIGHTENING))), clip)
