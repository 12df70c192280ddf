"""What is measured of every video that the service makes.

The subject is found by its motion (masks by flow), so nothing but the frames is needed. Values are those of
`musubi_ext.evaluation`; what a video cannot answer is said with the reason, never as a number.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from serving.config import Evaluation

CHEAP = (
    "subject_drift",
    "subject_drift_compensated",
    "temporal_flicker",
    "motion_magnitude",  # beside the others always: a frozen video wins them
    "orbit_direction",
    "orbit_swept_angle",
    "orbit_angular_jerk",
    "orbit_steadiness",
    "orbit_loop_closure",
    "orbit_direction_correct",
)
LEARNED = ("clip_i_global_avg", "clip_i_first_last", "lpips_first_last", "subject_consistency")

Results = dict[str, dict[str, Any]]  # metric → musubi_ext.evaluation.result.Result as plain values

_log = logging.getLogger(__name__)


def metric_names(evaluation: Evaluation) -> tuple[str, ...]:
    """The metrics of the configuration, in its own order."""
    return evaluation.metrics or (CHEAP + LEARNED if evaluation.weights else CHEAP)


def measure(frames: Any, prompt: str, evaluation: Evaluation) -> Results:
    """Every metric of uint8 frames (F, H, W, 3). Raises UserError for a metric that does not exist.

    A failure of the measuring itself makes all of them unavailable with its reason: the video is there and is good.
    """
    from musubi_ext.errors import UserError
    from musubi_ext.evaluation.features import ModelSource
    from musubi_ext.evaluation.masks import MaskSource
    from musubi_ext.evaluation.suite import evaluate, select, unavailable

    if not evaluation.enabled:
        return {}
    names = metric_names(evaluation)
    metrics = select(names)
    try:
        found = evaluate(
            frames,
            metrics=names,
            masks=MaskSource.FLOW,
            models=ModelSource(evaluation.weights) if evaluation.weights else None,  # type: ignore[arg-type]
            caption=prompt,
            profile=evaluation.profile,
            threads=evaluation.threads or None,
        )
    except UserError:
        raise
    except Exception as error:  # whatever a metric stumbles over must not cost a finished video
        _log.exception("the evaluation failed")
        found = unavailable(metrics, f"the evaluation failed: {type(error).__name__}")
    return {name: asdict(result) for name, result in found.items()}


def values(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The numbers alone, by metric; those that are unavailable are left out."""
    return {name: float(result["value"]) for name, result in results.items() if result["value"] is not None}
