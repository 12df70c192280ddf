"""What the gate asks for: the defaults, and the TOML that changes them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import toml

from musubi_ext.errors import Problems, UserError


@dataclass(frozen=True)
class Thresholds:
    """Limits of a promotion; `mlflow_projects/gate.toml` explains each."""

    min_scenes: int = 5
    max_unavailable: float = 0.1  # fraction of scenes
    min_drift_gain: float = 0.0  # pixels
    min_motion_ratio: float = 0.7
    min_direction_accuracy: float = 0.9

    @classmethod
    def load(cls, path: Path | str) -> Thresholds:
        """Read a gate TOML. Raises UserError naming every problem in it."""
        try:
            values = toml.load(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        except (toml.TomlDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not TOML: {error}") from error
        return cls.parse(values.get("gate", values), where=path)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: Path | str = "gate") -> Thresholds:
        """Thresholds from a mapping; names left out keep their default. Raises UserError naming every problem."""
        problems = Problems()
        limits = {field.name: field.default for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in limits:
                near = difflib.get_close_matches(name, limits, n=1)
                fix = f"did you mean {near[0]}?" if near else f"known: {', '.join(limits)}"
                problems.add(where, f"unknown threshold {name!r}", fix)
            elif isinstance(value, bool) or not isinstance(value, int | float):
                problems.add(where, f"{name}: expected a number, found {value!r}")
            elif name == "min_scenes" and (value < 1 or value != int(value)):
                problems.add(where, f"{name}: expected a whole number of at least 1, found {value!r}")
            elif name in ("max_unavailable", "min_direction_accuracy") and not 0 <= value <= 1:
                problems.add(where, f"{name}: expected a fraction in [0, 1], found {value!r}")
            elif not 0 <= value < float("inf"):
                problems.add(where, f"{name}: expected a finite number of at least 0, found {value!r}")
        problems.raise_if_any()
        return cls(**values)
