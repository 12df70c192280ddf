"""Rank generated videos by a metric of the evaluation: what `generate --best_of` and the service choose with.

It stands above both packages, since generation and evaluation do not know one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from musubi_ext.errors import UserError
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.metric_limits import near
from musubi_ext.evaluation.metrics import METRICS, Better
from musubi_ext.evaluation.motion_floor import MAGNITUDE, still
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.generation.best_of import Score
from musubi_ext.generation.video import Video

ALIASES = {  # what people say → the metric's name
    "drift": "subject_drift",
    "compensated_drift": "subject_drift_compensated",
    "consistency": "subject_consistency",
    "flicker": "temporal_flicker",
    "clip": "clip_i_global_avg",
    "jerk": "orbit_angular_jerk",
    "angle": "swept_angle_error",
}


@dataclass(frozen=True)
class MetricRanking:
    """A metric of the evaluation as a `generation.best_of.Ranking`.

    `masks`: who finds the subject. `inputs`: what else `evaluate` is to know (truth, asked, models).
    """

    metric: str
    unit: str
    higher_is_better: bool
    masks: MaskSource = MaskSource.FLOW
    inputs: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def score(self, video: Video) -> Score:
        """The metric and the motion of one video."""
        names = [self.metric, MAGNITUDE]
        caption = str(video.request.get("prompt", ""))
        found = evaluate(video.frames, metrics=names, masks=self.masks, caption=caption, **self.inputs)
        value, motion = found[self.metric], found[MAGNITUDE]
        return Score(value.value, motion.value, value.unavailable or motion.unavailable or "", still(found) or "")


def ranking(name: str, *, masks: MaskSource = MaskSource.FLOW, **inputs: Any) -> MetricRanking:
    """Rank by a metric, by its name or a short one (drift, flicker, …); `inputs` go to `evaluate` (truth, asked, …).

    Raises UserError for a metric that ranks nothing.
    """
    full = ALIASES.get(name, name)
    usable = [metric.name for metric in METRICS.values() if metric.better is not Better.REPORT]
    short = [alias for alias, of in ALIASES.items() if of in usable]
    if full not in METRICS:
        raise UserError(f"rank_by {name}: no such metric ({near(name, [*short, *usable])})")
    if full not in usable:
        raise UserError(f"rank_by {name}: neither way is better for {full} (known: {', '.join([*short, *usable])})")
    metric = METRICS[full]
    return MetricRanking(full, metric.unit, metric.better is Better.HIGHER, masks, inputs)
