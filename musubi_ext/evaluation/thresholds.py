"""What the gate asks for: the defaults, and the TOML that changes them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import toml

from musubi_ext.errors import Problems, UserError
from musubi_ext.evaluation.metric_limits import MetricLimits, near, parse_metric
from musubi_ext.evaluation.motion_floor import MEASURES, RATIO

TABLES = ("gate", "motion", "metrics")
SUITE = "suite"  # what a promotion films stands in the same file
_BUILT_IN = {"drift": "min_drift_gain", "direction": "min_direction_accuracy"}  # check: the key that asks for it
_FRACTIONS = ("max_unavailable", "min_direction_accuracy")


@dataclass(frozen=True)
class Thresholds:
    """Limits of a promotion; `mlflow_projects/gate.toml` explains each.

    `motion_metric` is what the floor looks at: `motion_ratio`, another measure relative to the base's video, or "" for
    the first of them that was measured. `built_in` are the checks of rendered scenes that are made (drift, direction);
    `metrics` the limits of `[metrics.NAME]` tables.
    """

    min_scenes: int = 5
    max_unavailable: float = 0.1  # fraction of scenes
    min_drift_gain: float = 0.0  # pixels
    min_motion_ratio: float = 0.7
    min_direction_accuracy: float = 0.9
    motion_metric: str = RATIO
    built_in: tuple[str, ...] = tuple(_BUILT_IN)
    metrics: Mapping[str, MetricLimits] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | str) -> Thresholds:
        """Read a gate TOML. Raises UserError naming every problem in it."""
        try:
            values = toml.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, IndexError) as error:  # toml 0.10 lets an IndexError out of some malformed lines
            raise UserError(f"{path}: not TOML: {error}") from error
        return cls.parse(values, where=path)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: Path | str = "gate") -> Thresholds:
        """Thresholds from tables `gate`, `motion`, `metrics`, or from the gate's own keys alone; what is left out keeps
        its default. Raises UserError naming every problem.

        With `metrics` tables the checks of rendered scenes are made only where their key is written down, and the
        motion floor takes what was measured: real videos have no truth.
        """
        problems = Problems()
        values = {name: value for name, value in values.items() if name != SUITE}  # the promotion's, not the gate's
        # The gate's keys may stand at the top, as they did before there were other tables.
        at_top = {name: value for name, value in values.items() if name not in TABLES}
        if "gate" in values or any(isinstance(value, Mapping) for value in at_top.values()):
            for name in at_top:
                problems.add(where, f"unknown table {name!r}", near(name, TABLES))
            at_top = {}
        tables = {name: values.get(name, {}) for name in TABLES}
        for name, table in tables.items():
            if not isinstance(table, Mapping):
                problems.add(where, f"{name}: expected a table, found {table!r}", f"write [{name}]")
                tables[name] = {}
        keys = at_top or tables["gate"]
        found = _gate(keys, where, problems)
        if tables["metrics"]:
            found["built_in"] = tuple(check for check, key in _BUILT_IN.items() if key in keys)
            found["motion_metric"] = ""
        found |= _motion(tables["motion"], keys, where, problems)
        limits = {name: parse_metric(name, table, where, problems) for name, table in tables["metrics"].items()}
        problems.raise_if_any()
        return cls(**found, metrics={name: limit for name, limit in limits.items() if limit is not None})


def _gate(keys: Mapping[str, Any], where: Path | str, problems: Problems) -> dict[str, Any]:
    numbers = [item.name for item in dataclasses.fields(Thresholds) if isinstance(item.default, int | float)]
    for name, value in keys.items():
        if name not in numbers:
            problems.add(where, f"unknown threshold {name!r}", near(name, numbers))
        elif isinstance(value, bool) or not isinstance(value, int | float):
            problems.add(where, f"{name}: expected a number, found {value!r}")
        elif name == "min_scenes" and (not math.isfinite(value) or value < 1 or value != int(value)):
            problems.add(where, f"{name}: expected a whole number of at least 1, found {value!r}")
        elif name in _FRACTIONS and not 0 <= value <= 1:
            problems.add(where, f"{name}: expected a fraction in [0, 1], found {value!r}")
        elif not 0 <= value < math.inf:
            problems.add(where, f"{name}: expected a finite number of at least 0, found {value!r}")
    return {name: value for name, value in keys.items() if name in numbers}


def _motion(table: Mapping[str, Any], keys: Mapping[str, Any], where: Path | str, problems: Problems) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if name == "metric":
            if value not in MEASURES:
                fix = near(value, MEASURES) if isinstance(value, str) else f"known: {', '.join(MEASURES)}"
                problems.add(where, f"motion.metric: {value!r} does not measure motion", fix)
            found["motion_metric"] = value
        elif name == "min":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                problems.add(where, f"motion.min: expected a number above 0, found {value!r}")
            if "min_motion_ratio" in keys:
                problems.add(where, "motion.min: the floor is given twice", "remove gate.min_motion_ratio")
            found["min_motion_ratio"] = value
        else:
            problems.add(where, f"motion.{name}: unknown key", near(name, ("metric", "min")))
    return found
