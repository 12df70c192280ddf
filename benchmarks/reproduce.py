"""docs/RESULTS.md from nothing: the same held-out scenes and noise under every way to use the pocket model's experts.

    python benchmarks/reproduce.py --out runs/reproduce --markdown docs/RESULTS.md

Renders, caches, trains three pairs (ours; Circle-Rotate's recipe over all timesteps; ours for a first and a last
frame), films every scene with two seeds under every condition, measures, and writes the tables and the figures. A
stopped run goes on where it was: pairs, and every scene and seed once filmed, are kept in `--out`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reproduce_table import figures, markdown
from rich.console import Console
from tables import insert

from musubi_ext.demo.clips import render_clips, render_scenes
from musubi_ext.demo.options import Layout, Options
from musubi_ext.demo.stages import Demo
from musubi_ext.demo.training import base_folder, command, write_dataset_config
from musubi_ext.demo.videos import FPS, SHIFT, reconstruct, scene_files
from musubi_ext.demo.workers import spread
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.result import ClipResults, read_results, write_results
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.evaluation.truth import Truth
from musubi_ext.generation.circle_rotate import CircleRotate
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.storage import write_json, write_text
from musubi_ext.video import Frames

METRICS = (
    "subject_drift", "subject_drift_from_truth", "subject_drift_compensated", "psnr", "swept_angle_error",
    "direction_subject_correct", "motion_ratio",
)  # fmt: skip
NOISE_SEED = 42
RECIPES: dict[str, tuple[str, ...]] = {"range": (), "whole": ("--full_range",), "last": ()}  # flags of each training


@dataclass(frozen=True)
class Condition:
    """How a video is made: with which pair ("": none), at which strengths, in how many steps, ending in which frame."""

    pair: str = ""
    steps: int = 8
    high: float = 1.0
    low: float = 1.0
    last: bool = False


CONDITIONS = {
    "base": Condition(),
    "recipe": Condition("whole"),
    "pair": Condition("range"),
    "high only": Condition("range", low=0.0),
    "low only": Condition("range", high=0.0),
    "base, 4 steps": Condition(steps=4),
    "pair, 4 steps": Condition("range", 4),
    "base, 20 steps": Condition(steps=20),
    "pair, 20 steps": Condition("range", 20),
    "base, first + last": Condition(last=True),
    "pair, first + last": Condition("last", last=True),
}


REFERENCES = ("ground truth", "truth through the VAE", "frozen first frame")


@dataclass(frozen=True)
class Job:
    """One scene with one seed, under every condition."""

    truth: Path
    base: Path
    pairs: dict[str, Path]
    seed: int
    out: Path


def main(argv: Sequence[str] | None = None) -> None:
    """Everything, in order; writes `OUT/reproduce.json`, results of each condition, tables and figures."""
    args = parser().parse_args(argv)
    options = Options(scenes=args.scenes, clips=args.clips, steps=args.steps, base=args.base)
    demo = Demo(options, Layout(args.out), Console(stderr=True))
    started = time.perf_counter()
    render_clips(demo)
    render_scenes(demo)
    pairs = {name: train(demo, name) for name in RECIPES}
    measured = measure(demo, pairs, args.seeds)
    document = {"scenes": args.scenes, "seeds": args.seeds, "steps": args.steps}
    spent = _spent(args.out / "reproduce.json", document) + time.perf_counter() - started
    document["seconds"] = round(spent)
    write_json(args.out / "reproduce.json", document)
    figures(measured, args.figures or args.out / "figures")
    text = markdown(document, measured)
    print(text)
    if args.markdown:
        insert(args.markdown, "reproduce", text)


def _spent(path: Path, document: Mapping[str, int]) -> float:
    """Seconds of earlier runs of the same size, whose work this one found done; a stopped run leaves none."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return float(found["seconds"]) if {**found, "seconds": 0} == {**document, "seconds": 0} else 0.0


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    made.add_argument("--scenes", type=int, default=48)
    made.add_argument("--seeds", type=int, default=2, help="of the noise, for each scene (%(default)s)")
    made.add_argument("--clips", type=int, default=200)
    made.add_argument("--steps", type=int, default=450, help="updates of each expert (%(default)s)")
    made.add_argument("--base", default="pocket-i2v")
    made.add_argument("--figures", type=Path, help="folder of the plots (OUT/figures)")
    made.add_argument("--markdown", type=Path, help="file whose table is replaced")
    return made


class LastLayout(Layout):
    """The same clips, cached and described for a first and a last frame."""

    @property
    def dataset(self) -> Path:
        """The data set's TOML."""
        return self.root / "data" / "orbit_last.toml"

    @property
    def cache(self) -> Path:
        """Latents and text embeddings of the training clips."""
        return self.root / "cache" / "orbit_last"


def train(demo: Demo, recipe: str) -> Path:
    """A pair of one recipe, trained once, by the command that a user would give."""
    folder = demo.layout.root / "pairs" / recipe
    done = folder / "done.txt"
    if not done.exists():
        own = replace(demo, layout=LastLayout(demo.layout.root)) if recipe == "last" else demo
        toml = write_dataset_config(own.layout)
        if recipe == "last":
            write_text(
                toml, toml.read_text(encoding="utf-8").replace('condition = "first"', 'condition = "first_last"')
            )
        cache_dataset(load_dataset_config(toml), base_folder(own.options), console=own.console)
        words = [*command(own), "--output_dir", str(folder), "--no_mlflow", "--overwrite", *RECIPES[recipe]]
        started = time.perf_counter()
        subprocess.run(words, check=True)
        write_text(done, f"{time.perf_counter() - started:.1f} s\n")
    return folder.absolute()


def measure(demo: Demo, pairs: Mapping[str, Path], seeds: int) -> dict[str, dict[str, ClipResults]]:
    """Condition → "SCENE seed N" → metric → result; each condition's also as a results file, for `compare`."""
    out = demo.layout.root
    base = base_folder(demo.options).absolute()
    jobs = [
        Job(truth, base, dict(pairs), NOISE_SEED + seed, out / "measured" / f"{truth.stem}_{seed}")
        for truth in scene_files(demo.layout.scenes)
        for seed in range(seeds)
    ]
    spread(film, [job for job in jobs if not (job.out / "done.txt").exists()], "filming", demo.console)
    found: dict[str, dict[str, ClipResults]] = {}
    for name in (*REFERENCES, *CONDITIONS):
        found[name] = {job.out.name: read_results(job.out / f"{name}.json")[job.out.name] for job in jobs}
        write_results(out / "results" / f"{name}.json", found[name])
    return found


def film(job: Job) -> None:
    """Film and measure one scene and seed; a stopped one is done again."""
    torch.set_num_threads(1)
    truth, prompt = Truth.load(job.truth), job.truth.with_suffix(".txt").read_text(encoding="utf-8").strip()
    reference = reconstruct(rotate(job.base, None), truth.frames)
    frozen = np.repeat(truth.frames[:1], len(truth.frames), axis=0)
    clips = {"truth through the VAE": reference, "frozen first frame": frozen}
    for name, condition in CONDITIONS.items():
        clips[name] = make(job, condition, truth, prompt)
    job.out.mkdir(parents=True, exist_ok=True)
    for name, frames in clips.items():
        own = evaluate(frames, truth=truth, metrics=METRICS, reference=reference)
        write_results(job.out / f"{name}.json", {job.out.name: own})
    exact = evaluate(truth.frames, truth=truth, metrics=METRICS, masks=MaskSource.TRUTH, reference=reference)
    write_results(job.out / "ground truth.json", {job.out.name: exact})
    write_text(job.out / "done.txt", "\n")


def make(job: Job, condition: Condition, truth: Truth, prompt: str) -> Frames:
    """The video of one condition: uint8 (F, H, W, 3)."""
    frames, height, width = truth.frames.shape[:3]
    settings: dict[str, Any] = {"size": (width, height), "frames": frames, "steps": condition.steps, "seed": job.seed,
                                "shift": SHIFT, "fps": FPS, "guidance": 1.0, "guidance_2": 1.0}  # fmt: skip
    if condition.pair:
        settings |= {"strength_high": condition.high, "strength_low": condition.low}
    maker = rotate(job.base, job.pairs[condition.pair] if condition.pair else None)
    last = truth.frames[-1] if condition.last else None
    return maker(truth.frames[0], prompt, last, **settings).frames


@lru_cache(maxsize=4)
def rotate(base: Path, pair: Path | None) -> CircleRotate:
    """Loaded once in each process."""
    return CircleRotate(base, pair)


if __name__ == "__main__":
    main()
