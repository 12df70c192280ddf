"""What the engine adds to the bare pipeline call, on the pocket model: every figure a ratio of neighbours in one run.

    python benchmarks/serving_engine.py                 # about a minute on two CPU cores
    python benchmarks/serving_engine.py --rounds 30 --json results.json

A round makes the same new video (another prompt, picture and seed each round) by a bare call of the pipeline and by a
job of the engine, one right after the other, who is first changing each time; then the job's prompt and picture again
with another seed. Scores are no part of a bare call: the job's time is given without them, and theirs beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from tables import machine, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `serving` lies beside musubi_ext and is not installed

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.generation.circle_rotate import CircleRotate
from musubi_ext.pocket.config import SHIPPED
from musubi_ext.pocket.random_lora import random_lora
from musubi_ext.storage import write_json
from serving.adapters_live import BASE
from serving.config import ServiceConfig
from serving.engine import Engine, Finished
from serving.making.pair_slot import PairSlot
from serving.making.request import JobRequest
from serving.making.stages import StageStore

LATENCY, EXTRA, SWAP = 1.05, 0.030, 0.100  # the goals: factor, seconds, seconds


def job(number: int, seed: int) -> JobRequest:
    """A request of the pocket's own settings with a picture and a prompt that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return JobRequest(f"red car number {number}, camera circles right to left", Image.fromarray(pixels), seed=seed)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def submit(engine: Engine, request: JobRequest, folder: Path) -> tuple[float, Finished]:
    """A job's seconds without its scores, and what came of it."""
    seconds, done = timed(
        lambda: engine.run(
            request, version=BASE, on_step=lambda _: None, cancelled=lambda: False, stage_store=StageStore(folder)
        )
    )
    return seconds, done


def latency(rounds: int, folder: Path) -> dict[str, float]:
    """Medians over rounds: bare call, job, its scores' cost, the encode stage, and what a repeat of it saves."""
    rotate = CircleRotate()
    plain = Engine(ServiceConfig.of({"pair": "", "evaluation": {"enabled": False}}))
    measured = Engine(ServiceConfig.of({"pair": ""}))
    found: dict[str, list[float]] = {name: [] for name in ("bare", "job", "ratio", "with scores", "encode", "repeat")}
    for number in range(-1, rounds):  # the first warms up
        request = job(number + 1, number + 1)
        settled = plain.settle(request, BASE)
        calls = {
            "bare": lambda settled=settled: timed(lambda: rotate.run(settled)),
            "job": lambda request=request, at=number: submit(plain, request, folder / f"{at}-job"),
        }
        names = list(calls) if number % 2 else list(reversed(calls))
        result = {name: calls[name]() for name in names}
        again, _ = submit(plain, job(number + 1, number + 1001), folder / f"{number}-again")
        fresh, done = submit(plain, job(number + 5001, number + 1001), folder / f"{number}-fresh")
        scored, _ = submit(measured, request, folder / f"{number}-scores")
        if number < 0:
            continue
        values = {
            "bare": result["bare"][0],
            "job": result["job"][0],
            "ratio": result["job"][0] / result["bare"][0],
            "with scores": scored,
            "encode": next(record.seconds for record in done.stages if record.stage == "encode"),
            "repeat": fresh - again,
        }
        for name, value in values.items():
            found[name].append(value)
    return {name: median(values) for name, values in found.items()}


def swaps(count: int, folder: Path) -> dict[str, float]:
    """Median seconds of an exchange of two pairs of rank 16 in the pocket's experts, files read and verified."""
    pairs = [pocket_pair(folder / name, name, seed) for seed, name in ((1, "a"), (3, "b"))]
    slot = PairSlot(CircleRotate().pipeline)
    slot.use(pairs[0])
    seconds = []
    for turn in range(count):
        slot.use(pairs[(turn + 1) % 2])
        seconds.append(slot.swap_seconds)
    return {"median": median(seconds), "longest": max(seconds)}


def pocket_pair(folder: Path, name: str, seed: int) -> AdapterPair:
    """A pair of rank 16 for the pocket's experts, too weak to change much."""
    high, low = (random_lora(number, 16, SHIPPED, down=0.01, up=0.01) for number in (seed, seed + 1000))
    return AdapterPair.save(folder, name, high, low)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        found = latency(args.rounds, Path(temporary))
        swap = swaps(2 * args.rounds, Path(temporary))
    goal = LATENCY * found["bare"] + EXTRA
    rows = [
        ["bare pipeline call", f"{found['bare'] * 1000:.0f} ms", ""],
        ["job, without scores", f"{found['job'] * 1000:.0f} ms", f"<= {goal * 1000:.0f} ms (1.05 x bare + 30 ms)"],
        ["job / bare, of each round", f"{found['ratio']:.3f}", ""],
        ["scores", f"{(found['with scores'] - found['job']) * 1000:.0f} ms", "beside the goal"],
        ["encode stage", f"{found['encode'] * 1000:.0f} ms", ""],
        ["saved by a repeat", f"{found['repeat'] * 1000:.0f} ms", "the encode stage"],
        ["swap of a pair", f"{swap['median'] * 1000:.0f} ms", f"<= {SWAP * 1000:.0f} ms"],
        ["swap, longest", f"{swap['longest'] * 1000:.0f} ms", ""],
    ]
    console = Console()
    console.print(machine(), markup=False, highlight=False)
    console.print(table(["what", "median", "goal"], rows), markup=False, highlight=False)
    if args.json:
        write_json(args.json, {"machine": machine(), "rounds": args.rounds, "latency": found, "swap": swap})


if __name__ == "__main__":
    main()
