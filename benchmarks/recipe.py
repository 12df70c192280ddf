"""The pair against the base, and expert ranges against Circle-Rotate's whole range, over several training seeds.

    python benchmarks/recipe.py --out runs/recipe --seeds 0 1 2 --markdown docs/RESULTS.md

Everything is compared inside one run: the same scenes, first frames and noise. Finished pairs and videos in `--out`
are kept. The table between the markers of the Markdown file is replaced.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from musubi_ext.demo.clips import render_clips, render_scenes
from musubi_ext.demo.measures import EvaluationJob, SceneResults, measure_scene
from musubi_ext.demo.options import Layout, Options
from musubi_ext.demo.stages import Demo
from musubi_ext.demo.training import base_folder, cache, command
from musubi_ext.demo.videos import SceneJob, film, scene_files
from musubi_ext.demo.workers import spread
from musubi_ext.evaluation.statistics import median_interval, paired_difference
from musubi_ext.storage import write_json, write_text

RECIPES = {"range": [], "whole": ["--full_range"]}  # the expert's own timesteps, or all of them (Circle-Rotate)
METRICS = ("subject_drift", "psnr", "direction_subject_correct", "swept_angle_error", "motion_ratio")
NOISE_SEED = 42
Table = dict[str, dict[str, list[float]]]  # scene → metric → a value per training seed


@dataclass(frozen=True)
class Trained:
    """A pair and what its training took."""

    folder: Path
    seconds: float


def main() -> None:
    """Train, film, measure, and write `OUT/recipe.json` and the Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--markdown", type=Path, help="file whose tables are replaced")
    args = parser.parse_args()
    options = Options(scenes=args.scenes, clips=args.clips, steps=args.steps)
    demo = Demo(options, Layout(args.out), Console())
    render_clips(demo)
    cache(demo)
    pairs = {name: [train(demo, name, seed) for seed in args.seeds] for name in RECIPES}
    document = {
        "scenes": args.scenes,
        "seeds": args.seeds,
        "steps": args.steps,
        "training_seconds": {name: [pair.seconds for pair in found] for name, found in pairs.items()},
        "shapes": {shapes: compare(judged(demo, shapes), pairs) for shapes in ("known", "unseen")},
    }
    write_json(args.out / "recipe.json", document)
    text = markdown(document)
    demo.console.print(text, markup=False)
    if args.markdown:
        insert(args.markdown, text)


def judged(demo: Demo, shapes: str) -> Demo:
    """The same demo with its own scenes, videos and filmstrips: new subjects of known kinds, or of unseen ones."""
    other = Demo(replace(demo.options, shapes=shapes), Layout(demo.layout.root / shapes), demo.console)
    render_scenes(other)
    return other


def compare(demo: Demo, pairs: Mapping[str, list[Trained]]) -> dict[str, Any]:
    """All rows of one table, and the paired differences."""
    steps = demo.options.sampler_steps
    measured = {name: [measure(demo, pair, steps) for pair in found] for name, found in pairs.items()}
    four = [measure(demo, pair, 4) for pair in pairs["range"]]
    models = {name: table(measured["range"][:1], name) for name in ("exact", "truth", "frozen", "base")}
    models |= {"pair": table(measured["range"], "pair"), "whole": table(measured["whole"], "pair")}
    models |= {"base_4": table(four[:1], "base"), "pair_4": table(four, "pair")}
    return {
        "rows": {name: row(values) for name, values in models.items()},
        "drift_pair_minus_base": difference(models["base"], models["pair"], "subject_drift"),
        "whole_minus_range": {metric: difference(models["pair"], models["whole"], metric) for metric in METRICS},
    }


def train(demo: Demo, recipe: str, seed: int) -> Trained:
    """A pair of one recipe and seed, by the command that a user would give; trained once."""
    folder = demo.layout.root / "pairs" / f"{recipe}-{seed}"
    taken = folder / "seconds.txt"
    if not taken.exists():
        words = command(replace(demo, options=replace(demo.options, seed=seed)))
        started = time.perf_counter()
        subprocess.run([*words, "--output_dir", str(folder), "--no_mlflow", *RECIPES[recipe]], check=True)
        write_text(taken, f"{time.perf_counter() - started:.1f}\n")
    return Trained(folder, float(taken.read_text()))


def measure(demo: Demo, pair: Trained, sampler_steps: int) -> list[SceneResults]:
    """Every scene, filmed by base and pair from the same noise, and measured."""
    layout = demo.layout
    videos = layout.root / "videos" / f"{pair.folder.name}-{sampler_steps}"
    base = base_folder(demo.options).absolute()
    truths = scene_files(layout.scenes)
    jobs = [SceneJob(t, base, pair.folder, videos, NOISE_SEED + i, sampler_steps) for i, t in enumerate(truths)]
    todo = [job for job in jobs if not (videos / job.truth.name).exists()]
    spread(film, todo, f"filming {videos.name}", demo.console)
    strips = layout.filmstrips / videos.name
    return spread(
        measure_scene,
        [EvaluationJob(t, videos / t.name, strips / f"{t.stem}.png") for t in truths],
        "measuring",
        demo.console,
    )


def table(runs: Iterable[list[SceneResults]], model: str) -> Table:
    """Scene → metric → values over runs; a metric that is unavailable for a scene is left out of it."""
    found: Table = {}
    for scene in (scene for run in runs for scene in run):
        values = found.setdefault(scene.scene, {})
        for metric in METRICS:
            value = scene.models[model][metric].value
            if value is not None:
                values.setdefault(metric, []).append(value)
    return found


def row(values: Table) -> dict[str, Any]:
    """Median and bootstrap interval over scenes of each scene's mean over seeds; direction as a share of videos."""
    result: dict[str, Any] = {}
    for metric in METRICS:
        means = [fmean(scene[metric]) for scene in values.values() if metric in scene]
        if metric == "direction_subject_correct":
            result[metric] = fmean(means) if means else None
        else:
            result[metric] = median_interval(means).as_dict() if means else None
    return result


def difference(before: Table, after: Table, metric: str) -> dict[str, float] | None:
    """Paired over scenes: median of after − before with its interval."""
    scenes = [name for name in before if metric in before[name] and metric in after.get(name, {})]
    if not scenes:
        return None
    first, second = ([fmean(side[name][metric]) for name in scenes] for side in (before, after))
    return paired_difference(first, second).as_dict()


LABELS = {
    "exact": "ground truth",
    "truth": "ground truth through the VAE",
    "frozen": "frozen first frame",
    "base": "base, 12 steps",
    "pair": "**base + pair, 12 steps**",
    "whole": "base + pair of Circle-Rotate's recipe (whole range), 12 steps",
    "base_4": "base, 4 steps",
    "pair_4": "base + pair, 4 steps",
}


TITLES = {
    "known": "New subjects of known kinds (box, tower, car, van)",
    "unseen": "Kinds that neither base nor adapters saw (truck, bus, steps)",
}


def markdown(document: Mapping[str, Any]) -> str:
    """Both tables and the sentences below them."""
    seconds = document["training_seconds"]
    lines = [
        f"{document['scenes']} held-out scenes each, training seeds {document['seeds']}, {document['steps']} updates "
        "per expert. Medians over scenes [95% bootstrap interval]. Training a pair took "
        f"{', '.join(f'{s:.0f}' for s in seconds['range'])} s on two cores (whole range: "
        f"{', '.join(f'{s:.0f}' for s in seconds['whole'])} s).",
    ]
    for shapes, title in TITLES.items():
        lines += ["", f"### {title}", "", *_rows(document["shapes"][shapes]["rows"]), ""]
        whole, drift = (document["shapes"][shapes][key] for key in ("whole_minus_range", "drift_pair_minus_base"))
        lines += [
            f"Drift, pair − base, paired over scenes: {interval(drift, 2)} px. "
            "Whole range − expert's own range, paired over scenes: "
            + ", ".join(f"{metric} {interval(whole[metric], 3)}" for metric in METRICS if whole[metric])
            + "."
        ]
    return "\n".join(lines)


def _rows(rows: Mapping[str, Any]) -> list[str]:
    exact, frozen = rows["exact"]["subject_drift"]["median"], rows["frozen"]["psnr"]["median"]
    lines = [
        "| | drift px | ÷ truth | PSNR dB | above frozen | direction, subject alone | angle error | motion ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, label in LABELS.items():
        values = rows[name]
        drift, psnr = values["subject_drift"], values["psnr"]
        cells = [
            interval(drift, 2),
            f"{drift['median'] / exact:.2f}" if drift else "–",
            interval(psnr, 1),
            f"{psnr['median'] - frozen:+.1f}" if psnr else "–",
            "–" if values["direction_subject_correct"] is None else f"{values['direction_subject_correct']:.3f}",
            interval(values["swept_angle_error"], 1, "°"),
            interval(values["motion_ratio"], 2),
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def interval(value: Mapping[str, float] | None, digits: int, unit: str = "") -> str:
    """`1.30 [1.20, 1.41]`."""
    if value is None:
        return "–"
    return f"{value['median']:.{digits}f}{unit} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def insert(path: Path, text: str) -> None:
    """Replace what stands between the recipe markers of a Markdown file."""
    start, end = "<!-- recipe:start -->", "<!-- recipe:end -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    old = path.read_text(encoding="utf-8")
    if not pattern.search(old):
        raise SystemExit(f"{path}: expected the markers {start} and {end}")
    write_text(path, pattern.sub(lambda _: f"{start}\n{text}\n{end}", old))


if __name__ == "__main__":
    main()
