"""May a pair be promoted? Its results against the base model's on the same scenes and seeds, with every reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from musubi_ext.errors import UserError
from musubi_ext.evaluation.result import ClipResults, Result
from musubi_ext.evaluation.statistics import median_interval, paired_difference
from musubi_ext.evaluation.thresholds import Thresholds


@dataclass(frozen=True)
class Check:
    """One question of the gate. `value` is what was measured (None if it could not be), `message` a full sentence."""

    name: str
    passed: bool
    message: str
    value: float | None = None


@dataclass(frozen=True)
class Decision:
    """The gate's answer: passed if every check did."""

    checks: tuple[Check, ...]
    thresholds: Thresholds

    @property
    def passed(self) -> bool:
        """Whether the pair may be promoted."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why it may not; empty when it may."""
        return [check.message for check in self.checks if not check.passed]

    @property
    def verdict(self) -> str:
        """`passed`, or the reasons in one line."""
        return "passed" if self.passed else "; ".join(self.reasons)

    def as_dict(self) -> dict[str, Any]:
        """The evidence as plain JSON values."""
        return {"passed": self.passed, "reasons": self.reasons, **asdict(self)}


Scenes = Mapping[str, ClipResults]


def decide(base: Scenes, pair: Scenes, thresholds: Thresholds | Mapping[str, Any] | None = None) -> Decision:
    """Compare results by scene of the base alone (or the champion) and of the pair (or the candidate).

    Lower drift with its whole interval, enough motion (a frozen video has no drift), the captioned direction.
    Raises UserError when the two do not hold the same scenes, or for malformed thresholds.
    """
    limits = thresholds if isinstance(thresholds, Thresholds) else Thresholds.parse(thresholds or {})
    if set(base) != set(pair):
        odd = ", ".join(sorted(set(base) ^ set(pair)))
        raise UserError(f"gate: base and pair need the same scenes, found in only one of them: {odd}")
    enough = Check(
        "scenes",
        len(base) >= limits.min_scenes,
        f"{len(base)} scenes were evaluated, at least {limits.min_scenes} are needed",
        len(base),
    )
    checks = (_drift(base, pair, limits), _motion(pair, limits), _direction(pair, limits))
    return Decision((enough, *checks), limits)


def _available(name: str, limits: Thresholds, *models: Scenes) -> list[tuple[float, ...]] | str:
    """Values of a metric by scene, one of each model; or, when too many scenes lack one, a sentence that says so."""
    rows = [[scenes[key].get(name) for scenes in models] for key in models[0]]
    values = [tuple(r.value for r in row if r is not None and r.value is not None) for row in rows]
    complete = [row for row in values if len(row) == len(models)]
    lacking = len(rows) - len(complete)
    if complete and lacking <= limits.max_unavailable * len(rows):
        return complete
    reason = next((_reason(result) for row in rows for result in row if result is None or result.value is None), "")
    return f"{name} is unavailable in {lacking} of {len(rows)} scenes" + (f": {reason}" if reason else "")


def _reason(result: Result | None) -> str:
    return "it was not measured" if result is None else str(result.unavailable)


def _drift(base: Scenes, pair: Scenes, limits: Thresholds) -> Check:
    values = _available("subject_drift", limits, base, pair)
    if isinstance(values, str):
        return Check("drift", False, values)
    gain = paired_difference([b for b, _ in values], [p for _, p in values])
    passed = gain.high < -limits.min_drift_gain
    message = (
        f"subject drift changes by {gain.median:+.3f} px against the base [{gain.low:+.3f}, {gain.high:+.3f}], "
        f"the whole interval must lie below {-limits.min_drift_gain:+.3f} px"
    )
    return Check("drift", passed, message, gain.median)


def _motion(pair: Scenes, limits: Thresholds) -> Check:
    values = _available("motion_ratio", limits, pair)
    if isinstance(values, str):
        return Check("motion", False, values)
    ratio = median_interval([value for (value,) in values]).median
    message = f"median motion ratio is {ratio:.3f}, the floor is {limits.min_motion_ratio:.3f}"
    return Check("motion", ratio >= limits.min_motion_ratio, message, ratio)


def _direction(pair: Scenes, limits: Thresholds) -> Check:
    values = _available("direction_subject_correct", limits, pair)
    if isinstance(values, str):
        return Check("direction", False, values)
    accuracy = float(np.mean([value for (value,) in values]))
    message = f"direction is as captioned in {accuracy:.3f} of scenes, the floor is {limits.min_direction_accuracy:.3f}"
    return Check("direction", accuracy >= limits.min_direction_accuracy, message, accuracy)
