"""Stage `evaluate`: every metric of every scene, for the two models and for what they are judged against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musubi_ext.demo.options import Layout
from musubi_ext.demo.stages import Demo
from musubi_ext.demo.videos import scene_files
from musubi_ext.demo.workers import spread
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.result import Result, read_results, write_results
from musubi_ext.evaluation.suite import evaluate as measure
from musubi_ext.evaluation.truth import Truth
from musubi_ext.filmstrip import save_filmstrip

# exact: the rendered clip with its own masks. truth: the same through the base's VAE, the best that a latent can show.
# frozen: the first frame, 17 times. All but the first find the subject by its colour, as in any generated clip.
MODELS = ("exact", "truth", "frozen", "base", "pair")


@dataclass(frozen=True)
class SceneResults:
    """One scene, measured: model → metric → result."""

    scene: str
    models: dict[str, dict[str, Result]]


@dataclass(frozen=True)
class EvaluationJob:
    """Measure one scene: its truth beside its caption, its videos, and where its filmstrip goes."""

    truth: Path
    videos: Path
    strip: Path


def evaluate(demo: Demo) -> None:
    """Fill `results` and `filmstrips`."""
    layout = demo.layout
    jobs = [
        EvaluationJob(truth, layout.videos / truth.name, layout.filmstrips / f"{truth.stem}.png")
        for truth in scene_files(layout.scenes)
    ]
    measured = spread(measure_scene, jobs, "measuring", demo.console)
    for model in MODELS:
        path = layout.results / f"{model}.json"
        write_results(path, {scene.scene: scene.models[model] for scene in measured})


def measure_scene(job: EvaluationJob) -> SceneResults:
    """All metrics of one scene's clips; draws its filmstrip."""
    truth = Truth.load(job.truth)
    with np.load(job.videos, allow_pickle=False) as archive:
        clips = {name: archive[name] for name in ("truth", "base", "pair")}
    clips["frozen"] = np.repeat(truth.frames[:1], len(truth.frames), axis=0)
    # A latent cannot move more than its decoder shows: the reconstruction is the unit of motion.
    reference = clips["truth"]
    models = {name: measure(frames, truth=truth, reference=reference) for name, frames in clips.items()}
    models["exact"] = measure(truth.frames, truth=truth, masks=MaskSource.TRUTH, reference=reference)
    prompt = job.truth.with_suffix(".txt").read_text(encoding="utf-8").strip()
    rows = {"ground truth": truth.frames, "base": clips["base"], "base + pair": clips["pair"]}
    save_filmstrip(job.strip, rows, caption=prompt)
    return SceneResults(job.truth.stem, models)


def load_results(layout: Layout) -> dict[str, dict[str, dict[str, Result]]]:
    """Model → scene → metric → result, as `evaluate` left them."""
    return {model: read_results(layout.results / f"{model}.json") for model in MODELS}
