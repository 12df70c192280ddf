"""One `[metrics.NAME]` table of a gate TOML: what one metric must show."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from musubi_ext.errors import Problems
from musubi_ext.evaluation.metrics import METRICS, Better


@dataclass(frozen=True)
class MetricLimits:
    """Limits of one metric, in its unit; None asks for nothing.

    The improvement's whole interval must lie above `min_effect`, or above minus `max_loss` ("not worse by more than").
    The pair's own median (mean for yes-or-no metrics) must lie in [`min`, `max`]. A metric that is not `required` may
    be missing; one that is must be available in all but `max_unavailable` of the scenes (the gate's when None).
    """

    better: Better
    min_effect: float | None = None
    max_loss: float | None = None
    min: float | None = None
    max: float | None = None
    required: bool = True
    max_unavailable: float | None = None


_NAMES = tuple(item.name for item in fields(MetricLimits))
_AT_LEAST_0 = ("min_effect", "max_loss")


def parse_metric(name: str, table: object, where: Path | str, problems: Problems) -> MetricLimits | None:
    """Limits from one table; what is wrong is added to `problems`, and None returned when nothing can be made of it."""
    place = f"metrics.{name}"
    if name not in METRICS:
        problems.add(where, f"{place}: no such metric", near(name, METRICS))
    if not isinstance(table, Mapping):
        problems.add(where, f"{place}: expected a table, found {table!r}", f"write [{place}] and its keys below")
        return None
    before = len(problems.found)
    for key, value in table.items():
        _check(f"{place}.{key}", key, value, where, problems)
    better = METRICS[name].better if name in METRICS else Better.REPORT
    if table.get("better") in list(Better):
        asked = Better(table["better"])
        if better not in (Better.REPORT, asked):
            problems.add(where, f"{place}.better: {asked.value}, but {better.value} is better for {name}", "remove it")
        better = asked
    if len(problems.found) > before or name not in METRICS:
        return None
    limits = MetricLimits(**{**table, "better": better})
    _consistent(limits, place, where, problems)
    return limits


def _check(place: str, key: str, value: object, where: Path | str, problems: Problems) -> None:
    if key not in _NAMES:
        problems.add(where, f"{place}: unknown key", near(key, _NAMES))
    elif key == "better":
        if value not in (Better.HIGHER, Better.LOWER):
            problems.add(where, f"{place}: expected higher or lower, found {value!r}")
    elif key == "required":
        if not isinstance(value, bool):
            problems.add(where, f"{place}: expected true or false, found {value!r}")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        problems.add(where, f"{place}: expected a finite number, found {value!r}")
    elif key == "max_unavailable" and not 0 <= value <= 1:
        problems.add(where, f"{place}: expected a fraction in [0, 1], found {value!r}")
    elif key in _AT_LEAST_0 and value < 0:
        problems.add(where, f"{place}: expected at least 0, found {value!r}", "a loss that is allowed is max_loss")


def _consistent(limits: MetricLimits, place: str, where: Path | str, problems: Problems) -> None:
    against_base = [key for key in _AT_LEAST_0 if getattr(limits, key) is not None]
    if len(against_base) == 2:
        problems.add(where, f"{place}: min_effect and max_loss exclude one another", "keep one")
    if against_base and limits.better is Better.REPORT:
        problems.add(where, f"{place}.{against_base[0]}: neither way is better", 'add better = "higher" or "lower"')
    if limits.min is not None and limits.max is not None and limits.min > limits.max:
        problems.add(where, f"{place}: min {limits.min:g} is above max {limits.max:g}")
    if not limits.required and not against_base and limits.min is None and limits.max is None:
        problems.add(where, f"{place}: asks for nothing", "give min_effect, max_loss, min or max, or remove the table")


def near(word: str, known: Collection[str]) -> str:
    """ "did you mean min_effect?", or all there is to choose from."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
