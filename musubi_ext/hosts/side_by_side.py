"""Both experts at once: a process each, with the parent keeping the display and the tracking.

A child sends what it would say to its tracker and its progress bar through a pipe; only the parent talks to MLflow,
so that one process alone writes its database.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from musubi_ext.errors import UserError
from musubi_ext.hosts.endings import DivergedError, TrainingFailed, terminable
from musubi_ext.hosts.jobs import Job
from musubi_ext.hosts.phases import Bar, Trackers, bars, train_job
from musubi_ext.hosts.seam import Status
from musubi_ext.schedule.experts import Expert

GRACE = 10.0  # seconds that an interrupted child has to remove its temporary files


def run_side_by_side(
    jobs: Sequence[Job], metadata: Mapping[Expert, Mapping[str, str]], trackers: Trackers, console: Console
) -> None:
    """Train every job in a process of its own, the cores divided among them.

    One that fails does not stop the other; its reason is raised as TrainingFailed at the end.
    """
    context = get_context("spawn")
    threads = max(1, torch.get_num_threads() // len(jobs))
    children: dict[Expert, tuple[BaseProcess, Connection]] = {}
    try:
        for job in jobs:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(job, metadata[job.expert], threads, theirs))
            process.start()
            theirs.close()
            children[job.expert] = process, ours
        failures = _attend(jobs, children, trackers, console)
    finally:
        _end([process for process, _ in children.values()])
    if failures:
        raise TrainingFailed("\n".join(failures))


def _attend(
    jobs: Sequence[Job], children: Mapping[Expert, tuple[BaseProcess, Connection]], trackers: Trackers, console: Console
) -> list[str]:
    """Pass on what the children say until the last has ended; returns why some failed."""
    open_pipes = {pipe: expert for expert, (_, pipe) in children.items()}
    tracked = {job.expert: trackers(job.expert) for job in jobs}
    failures: dict[Expert, str] = {}
    with bars(console) as shown:
        receivers: dict[Expert, dict[str, Any]] = {
            job.expert: {"progress": Bar(shown, job.expert, job.phase.steps), "tracker": tracked[job.expert]}
            for job in jobs
        }
        while open_pipes:
            for pipe in wait(list(open_pipes)):
                assert isinstance(pipe, Connection)
                expert = open_pipes[pipe]
                try:
                    receiver, method, arguments = pipe.recv()
                except EOFError:
                    del open_pipes[pipe]
                    continue
                if receiver == "failure":
                    failures[expert] = method
                else:
                    getattr(receivers[expert][receiver], method)(*arguments)
    for expert, (process, _) in children.items():
        process.join()
        if process.exitcode:
            failures.setdefault(expert, f"{expert.value} expert: its process ended with status {process.exitcode}")
        tracked[expert].close("FAILED" if expert in failures else "FINISHED")
    return [failures[expert] for expert in failures]


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()


def _child(job: Job, metadata: Mapping[str, str], threads: int, pipe: Connection) -> None:
    torch.set_num_threads(threads)
    relay = Relay(pipe)
    try:
        with terminable():
            train_job(job, metadata, relay, relay)
    except (DivergedError, UserError) as error:
        pipe.send(("failure", str(error), ()))
        raise SystemExit(1) from None
    except (KeyboardInterrupt, BrokenPipeError):  # interrupted, or the parent is gone
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        pipe.close()


class Relay:
    """A tracker and a progress display whose words are said in the parent."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def update(self, step: int, total: int, loss: float) -> None:
        """Seam `Progress`."""
        self._pipe.send(("progress", "update", (step, total, loss)))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Seam `Tracker`."""
        self._pipe.send(("tracker", "log_params", (dict(params),)))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Seam `Tracker`."""
        self._pipe.send(("tracker", "log_metrics", (dict(metrics), step)))

    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Seam `Tracker`."""
        self._pipe.send(("tracker", "log_artifact", (path, folder)))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Seam `Tracker`."""
        self._pipe.send(("tracker", "set_tags", (dict(tags),)))

    def close(self, status: Status = "FINISHED") -> None:
        """Nothing to say: the parent closes the run by how the process ends."""
