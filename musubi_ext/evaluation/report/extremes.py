"""Which clips a reader should see: the worst and the best of each metric. One that stands still is never the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from musubi_ext.evaluation.metrics import Better
from musubi_ext.evaluation.motion_floor import still
from musubi_ext.evaluation.report.parts import better_of
from musubi_ext.evaluation.result import Result

Clips = Mapping[str, Mapping[str, Result]]


@dataclass(frozen=True)
class Extremes:
    """The two ends of one metric. `best` is None when all others stand still; `passed_over`: the still ones."""

    metric: str
    worst: str
    best: str | None
    passed_over: tuple[str, ...]


def values_of(clips: Clips, metric: str) -> dict[str, float]:
    """The metric's value by clip, where there is one."""
    return {name: value for name, of in clips.items() if metric in of and (value := of[metric].value) is not None}


def extremes(clips: Clips, metric: str) -> Extremes | None:
    """Worst and best clip; None for a metric without a better way, or that tells no two clips apart."""
    better, values = better_of(metric), values_of(clips, metric)
    if better is Better.REPORT or len(set(values.values())) < 2:
        return None
    sign = 1 if better is Better.HIGHER else -1
    order = sorted(values, key=lambda name: (sign * values[name], name))
    frozen = [name for name in reversed(order[1:]) if still(clips[name])]
    moving = [name for name in order[1:] if name not in frozen]
    best = moving[-1] if moving else None
    before = [name for name in frozen if best is None or order.index(name) > order.index(best)]
    return Extremes(metric, order[0], best, tuple(before))
