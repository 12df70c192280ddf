"""May a pair be promoted? Its results against the base model's on the same scenes and seeds, with every reason.

A metric that is asked for and not there fails the gate: what was not measured was not shown. Nor does anything pass
that stands still, for stillness wins drift, flicker and fidelity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from musubi_ext.errors import UserError
from musubi_ext.evaluation.decision import Check, Decision
from musubi_ext.evaluation.effects import Estimate, centre_of, estimate
from musubi_ext.evaluation.metric_limits import MetricLimits
from musubi_ext.evaluation.metrics import Better
from musubi_ext.evaluation.motion_floor import FROZEN_RATIO, Scenes, relative_motion
from musubi_ext.evaluation.result import Result
from musubi_ext.evaluation.statistics import paired_difference
from musubi_ext.evaluation.thresholds import Thresholds

__all__ = ["Check", "Decision", "Scenes", "decide"]


def decide(base: Scenes, pair: Scenes, thresholds: Thresholds | Mapping[str, Any] | None = None) -> Decision:
    """Compare results by scene of the base alone (or the champion) and of the pair (or the candidate).

    Enough scenes and motion always; drift and captioned direction on rendered scenes; the limits of every
    `[metrics.NAME]` table. Raises UserError when the two do not hold the same scenes, or for malformed thresholds.
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
        limits.min_scenes,
    )
    checks = [enough]
    if "drift" in limits.built_in:
        checks.append(_drift(base, pair, limits))
    checks.append(_motion(base, pair, limits))
    if "direction" in limits.built_in:
        checks.append(_direction(pair, limits))
    for name, wanted in limits.metrics.items():
        checks += _metric(name, wanted, base, pair, limits)
    return Decision(tuple(checks), limits)


def _available(name: str, share: float, *models: Scenes) -> list[tuple[float, ...]] | str:
    """Values of a metric by scene, one of each model; or, when more than `share` of them lack one, a sentence so."""
    rows = [[scenes[key].get(name) for scenes in models] for key in models[0]]
    values = [tuple(r.value for r in row if r is not None and r.value is not None) for row in rows]
    complete = [row for row in values if len(row) == len(models)]
    lacking = len(rows) - len(complete)
    if complete and lacking <= share * len(rows):
        return complete
    reason = next((_reason(result) for row in rows for result in row if result is None or result.value is None), "")
    return f"{name} is unavailable in {lacking} of {len(rows)} scenes" + (f": {reason}" if reason else "")


def _reason(result: Result | None) -> str:
    return "it was not measured" if result is None else str(result.unavailable)


def _drift(base: Scenes, pair: Scenes, limits: Thresholds) -> Check:
    threshold = 0.0 - limits.min_drift_gain  # 0, not -0
    values = _available("subject_drift", limits.max_unavailable, base, pair)
    if isinstance(values, str):
        return Check("drift", False, values, None, threshold)
    gain = paired_difference([b for b, _ in values], [p for _, p in values])
    message = (
        f"subject drift changes by {gain.median:+.3f} px against the base [{gain.low:+.3f}, {gain.high:+.3f}], "
        f"the whole interval must lie below {threshold:g} px"
    )
    return Check("drift", gain.high < threshold, message, gain.median, threshold)


def _motion(base: Scenes, pair: Scenes, limits: Thresholds) -> Check:
    """Enough motion in the middle, and few scenes that stand still: a median hides the other half."""
    motion, floor = relative_motion(base, pair, limits.motion_metric), limits.min_motion_ratio
    lacking, frozen = len(motion.lacking), len(motion.frozen)
    if not motion.shares or lacking > limits.max_unavailable * len(pair):
        reason = next(iter(motion.lacking.values()), "")
        message = f"{motion.metric} is unavailable in {lacking} of {len(pair)} scenes" + (f": {reason}" * bool(reason))
        return Check("motion", False, message, None, floor)
    share = float(np.median(list(motion.shares.values())))
    what = "motion ratio" if motion.of == "the true orbit" else f"{motion.metric} against {motion.of}"
    message = f"median {what} is {share:.3f}, the floor is {floor:.3f}"
    if frozen > limits.max_unavailable * len(motion.shares):
        message += f"; {frozen} of {len(motion.shares)} scenes stand still (below {FROZEN_RATIO:g})"
        return Check("motion", False, message, share, floor)
    return Check("motion", share >= floor and share > 0, message, share, floor)


def _direction(pair: Scenes, limits: Thresholds) -> Check:
    floor = limits.min_direction_accuracy
    values = _available("direction_subject_correct", limits.max_unavailable, pair)
    if isinstance(values, str):
        return Check("direction", False, values, None, floor)
    accuracy = float(np.mean([value for (value,) in values]))
    message = f"direction is as captioned in {accuracy:.3f} of scenes, the floor is {floor:.3f}"
    return Check("direction", accuracy >= floor, message, accuracy, floor)


def _metric(name: str, wanted: MetricLimits, base: Scenes, pair: Scenes, limits: Thresholds) -> list[Check]:
    """One check per limit of a metric; one alone when it is unavailable."""
    against_base = wanted.min_effect is not None or wanted.max_loss is not None
    share = limits.max_unavailable if wanted.max_unavailable is None else wanted.max_unavailable
    models = (base, pair) if against_base else (pair,)
    values = _available(name, share, *models)
    if isinstance(values, str):
        optional = "" if wanted.required else ", which the gate does not require"
        return [Check(f"{name}.available", not wanted.required, values + optional, None, share)]
    unit = next(of[name].unit for of in pair.values() if name in of)
    present = Check(
        f"{name}.available",
        True,
        f"{name} is available in {len(values)} of {len(pair)} scenes, at most a share of {share:g} may lack it",
        1 - len(values) / max(len(pair), 1),
        share,
    )
    checks = [present]
    if against_base:
        sign = 1 if wanted.better is Better.HIGHER else -1
        gains = estimate([sign * (after - before) for before, after in values], centre_of(unit))
        checks.append(_gain(name, unit, gains, wanted))
    own = estimate([row[-1] for row in values], centre_of(unit))
    where = f"{name}: the pair's {own.centre} is {_shown(own.value, unit)}"
    if wanted.min is not None:
        message = f"{where}, at least {_shown(wanted.min, unit)} is needed"
        checks.append(Check(f"{name}.min", own.value >= wanted.min, message, own.value, wanted.min))
    if wanted.max is not None:
        message = f"{where}, at most {_shown(wanted.max, unit)} is allowed"
        checks.append(Check(f"{name}.max", own.value <= wanted.max, message, own.value, wanted.max))
    return checks


def _gain(name: str, unit: str, gains: Estimate, wanted: MetricLimits) -> Check:
    key, bound = ("max_loss", -wanted.max_loss) if wanted.max_loss is not None else ("min_effect", wanted.min_effect)
    assert bound is not None
    # An improvement has to be shown; that nothing was lost may be exactly so.
    passed = gains.low > bound if key == "min_effect" else gains.low >= bound
    message = (
        f"{name} improves by {_shown(gains.value, unit)} against the base [{gains.low:.4g}, {gains.high:.4g}] "
        f"({wanted.better.value} is better), the whole interval must lie above {_shown(bound, unit)}"
    )
    return Check(f"{name}.{key}", passed, message, gains.value, bound)


def _shown(value: float, unit: str) -> str:
    return f"{value:.4g}" + (f" {unit}" if unit not in ("", "1", "0/1") else "")
