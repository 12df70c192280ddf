"""What is measured of every video that the service makes, and the alarm when a version's videos get worse.

The subject is found by its motion (masks by flow), so nothing but the frames is needed. Values are those of
`musubi_ext.evaluation`; what a video cannot answer is said with the reason, never as a number.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
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


@dataclass(frozen=True)
class Alarm:
    """One metric of one version that is worse than its promoted evidence: means, and over how many videos."""

    version: str
    metric: str
    mean: float
    promised: float
    videos: int


class DriftAlarm:
    """The last `window` videos of each version against what it was promoted with.

    It rings when the mean is worse than the evidence by more than `tolerance` of it, and by more than two standard
    errors of the mean: prompts differ from the suite's, so a difference alone means little.
    """

    def __init__(self, window: int, tolerance: float = 0.25, least: int = 5) -> None:
        self._window, self._tolerance, self._least = window, tolerance, least
        self._seen: dict[tuple[str, str], deque[float]] = {}

    def add(self, version: str, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Note a video's scores."""
        for metric, value in values(results).items():
            self._seen.setdefault((version, metric), deque(maxlen=self._window)).append(value)

    def ringing(self, version: str, promised: Mapping[str, float]) -> list[Alarm]:
        """The metrics that are worse than `promised` (metric → number of the promotion's evidence) now."""
        return [alarm for metric, value in promised.items() if (alarm := self._judge(version, metric, value))]

    def _judge(self, version: str, metric: str, promised: float) -> Alarm | None:
        from musubi_ext.evaluation.metrics import METRICS, Better

        known, seen = METRICS.get(metric), self._seen.get((version, metric), deque())
        if known is None or known.better is Better.REPORT or len(seen) < self._least:
            return None
        mean = fmean(seen)
        worse = mean - promised if known.better is Better.LOWER else promised - mean
        doubt = 2 * stdev(seen) / math.sqrt(len(seen))
        if worse <= max(self._tolerance * abs(promised), doubt):
            return None
        return Alarm(version, metric, mean, promised, len(seen))
