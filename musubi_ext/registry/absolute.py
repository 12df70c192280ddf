"""The absolute thresholds once more, by MLflow's own validation, which knows nothing of our comparisons."""

from __future__ import annotations

import mlflow
from mlflow.models import EvaluationResult, MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

from musubi_ext.evaluation.decision import Check, Decision

CHECK = "mlflow"
_AT_LEAST = ("scenes", "motion", "direction")  # checks of the gate that are a floor
_BOUNDS = {"min": True, "max": False}  # of a metric: is greater better?


def validated(decision: Decision) -> Decision:
    """`decision` with one more check: what `mlflow.validate_evaluation_results` says of its absolute thresholds.

    The values are the gate's own medians. A metric that was not measured is missing there too, and fails.
    """
    made = {check.name: check for check in decision.checks}
    thresholds: dict[str, MetricThreshold] = {}
    for name in _AT_LEAST:
        if name in made and made[name].threshold is not None:
            thresholds[name] = MetricThreshold(threshold=made[name].threshold, greater_is_better=True)
    for metric, limits in decision.thresholds.metrics.items():
        for bound, greater in _BOUNDS.items():
            name, limit = f"{metric}.{bound}", getattr(limits, bound)
            if limit is not None and (limits.required or name in made):
                thresholds[name] = MetricThreshold(threshold=limit, greater_is_better=greater)
    values = {name: check.value for name, check in made.items() if name in thresholds and check.value is not None}
    try:
        mlflow.validate_evaluation_results(thresholds, EvaluationResult(metrics=values, artifacts={}))
    except ModelValidationFailedException as error:
        sentences = "; ".join(str(error).removeprefix("BAD_REQUEST: ").split("\n"))
        found = Check(CHECK, False, f"mlflow.validate_evaluation_results: {sentences}")
    else:
        listed = ", ".join(sorted(thresholds))
        found = Check(CHECK, True, f"mlflow.validate_evaluation_results finds every absolute threshold met: {listed}")
    return Decision((*decision.checks, found), decision.thresholds)
