"""Trainings that run a few steps at a time, in turns, each in a process of its own: whoever else uses the machine
slows all of them alike, and a ratio of neighbouring turns hardly moves.

A step is the time from one update of the weights to the next, by the same hook of torch in every process. The first
step of a turn warms the processor's caches and is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

WARM = 1  # steps of a turn that are not counted


@dataclass(frozen=True)
class Job:
    """One training: a command of `musubi_ext.wan_train_network`, and what it prints to `log`, bars drawn or not.

    `dit`: the expert's file for musubi-tuner; None where the pocket host trains.
    """

    words: tuple[str, ...]
    dit: Path | None
    log: Path
    terminal: bool


@dataclass(frozen=True)
class Turn:
    """Seconds of each step: on the clock, and of CPU time of all threads of the process."""

    wall: list[float]
    cpu: list[float]


def updates(turns: int, steps: int) -> int:
    """How long a training has to be for so many turns of so many counted steps."""
    return 1 + turns * (steps + WARM)


def take_turns(jobs: Mapping[str, Job], turns: int, steps: int, told: Callable[[], None]) -> dict[str, list[Turn]]:
    """Every job's turns. Another one begins each time; `told` is called after each round."""
    context, running = get_context("spawn"), {}
    for name, job in jobs.items():
        here, there = context.Pipe()
        process = context.Process(target=_train, args=(job, steps, there))
        process.start()
        there.close()
        running[name] = (here, process)
        _receive(*running[name])  # the model is there and the first step done
    taken: dict[str, list[Turn]] = {name: [] for name in jobs}
    names = list(jobs)
    for number in range(turns):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            running[name][0].send(None)
            taken[name].append(_receive(*running[name]))
        told()
    for here, process in running.values():
        here.send(None)
        process.join()
    return taken


def _receive(connection: Connection, process: BaseProcess) -> Any:
    try:
        return connection.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"a training ended early, with status {process.exitcode}: see its log") from error


def _train(job: Job, steps: int, connection: Connection) -> None:
    from rich.console import Console
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from musubi_ext.hosts.musubi.importing import import_host
    from musubi_ext.hosts.musubi.pocket_task import register

    torch.set_num_threads(1)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "w", encoding="utf-8") as log, redirect_stderr(log), redirect_stdout(log):
        if job.dit is not None:
            import_host()
            register(job.dit)
        from musubi_ext.wan_train_network import run

        register_optimizer_step_post_hook(_Baton(steps, connection))
        run(job.words, Console(file=log, force_terminal=job.terminal))


class _Baton:
    """Called after every update of the weights; gives the turn away after `steps` counted ones."""

    def __init__(self, steps: int, connection: Connection) -> None:
        self._steps, self._connection = steps, connection
        self._left = 0  # steps of this turn still to come
        self._turn = Turn([], [])
        self._before = (0.0, 0.0)

    def __call__(self, *_: Any) -> None:
        now = time.perf_counter(), time.process_time()
        if 0 < self._left <= self._steps:
            self._turn.wall.append(now[0] - self._before[0])
            self._turn.cpu.append(now[1] - self._before[1])
        self._left -= 1
        if self._left <= 0:
            self._connection.send(self._turn)
            self._connection.recv()
            self._turn, self._left = Turn([], []), self._steps + WARM
        self._before = time.perf_counter(), time.process_time()
