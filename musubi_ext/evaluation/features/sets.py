"""FID and FVD of two folders of videos: one pass over each video, moments kept, features dropped."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.evaluation.features.frechet import Moments, frechet_distance
from musubi_ext.evaluation.features.set_metrics import SetMetric, SetResult
from musubi_ext.evaluation.features.source import ModelSource
from musubi_ext.evaluation.flow import sample_indices
from musubi_ext.evaluation.metrics.fid import FID
from musubi_ext.evaluation.metrics.fvd import FVD
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.orbits.decode import pool
from musubi_ext.orbits.sources import VIDEO_SUFFIXES
from musubi_ext.video import Frames

SET_METRICS: dict[str, SetMetric] = {metric.name: metric for metric in (FID, FVD)}

Videos = Path | str | Sequence[Path | Frames]


def evaluate_sets(
    generated: Videos,
    reference: Videos,
    *,
    models: ModelSource,
    metrics: Sequence[str] | Literal["all"] = "all",
) -> dict[str, SetResult]:
    """Distances between two sets of videos: folders, or sequences of paths and of uint8 RGB frames (F, H, W, 3).

    A network that was not named or cannot be loaded makes its metric unavailable. Raises UserError for an unknown
    metric, a folder without videos, fewer than two videos, and every video that cannot be decoded: a set without it is
    another set.
    """
    measured = [_Measured(metric, models) for metric in _select(metrics)]
    sets = (_listed("generated", generated), _listed("reference", reference))
    problems = Problems()
    for side, videos in enumerate(sets):
        for video in videos:
            frames = problems.collect(partial(_sampled, video))
            for one in measured:
                if frames is not None:
                    one.add(side, frames)
    problems.raise_if_any()
    counts = (len(sets[0]), len(sets[1]))
    return {one.metric.name: one.result(counts) for one in measured}


class _Measured:
    """A metric under way: the moments of both sets, or why there are none."""

    def __init__(self, metric: SetMetric, models: ModelSource) -> None:
        self.metric, self.models = metric, models
        self.moments = (Moments(), Moments())
        self.backend, self.reason = "torch", ""
        try:
            self.backend = models.backend(metric.network)
        except UnavailableError as reason:
            self.reason = str(reason)

    def add(self, side: int, frames: Frames) -> None:
        """Take in a video of the generated (0) or the reference set (1)."""
        if self.reason:
            return
        try:
            self.moments[side].add(self.metric.embed(self.models, frames))
        except UnavailableError as reason:
            self.reason = str(reason)

    def result(self, videos: tuple[int, int]) -> SetResult:
        """The distance over all videos taken in, or the reason."""
        unit, licence = self.metric.unit, self.metric.licence
        if self.reason:
            return SetResult(None, unit, videos, (0, 0), self.backend, licence, unavailable=self.reason)
        samples = (self.moments[0].count, self.moments[1].count)
        warning = _warning(self.metric.sample, samples, len(self.moments[0].mean))
        return SetResult(frechet_distance(*self.moments), unit, videos, samples, self.backend, licence, warning)


def _warning(sample: str, samples: tuple[int, int], dimensions: int) -> str:
    """Of small sets: the expected distance falls with the number of samples (Chong and Forsyth 2020)."""
    if min(samples) > dimensions:
        return ""
    return (
        f"{samples[0]} and {samples[1]} {sample}s for {dimensions} features: the covariances are singular and the "
        "value is too high by an amount that depends on the number; compare it only with values of sets of these sizes"
    )


def _select(names: Sequence[str] | Literal["all"]) -> list[SetMetric]:
    wanted = list(SET_METRICS) if names == "all" else [names] if isinstance(names, str) else list(names)
    problems = Problems()
    for name in (name for name in wanted if name not in SET_METRICS):
        near = difflib.get_close_matches(name, SET_METRICS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"known: {', '.join(SET_METRICS)}"
        problems.add("metrics", f"{name!r} is not a metric of sets", fix)
    problems.raise_if_any()
    return [metric for metric in SET_METRICS.values() if metric.name in wanted]


def _listed(name: str, videos: Videos) -> list[Path | Frames]:
    found: list[Path | Frames] = []
    where = name
    if isinstance(videos, Path | str):
        folder = Path(videos)
        where = f"{name}: {shown(folder)}"
        if not folder.is_dir():
            raise UserError(f"{where}: expected a folder of videos (check the path)")
        found.extend(sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES))
    else:
        found.extend(videos)
    if len(found) < 2:
        raise UserError(
            f"{where}: expected at least two videos ({', '.join(VIDEO_SUFFIXES)}), found {len(found)} "
            "(a covariance needs two)"
        )
    return found


def _sampled(video: Path | Frames) -> Frames:
    """The sixteen sampled frames (16, H, W, 3); of a file only they are held. Raises UserError."""
    if isinstance(video, np.ndarray):
        return np.asarray(video[sample_indices(len(video))], np.uint8)
    info = pool.probe(video)
    count = info.frames
    while True:
        wanted = sample_indices(count).tolist()
        kept, decoded = {}, 0
        for index, frame in enumerate(pool.stream(video, info.size)):
            decoded = index + 1
            if index in wanted:
                kept[index] = frame
        if decoded == count:
            return np.stack([kept[index] for index in wanted])
        count = decoded  # a container may count frames that its decoder does not give: once more, of those it gave
