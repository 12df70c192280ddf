"""All metrics of a clip at once: decoded once, gray frames, masks, flow and azimuths shared."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal

from musubi_ext.errors import Problems
from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.flow import one_thread
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.metrics import METRICS, Metric
from musubi_ext.evaluation.result import Result, UnavailableError
from musubi_ext.evaluation.truth import Masks, Truth
from musubi_ext.video import Frames


def evaluate(
    frames: Frames,
    *,
    truth: Truth | None = None,
    metrics: Sequence[str] | Literal["all"] = "all",
    masks: MaskSource | Masks = MaskSource.COLOR,
    reference: Frames | None = None,
) -> dict[str, Result]:
    """Measure uint8 RGB frames (F, H, W, 3); returns a result for every metric asked for, in the registry's order.

    `masks` says where the subject is found: the colour model for generated clips, `MaskSource.TRUTH` for the truth's
    own frames, or masks (F, H, W) from elsewhere. `reference` frames replace the truth's as the unit of motion. What a
    clip cannot answer comes back `unavailable` with the reason. Raises UserError for an unknown metric, ValueError for
    arrays of another shape.
    """
    clip = Clip(frames, truth, masks, reference)
    with one_thread():
        return {metric.name: _measure(metric, clip) for metric in select(metrics)}


def select(names: Sequence[str] | Literal["all"]) -> list[Metric]:
    """The metrics of these names. Raises UserError naming every unknown one and the nearest known."""
    wanted = list(METRICS) if names == "all" else [names] if isinstance(names, str) else list(names)
    problems = Problems()
    for name in (name for name in wanted if name not in METRICS):
        near = difflib.get_close_matches(name, METRICS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"known: {', '.join(METRICS)}"
        problems.add("metrics", f"{name!r} is not a metric", fix)
    problems.raise_if_any()
    return [metric for metric in METRICS.values() if metric.name in wanted]


def _measure(metric: Metric, clip: Clip) -> Result:
    try:
        reading = metric.compute(clip)
    except UnavailableError as reason:
        return Result(None, metric.unit, len(clip.frames), clip.resolution, metric.backend, str(reason))
    return Result(reading.value, metric.unit, reading.frames, clip.resolution, metric.backend)
