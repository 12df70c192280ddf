"""All metrics of a clip at once: decoded once, gray frames, masks, flow and azimuths shared."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.comparable import comment, scene_of
from musubi_ext.evaluation.flow import cores, one_thread
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.metrics import METRICS, Metric
from musubi_ext.evaluation.metrics.registry import OPENCV
from musubi_ext.evaluation.profile import Profile
from musubi_ext.evaluation.result import Reading, Result, UnavailableError
from musubi_ext.evaluation.stream import VideoFile
from musubi_ext.evaluation.truth import Masks, Truth
from musubi_ext.video import Frames

if TYPE_CHECKING:
    from musubi_ext.evaluation.asked import Asked
    from musubi_ext.evaluation.features import ModelSource

UNKNOWN = "unknown"  # the resolution of a clip that could not be read


@dataclass(frozen=True)
class Inputs:
    """What a clip is measured against, and how; see `evaluate`. `threads`: None takes every core."""

    truth: Truth | None = None
    masks: MaskSource | Masks = MaskSource.COLOR
    reference: Frames | None = None
    asked: Asked | None = None
    models: ModelSource | None = None
    caption: str = ""
    profile: Profile = Profile.EXACT
    threads: int | None = None


@dataclass(frozen=True)
class Measured:
    """The results of one clip, and what went wrong with it: an undecodable file or a metric's own failure.

    `scene`: prompt, first frame and seed of a clip that we generated; None for others.
    """

    results: dict[str, Result]
    problems: tuple[str, ...] = ()
    scene: Mapping[str, Any] | None = None


def evaluate(
    video: Frames | Path | str,
    *,
    truth: Truth | None = None,
    metrics: Sequence[str] | Literal["all"] = "all",
    masks: MaskSource | Masks | str = MaskSource.COLOR,
    reference: Frames | None = None,
    asked: Asked | None = None,
    models: ModelSource | None = None,
    caption: str = "",
    profile: Profile | str = Profile.EXACT,
    threads: int | None = None,
) -> dict[str, Result]:
    """Measure uint8 RGB frames (F, H, W, 3) or a video file: a result for every metric asked for, in registry order.

    `masks` says where the subject is found: the colour model for generated clips, `MaskSource.TRUTH` for the truth's
    own frames, or masks (F, H, W) from elsewhere. `reference` frames replace the truth's as the unit of motion.
    `caption`: what the video should show, else the prompt that a video of ours carries. `profile` is what flow may
    cost, `threads` how many cores (all). What a clip cannot answer comes back `unavailable` with the reason; so does
    everything about a file that cannot be decoded to its end. Raises UserError for an unknown metric or a file that is
    not there, ValueError for an unknown provider or profile and arrays of another shape.
    """
    masks = masks if isinstance(masks, np.ndarray) else MaskSource(masks)
    inputs = Inputs(truth, masks, reference, asked, models, caption, Profile(profile), threads)
    chosen = select(metrics)
    if not isinstance(video, np.ndarray):
        if not Path(video).exists():
            raise UserError(f"{shown(video)}: expected a video, found nothing (check the path)")
        return measure_file(video, chosen, inputs).results
    with one_thread():
        return _all(chosen, _clip(video, chosen, inputs, None)).results


def measure_file(
    path: Path | str, metrics: Sequence[Metric], inputs: Inputs, contain: tuple[type[Exception], ...] = ()
) -> Measured:
    """`evaluate` of a file, with what went wrong. Exceptions of `contain` cost one metric, others pass through."""
    from musubi_ext.orbits.decode import pool

    try:
        info = pool.probe(path)
        scene = scene_of(comment(info.comment))
        inputs = replace(inputs, caption=inputs.caption or str((scene or {}).get("prompt", "")))
        with one_thread():
            found = _all(metrics, _clip(VideoFile(path, info), metrics, inputs, info.fps or None), contain)
        return replace(found, scene=scene)
    except UserError as error:
        return Measured(unavailable(metrics, str(error)), error.problems)


def unavailable(metrics: Sequence[Metric], reason: str) -> dict[str, Result]:
    """What is left to say of a clip that could not be read."""
    return {m.name: Result(None, m.unit, 0, UNKNOWN, m.backend, reason, licence=m.licence) for m in metrics}


def select(names: Sequence[str] | Literal["all"]) -> list[Metric]:
    """The metrics of these names. Raises UserError naming every unknown one and the nearest known."""
    wanted = [names] if isinstance(names, str) else list(names)
    wanted = list(METRICS) if wanted == ["all"] else wanted
    problems = Problems()
    for name in (name for name in wanted if name not in METRICS):
        near = difflib.get_close_matches(name, METRICS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"known: {', '.join(METRICS)}"
        problems.add("metrics", f"{name!r} is not a metric", fix)
    problems.raise_if_any()
    return [metric for metric in METRICS.values() if metric.name in wanted]


def _clip(video: Frames | VideoFile, metrics: Sequence[Metric], inputs: Inputs, fps: float | None) -> Clip:
    return Clip(
        video,
        inputs.truth,
        inputs.masks,
        inputs.reference,
        asked=inputs.asked,
        models=inputs.models,
        caption=inputs.caption,
        fps=fps,
        profile=inputs.profile,
        threads=inputs.threads or cores(),
        pairs=[statistic for metric in metrics for statistic in metric.pairs],
    )


def _all(metrics: Sequence[Metric], clip: Clip, contain: tuple[type[Exception], ...] = ()) -> Measured:
    results, problems = {}, []
    for metric in metrics:
        clip.looked_at_masks = False
        try:
            results[metric.name] = _result(metric, clip, metric.compute(clip))
        except UnavailableError as reason:
            results[metric.name] = _result(metric, clip, str(reason))
        except UserError:  # the file, not the metric: what was measured before cannot be trusted either
            raise
        except contain as error:
            problems.append(f"{metric.name} failed: {type(error).__name__}: {error}")
            results[metric.name] = _result(metric, clip, problems[-1])
    return Measured(results, tuple(problems))


def _result(metric: Metric, clip: Clip, found: Reading | str) -> Result:
    """A reading with its conditions; a number that is none is a reason."""
    if isinstance(found, Reading) and not math.isfinite(found.value):
        found = f"the value is not finite ({found.value})"
    count, _, _, _ = clip.shape
    backend = metric.backend + (clip.profile.note(*clip.shape[1:3]) if metric.backend == OPENCV else "")
    provider, coverage, licence = "", None, metric.licence
    if clip.looked_at_masks:
        provider, coverage, licence = clip.mask_conditions(licence)
    if isinstance(found, str):
        return Result(None, metric.unit, count, clip.resolution, backend, found, 0, licence, provider, coverage)
    stride = found.stride if found.stride is not None else (count - 1) / max(found.frames - 1, 1)
    return Result(
        float(found.value),
        metric.unit,
        found.frames,
        clip.resolution,
        found.backend or backend,
        stride=stride,
        licence=licence,
        masks=provider,
        coverage=coverage,
    )
