"""Step time of the extension over musubi-tuner's own trainer: the same command with and without it, in turns.

    MUSUBI_TUNER_HOME=… python benchmarks/step_time.py --out runs/step_time --markdown docs/TRAINING_RESULTS.md

A step goes from one update of the weights to the next: it holds loading the batch, the model, logging and the progress
bar; reading the model, validating and saving are outside. A second pass, in this process, times the parts.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
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
from taking_turns import Job, Turn, take_turns, updates

from musubi_ext.evaluation.statistics import median_interval
from musubi_ext.hosts.musubi.importing import import_host
from musubi_ext.hosts.musubi.pocket_task import register
from musubi_ext.pocket.config import pipeline_path
from musubi_ext.pocket.upstream import export_experts
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import write_json
from musubi_ext.wan_train_network import run

GOAL = 1.02
UPSTREAM = "upstream"


@dataclass(frozen=True)
class Way:
    """How to train: words that follow the command. `typed`: a data set with our table, tracked, its bar drawn."""

    words: tuple[str, ...]
    typed: bool = False


ONE = ("--experts", "low", "--overwrite")
WAYS = {
    UPSTREAM: Way(("--extension", "off")),  # draws its bar at every step, terminal or not
    "ours": Way((*ONE, "--no_mlflow")),
    "ours, --no_bands": Way((*ONE, "--no_mlflow", "--no_bands")),
    "ours, [orbit] data, MLflow, bar drawn": Way(ONE, typed=True),
}


@dataclass(frozen=True)
class Model:
    """What is trained, and for how long: `turns` × `steps` counted updates each way."""

    name: str
    dit: Path
    data: Data
    turns: int
    steps: int


def main(argv: Sequence[str] | None = None) -> None:
    """Time every model, and write `OUT/step_time.json` and the Markdown tables."""
    args = parser().parse_args(argv)
    torch.set_num_threads(1)
    import_host()
    logging.disable(logging.INFO)
    console = Console(stderr=True)
    timed = {model.name: kept(args.out, model, console) for model in models(args)}
    document = {"machine": machine(), "models": timed}
    write_json(args.out / "step_time.json", document)
    text = markdown(document)
    print(text)
    if args.markdown:
        insert(args.markdown, "step_time", text)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("runs/step_time"))
    made.add_argument("--turns", type=int, default=40, help="of each way to train, for the shipped expert")
    made.add_argument("--steps", type=int, default=10, help="counted updates of a turn")
    made.add_argument("--clips", type=int, default=64)
    made.add_argument("--large_turns", type=int, default=40, help="of the random 1024-wide expert; 0: leave it out")
    made.add_argument("--large_steps", type=int, default=5)
    made.add_argument("--large_layers", type=int, default=6)
    made.add_argument("--markdown", type=Path, help="file whose tables are replaced")
    return made


def models(args: argparse.Namespace) -> Iterator[Model]:
    """The shipped low-noise expert with one clip a step and with eight, and a larger one of random weights."""
    shipped = export_experts(pipeline_path(), args.out / "experts")[Expert.LOW]
    for batch in (1, 8):
        data = make_data(args.out / "data", args.clips, batch)
        yield Model(f"shipped expert, batch {batch}", shipped, data, args.turns, args.steps)
    if args.large_turns:
        large = random_expert(
            args.out / "experts" / f"large_{args.large_layers}.safetensors", 8, args.large_layers, 4096
        )
        name = f"random, 1024 wide, {args.large_layers} layers, batch 1"
        yield Model(name, large, make_data(args.out / "data", args.clips, 1), args.large_turns, args.large_steps)


def kept(out: Path, model: Model, console: Console) -> dict[str, Any]:
    """The figures of a model, measured once: an interrupted benchmark goes on with the next model."""
    path = out / f"{model.name.replace(' ', '_')}_{model.turns}_{model.steps}.json"
    if not path.exists():
        write_json(path, measure(out, model, console))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def measure(out: Path, model: Model, console: Console) -> dict[str, Any]:
    """Step times of every way, ratios to upstream's, and the parts' own times."""
    length = updates(model.turns, model.steps)
    jobs = {way: job(out / f"way_{number}", model, way, length) for number, way in enumerate(WAYS)}
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(model.name, total=model.turns)
        taken = take_turns(jobs, model.turns, model.steps, lambda: bar.advance(task))
    parts = Parts()
    with parts.timed():
        for parts.side, way in ((THEIRS, UPSTREAM), (OURS, "ours")):
            train(job(out / "parts", model, way, min(length, 100)))
    return {
        "updates": model.turns * model.steps,
        "ways": {way: summary(turns, taken[UPSTREAM]) for way, turns in taken.items()},
        "parts": parts.medians(),
    }


def job(folder: Path, model: Model, way: str, length: int) -> Job:
    """The training of one way."""
    chosen = WAYS[way]
    data = model.data.orbit if chosen.typed else model.data.plain
    words = [*train_words(data, {"dit": model.dit}, folder, length), *chosen.words]
    if chosen.typed:
        words += ["--mlflow_tracking_uri", f"sqlite:///{(folder / 'mlflow.db').absolute()}"]
    return Job(tuple(words), model.dit, folder / "log.txt", chosen.typed)


def train(job: Job) -> None:
    """Run it here, and forget what accelerate remembers of it."""
    from accelerate.state import AcceleratorState, GradientState

    job.log.parent.mkdir(parents=True, exist_ok=True)
    register(job.dit)
    with open(job.log, "a", encoding="utf-8") as log, redirect_stderr(log), redirect_stdout(log):
        run(job.words, Console(file=log, force_terminal=job.terminal))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def summary(own: Sequence[Turn], upstream: Sequence[Turn]) -> dict[str, Any]:
    """Medians over all steps and their ratio to upstream's, and over turns the median ratio with its interval."""
    found: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        ours, theirs = ([getattr(turn, clock) for turn in side] for side in (own, upstream))
        own_median, upstream_median = median(chain(*ours)), median(chain(*theirs))
        by_turn = [median(a) / median(b) for a, b in zip(ours, theirs, strict=True)]
        found[clock] = {
            "median_ms": 1e3 * own_median,
            "ratio": own_median / upstream_median,
            "by_turn": median_interval(by_turn).as_dict(),
        }
    return found


def markdown(document: Mapping[str, Any]) -> str:
    """A table of step times, a table of parts."""
    updates = ", ".join(f"{model['updates']} ({name})" for name, model in document["models"].items())
    return "\n".join(
        [
            f"Clips of 64×64×17, latents 16×5×8×8; counted updates each way: {updates}. {document['machine']}. "
            f"Goal: ratio ≤ {GOAL}.",
            "",
            table(
                ["model", "way", "median step, ms", "÷ upstream", "by turn [95%]", "CPU time ÷ upstream's [95%]"],
                [row for name, model in document["models"].items() for row in _ways(name, model)],
            ),
            "",
            "Where it goes: medians of the parts that differ, in microseconds a step, and what ours take more as a "
            "share of upstream's step. Timed in a pass of their own, each without the parts within it.",
            "",
            table(
                ["model", "part", "upstream, µs", "ours, µs", "of a step"],
                [row for name, model in document["models"].items() for row in _parts(name, model)],
            ),
        ]
    )


def _ways(name: str, model: Mapping[str, Any]) -> Iterator[list[str]]:
    for way, found in model["ways"].items():
        wall, cpu = found["wall"], found["cpu"]
        ratios = ["1", "–", "–"]
        if way != UPSTREAM:
            ratios = [f"{wall['ratio']:.3f}", interval(wall["by_turn"], 3), interval(cpu["by_turn"], 3)]
        yield [name, way, f"{wall['median_ms']:.2f}", *ratios]


def _parts(name: str, model: Mapping[str, Any]) -> Iterator[list[str]]:
    step = model["ways"][UPSTREAM]["wall"]["median_ms"] / 1e3
    total = 0.0
    for part, taken in model["parts"].items():
        cells = [f"{1e6 * taken[side]:.0f}" if taken[side] is not None else "–" for side in (THEIRS, OURS)]
        more = (taken[OURS] or 0.0) - (taken[THEIRS] or 0.0)
        total += more
        yield [name, part, *cells, f"{more / step:+.2%}"]
    yield [name, "**all of them**", "", f"{1e6 * total:+.0f}", f"{total / step:+.2%}"]


if __name__ == "__main__":
    main()
