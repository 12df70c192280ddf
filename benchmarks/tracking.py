"""What tracking costs: a logging call on the training thread, a training step, and how fast the sender is.

    python benchmarks/tracking.py --out runs/tracking --markdown docs/REGISTRY_RESULTS.md

Calls are timed in a loop that computes between them, as a training does, with the store there, dying and absent. Step
times come from trainings of the pocket host that take turns (`taking_turns.py`): untracked, with a SQLite file, with a
server, with a server that is not there. The sender empties a spool that was filled while the store was away.
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from pocket_inputs import make_data
from tables import insert, interval, machine, table
from taking_turns import Job, Turn, take_turns, updates

from musubi_ext.evaluation.statistics import median_interval
from musubi_ext.pocket.config import pipeline_path
from musubi_ext.registry.replay import look, replay
from musubi_ext.registry.tracking import PairTracking
from musubi_ext.storage import write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from mlflow_server import Server

CALL_GOAL_US, STEP_GOAL = 50.0, 1.02
UNTRACKED, CONTROL = "untracked", "untracked, again"  # two processes that do the same are not equally fast
STEP = {f"metric_{index:02d}": 1.0 / (index + 1) for index in range(16)}  # as many numbers as a training step has


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write `OUT/tracking.json` and the Markdown tables."""
    args = parser().parse_args(argv)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # that nothing answers is what is measured
    args.out.mkdir(parents=True, exist_ok=True)
    with server(args.out) as running:
        document: dict[str, Any] = {"machine": machine(), "calls": dict(calls(args, running))}
        document["sender"] = dict(sender(args, running))
        document["steps"] = steps(args, running)
    write_json(args.out / "tracking.json", document)
    text = markdown(document)
    print(text)
    if args.markdown:
        insert(args.markdown, "tracking", text)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("runs/tracking"))
    made.add_argument("--calls", type=int, default=3000, help="timed logging calls of each way")
    made.add_argument("--events", type=int, default=5000, help="steps in the spool that the sender empties")
    made.add_argument("--turns", type=int, default=12, help="of each way to train")
    made.add_argument("--steps", type=int, default=50, help="counted updates of a turn")
    made.add_argument("--clips", type=int, default=16)
    made.add_argument("--markdown", type=Path, help="file whose table is replaced")
    return made


@contextmanager
def server(out: Path) -> Iterator[Server]:
    """A tracking server whose files are in `out`."""
    (out / "server").mkdir(exist_ok=True)
    made = Server((out / "server").absolute(), free_port())
    try:
        yield made.start()
    finally:
        made.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def absent() -> str:
    """URI of a server that is not there."""
    return f"http://127.0.0.1:{free_port()}"


def calls(args: argparse.Namespace, running: Server) -> Iterator[tuple[str, dict[str, float]]]:
    """Microseconds of `log_metrics` with 16 numbers, by what the store does meanwhile."""
    sqlite = f"sqlite:///{(args.out / 'calls.db').absolute()}"
    yield "SQLite file", time_calls(args, sqlite)
    yield "server", time_calls(args, running.uri)
    yield "server killed half way", time_calls(args, running.uri, half_way=running.kill)
    running.start()
    yield "no server", time_calls(args, absent())


def time_calls(args: argparse.Namespace, uri: str, half_way: Callable[[], None] = lambda: None) -> dict[str, float]:
    taken: list[float] = []
    matrix = torch.rand(256, 256)
    with PairTracking(uri, spool_directory=args.out / "calls", close_timeout=1) as tracking:
        for step in range(args.calls):
            matrix = torch.tanh(matrix @ matrix)  # a millisecond without the interpreter's lock, as a step has many
            began = time.perf_counter()
            tracking.log_metrics(STEP, step)
            taken.append(1e6 * (time.perf_counter() - began))
            if step == args.calls // 2:
                half_way()
    return {"median": median(taken), "p99": quantiles(taken, n=100)[-1], "max": max(taken)}


def sender(args: argparse.Namespace, running: Server) -> Iterator[tuple[str, dict[str, float]]]:
    """Events a second, of 16 numbers each, from a spool into an empty run."""
    targets = {"SQLite file": f"sqlite:///{(args.out / 'sender.db').absolute()}", "server": running.uri}
    for name, uri in targets.items():
        with PairTracking(absent(), spool_directory=args.out / "sender", close_timeout=0.1) as tracking:
            for step in range(args.events):
                tracking.log_metrics(STEP, step)
        (found,) = look(tracking.spool_path)
        began = time.perf_counter()
        done = replay(found, uri)
        seconds = time.perf_counter() - began
        assert done.left == 0, done.reason
        yield name, {"events_per_s": done.sent / seconds, "numbers_per_s": len(STEP) * args.events / seconds}


def steps(args: argparse.Namespace, running: Server) -> dict[str, Any]:
    """Step times of every way, and ratios to the untracked one's."""
    data = make_data(args.out / "data", args.clips, 1)
    uris = {
        "SQLite file": f"sqlite:///{(args.out / 'steps.db').absolute()}",
        "server": running.uri,
        "no server": absent(),
    }
    length = updates(args.turns, args.steps)
    ways = {UNTRACKED: ["--no_mlflow"], CONTROL: ["--no_mlflow"]}
    ways |= {name: ["--mlflow_tracking_uri", uri] for name, uri in uris.items()}
    jobs = {
        name: job(args.out / f"way_{number}", data.orbit, length, more)
        for number, (name, more) in enumerate(ways.items())
    }
    taken = take_turns(jobs, args.turns, args.steps, lambda: None)
    return {"updates": args.turns * args.steps, "ways": {way: summary(taken[way], taken[UNTRACKED]) for way in taken}}


def job(folder: Path, data: Path, length: int, more: Sequence[str]) -> Job:
    """The low-noise expert of the shipped pocket model."""
    flags = {
        "dataset_config": data.absolute(),
        "dit": pipeline_path(),
        "output_dir": folder.absolute(),
        "output_name": "orbit",
        "network_dim": 16,
        "max_train_steps": length,
        "experts": "low",
        "validate_every_n_steps": 0,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return Job((*words, "--overwrite", *more), None, folder / "log.txt", False)


def summary(own: Sequence[Turn], untracked: Sequence[Turn]) -> dict[str, Any]:
    """`cpu`: of all threads of the training's process, by which a busy machine changes little."""
    pairs = list(zip(own, untracked, strict=True))
    ours, theirs = median(chain(*(turn.wall for turn in own))), median(chain(*(turn.wall for turn in untracked)))
    return {
        "median_ms": 1e3 * ours,
        "ratio": ours / theirs,
        "wall": median_interval([median(a.wall) / median(b.wall) for a, b in pairs]).as_dict(),
        "cpu": median_interval([median(a.cpu) / median(b.cpu) for a, b in pairs]).as_dict(),
        "cpu_of_turn": median_interval([sum(a.cpu) / sum(b.cpu) for a, b in pairs]).as_dict(),
    }


def markdown(document: Mapping[str, Any]) -> str:
    """Three tables."""
    numbers = len(STEP)
    calls = [
        [name, *(f"{found[key]:.1f}" for key in ("median", "p99", "max"))] for name, found in document["calls"].items()
    ]
    rates = [
        [name, f"{found['events_per_s']:.0f}", f"{found['numbers_per_s']:.0f}"]
        for name, found in document["sender"].items()
    ]
    return "\n".join(
        [
            f"{document['machine']}.",
            "",
            f"A logging call of {numbers} numbers on the training thread, microseconds. Goal: ≤ {CALL_GOAL_US:.0f}.",
            "",
            table(["store", "median", "p99", "largest"], calls),
            "",
            f"The sender, emptying a spool of events with {numbers} numbers each.",
            "",
            table(["store", "events/s", "numbers/s"], rates),
            "",
            f"Steps of the shipped low-noise expert, {document['steps']['updates']} updates each way in turns. Goal: "
            f"ratio of medians ≤ {STEP_GOAL}. CPU time is that of all threads: of the median step, and of whole turns, "
            "which counts all that the sender does.",
            "",
            table(
                [
                    "store",
                    "median step, ms",
                    "÷ untracked",
                    "by turn [95%]",
                    "CPU, step [95%]",
                    "CPU, turn [95%]",
                ],
                [_step_row(name, found) for name, found in document["steps"]["ways"].items()],
            ),
        ]
    )


def _step_row(name: str, found: Mapping[str, Any]) -> list[str]:
    if name == UNTRACKED:
        return [name, f"{found['median_ms']:.2f}", "1", "–", "–", "–"]
    ratios = [f"{found['ratio']:.3f}", *(interval(found[key], 3) for key in ("wall", "cpu", "cpu_of_turn"))]
    return [name, f"{found['median_ms']:.2f}", *ratios]


if __name__ == "__main__":
    main()
