"""The table of metrics: each file of this package adds one or two under a name, with what a reader must know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.result import Reading
from musubi_ext.evaluation.stream import PairStatistic

OPENCV = f"opencv {cv2.__version__}"
NUMPY = f"numpy {np.__version__}"


class Better(StrEnum):
    """Which way a metric improves; REPORT is neither and must not be gated alone."""

    HIGHER = "higher"
    LOWER = "lower"
    REPORT = "report"


@dataclass(frozen=True)
class Metric:
    """A named measurement of a clip: unit, which way is better, closed range (None: unbounded), and where it is from.

    `licence`: of the weights or code behind it, "" when it is ours. `pairs`: what it reads with `Clip.over_pairs`, so
    that one pass over the frames serves every metric. `compute` raises UnavailableError when the clip cannot answer.
    """

    name: str
    unit: str
    better: Better
    range: tuple[float | None, float | None]
    source: str
    backend: str
    compute: Callable[[Clip], Reading]
    licence: str = ""
    pairs: tuple[PairStatistic, ...] = ()


METRICS: dict[str, Metric] = {}


def metric(
    name: str,
    *,
    unit: str,
    better: Better,
    range: tuple[float | None, float | None],
    source: str,
    backend: str = NUMPY,
    licence: str = "",
    pairs: tuple[PairStatistic, ...] = (),
) -> Callable[[Callable[[Clip], Reading]], Callable[[Clip], Reading]]:
    """Register the decorated measurement under `name`. Raises ValueError if the name is taken."""

    def register(compute: Callable[[Clip], Reading]) -> Callable[[Clip], Reading]:
        if name in METRICS:
            raise ValueError(f"metric {name!r} is registered twice")
        METRICS[name] = Metric(name, unit, better, range, source, backend, compute, licence, pairs)
        return compute

    return register
