"""Step time of the extension over musubi-tuner's own trainer: the same command with and without it, in turns.

    MUSUBI_TUNER_HOME=… python benchmarks/step_time.py --out runs/step_time --markdown docs/TRAINING_RESULTS.md

Every round trains each of the four ways for a share of the steps, in another order each time, in one process. A step is
the time from one update of the weights to the next, taken on both sides by the same hook of torch: it holds loading the
batch, the model, logging and the progress bar. Reading the model and saving are outside. A second pass times the parts.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pocket_inputs import Data, make_data, random_expert, train_words
from rich.console import Console
from rich.progress import Progress
from step_parts import OURS, THEIRS, Parts
from tables import insert, interval, machine, table
from torch.optim.optimizer import register_optimizer_step_post_hook

from musubi_ext.evaluation.statistics import median_interval
from musubi_ext.hosts.musubi.importing import import_host
from musubi_ext.hosts.musubi.pocket_task import register
from musubi_ext.pocket.config import pipeline_path
from musubi_ext.pocket.upstream import export_experts
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import write_json
from musubi_ext.wan_train_network import run

GOAL = 1.02
WARM = 3  # steps of each training that are left out
UPSTREAM = "upstream"


@dataclass(frozen=True)
class Way:
    """How to train: words that follow the command; on a data set with our table, tracked, bars drawn (`typed`)?"""

    words: tuple[str, ...]
    typed: bool = False


ONE = ("--experts", "low")
WAYS = {
    UPSTREAM: Way(("--extension", "off")),
    "ours": Way((*ONE, "--no_mlflow")),
    "ours, --no_bands": Way((*ONE, "--no_mlflow", "--no_bands")),
    "ours as typed: [orbit] data, MLflow, a bar drawn": Way(ONE, typed=True),
}


@dataclass(frozen=True)
class Model:
    """What is trained, and for how long: `rounds` × `steps` updates each way."""

    name: str
    dit: Path
    data: Data
    rounds: int
    steps: int


@dataclass
class Steps:
    """Seconds between updates: on the clock, and of this process's CPU time, which neighbours hardly touch."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> None:
    """Time every model, and write `OUT/step_time.json` and the Markdown tables."""
    args = parser().parse_args(argv)
    torch.set_num_threads(1)
    import_host()
    logging.disable(logging.INFO)
    console = Console(stderr=True)
    document: dict[str, Any] = {"machine": machine(), "models": {}}
    for model in models(args):
        document["models"][model.name] = measure(args.out, model, console)
    write_json(args.out / "step_time.json", document)
    text = markdown(document)
    print(text)
    if args.markdown:
        insert(args.markdown, "step_time", text)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("runs/step_time"))
    made.add_argument("--steps", type=int, default=200, help="updates each way in a round, of the shipped expert")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--clips", type=int, default=64)
    made.add_argument("--large_steps", type=int, default=50, help="the same of the random 1024-wide expert; 0: none")
    made.add_argument("--large_rounds", type=int, default=4)
    made.add_argument("--large_layers", type=int, default=6)
    made.add_argument("--markdown", type=Path, help="file whose tables are replaced")
    return made


def models(args: argparse.Namespace) -> Iterator[Model]:
    """The shipped low-noise expert with one clip a step and with eight, and a larger one of random weights."""
    shipped = export_experts(pipeline_path(), args.out / "experts")[Expert.LOW]
    for batch in (1, 8):
        data = make_data(args.out / "data", args.clips, batch)
        yield Model(f"shipped expert, batch {batch}", shipped, data, args.rounds, args.steps)
    if args.large_steps:
        large = random_expert(
            args.out / "experts" / f"large_{args.large_layers}.safetensors", 8, args.large_layers, 4096
        )
        name = f"random 1024 × {args.large_layers} layers, batch 1"
        yield Model(name, large, make_data(args.out / "data", args.clips, 1), args.large_rounds, args.large_steps)


def measure(out: Path, model: Model, console: Console) -> dict[str, Any]:
    """Step times of every way, ratios to upstream's, and the parts' own times."""
    rounds: list[dict[str, Steps]] = []
    with Progress(console=console, disable=not console.is_terminal) as bar:
        for number in bar.track(range(model.rounds), description=model.name):
            order = [*WAYS][number % len(WAYS) :] + [*WAYS][: number % len(WAYS)]
            rounds.append({way: train(out, model, way) for way in order})
    parts = Parts()
    with parts.timed():
        for parts.side, way in ((THEIRS, UPSTREAM), (OURS, "ours")):
            train(out, model, way)
    return {
        "updates": model.rounds * model.steps,
        "ways": {way: summary([taken[way] for taken in rounds], [taken[UPSTREAM] for taken in rounds]) for way in WAYS},
        "parts": parts.medians(),
    }


def train(out: Path, model: Model, way: str) -> Steps:
    """One training; what it prints goes to a file. Upstream draws its bar at every step, terminal or not."""
    chosen = WAYS[way]
    taken, before = Steps(), [0.0, 0.0]
    folder = out / "adapters"

    def stamp(*_: Any) -> None:
        now = [time.perf_counter(), time.process_time()]
        taken.wall.append(now[0] - before[0])
        taken.cpu.append(now[1] - before[1])
        before[:] = now

    data = model.data.orbit if chosen.typed else model.data.plain
    command = [*train_words(data, {"dit": model.dit}, folder, model.steps), *chosen.words]
    command += ["--overwrite"] if way != UPSTREAM else []
    command += ["--mlflow_tracking_uri", f"sqlite:///{(out / 'mlflow.db').absolute()}"] if chosen.typed else []
    register(model.dit)
    hook = register_optimizer_step_post_hook(stamp)
    try:
        with open(out / "log.txt", "a", encoding="utf-8") as log, redirect_stderr(log), redirect_stdout(log):
            run(command, Console(file=log, force_terminal=chosen.typed))
    finally:
        hook.remove()
        reset()
    return Steps(taken.wall[WARM:], taken.cpu[WARM:])


def reset() -> None:
    """Forget what accelerate remembers of the training before: each starts like the first of a process."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def summary(own: Sequence[Steps], upstream: Sequence[Steps]) -> dict[str, Any]:
    """Medians over all steps, their ratio to upstream's, and the median ratio over rounds with its interval."""
    found: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        ours, theirs = ([getattr(taken, clock) for taken in side] for side in (own, upstream))
        ratios = [median(a) / median(b) for a, b in zip(ours, theirs, strict=True)]
        own_median, upstream_median = median(chain(*ours)), median(chain(*theirs))
        found[clock] = {
            "median_ms": 1e3 * own_median,
            "ratio": own_median / upstream_median,
            "over_rounds": median_interval(ratios).as_dict(),
        }
    return found


def markdown(document: Mapping[str, Any]) -> str:
    """A table of step times, a table of parts."""
    rows, parts = [], []
    for name, model in document["models"].items():
        for way, found in model["ways"].items():
            wall, cpu = found["wall"], found["cpu"]
            ratios = ["1", "–", "1"]
            if way != UPSTREAM:
                ratios = [f"**{wall['ratio']:.3f}**", interval(wall["over_rounds"], 3), f"{cpu['ratio']:.3f}"]
            rows.append([name, way, f"{wall['median_ms']:.2f}", *ratios])
        upstream = model["ways"][UPSTREAM]["wall"]["median_ms"]
        for part, taken in model["parts"].items():
            cells = [f"{1e6 * value:.0f}" if value is not None else "–" for value in (taken[THEIRS], taken[OURS])]
            more = (taken[OURS] or 0.0) - (taken[THEIRS] or 0.0)
            parts.append([name, part, *cells, f"{100 * more / (upstream / 1e3):+.2f}%"])
    updates = ", ".join(f"{model['updates']} ({name})" for name, model in document["models"].items())
    return "\n".join(
        [
            f"Clips of 64×64×17, latents 16×5×8×8; updates each way: {updates}. {document['machine']}. "
            f"Goal: ratio ≤ {GOAL}.",
            "",
            table(
                ["model", "way", "median step, ms", "÷ upstream", "over rounds [95%]", "CPU time ÷ upstream's"], rows
            ),
            "",
            "Where it goes: medians of the parts that differ, in microseconds a step, and what ours take more as a "
            "share of upstream's step. Timed in a pass of their own, each without the parts within it.",
            "",
            table(["model", "part", "upstream, µs", "ours, µs", "of a step"], parts),
        ]
    )


if __name__ == "__main__":
    main()
