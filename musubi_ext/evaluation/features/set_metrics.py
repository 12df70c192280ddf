"""What a metric of two sets of videos is, and what it answers. It has no value for a single clip."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from musubi_ext.evaluation.features.pinned import Network
from musubi_ext.evaluation.features.source import Features, ModelSource
from musubi_ext.video import Frames


@dataclass(frozen=True)
class SetMetric:
    """A distance between sets, lower is better, from 0 up.

    `embed` turns a video's sixteen sampled frames (16, H, W, 3) into features (N, D); one of the N is a `sample`.
    """

    name: str
    unit: str
    source: str
    licence: str
    network: Network
    sample: str
    embed: Callable[[ModelSource, Frames], Features]


@dataclass(frozen=True)
class SetResult:
    """A set metric's value, or why it has none. `videos` and `samples` count generated and reference ones.

    `warning` says what the value cannot carry, "" when nothing; `backend` names the weights that were loaded.
    """

    value: float | None
    unit: str
    videos: tuple[int, int]
    samples: tuple[int, int]
    backend: str
    licence: str
    warning: str = ""
    unavailable: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.unavailable is None):
            raise ValueError("a result has either a value or a reason why it is unavailable")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a result's value is finite, got {self.value}: give the reason instead")
