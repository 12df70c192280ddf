"""Both experts at once: processes of its own for each, with the parent keeping the display and the tracking.

On GPUs every expert has its share of the devices, a process each, in a process group of its own; on a CPU one process
and its share of the cores. The main process of each says through a pipe what it would say to its tracker, its progress
bar or the user; only the parent talks to MLflow, so that one process alone writes its database.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console

from musubi_ext.errors import UserError
from musubi_ext.hosts.disk import DiskError
from musubi_ext.hosts.endings import DivergedError, TrainingFailed
from musubi_ext.hosts.jobs import Job
from musubi_ext.hosts.launched import visible_devices
from musubi_ext.hosts.phases import Bar, Trackers, bars, train_job
from musubi_ext.hosts.relay import Relay
from musubi_ext.schedule.experts import Expert
from musubi_ext.termination import terminable

GRACE = 10.0  # seconds that an interrupted child has to remove its temporary files


@dataclass
class _Group:
    """The processes of one expert; the first of them speaks."""

    job: Job
    processes: list[BaseProcess]
    pipe: Connection


def run_side_by_side(
    jobs: Sequence[Job],
    metadata: Mapping[Expert, Mapping[str, str]],
    trackers: Trackers,
    console: Console,
    preview: Any | None = None,
) -> None:
    """Train every job at once; `preview` is a PairPreviews, whose videos the parent keeps.

    One that fails does not stop the other; its reason is raised as TrainingFailed at the end.
    """
    devices = visible_devices()
    shares = [devices[place :: len(jobs)] for place in range(len(jobs))]
    groups: list[_Group] = []
    try:
        for job, share in zip(jobs, shares, strict=True):
            groups.append(_start(job, metadata[job.expert], share, len(jobs), preview))
        failures = _attend(groups, trackers, console, preview)
    finally:
        _end([process for group in groups for process in group.processes])
    if failures:
        raise TrainingFailed("\n".join(failures))


def _start(job: Job, metadata: Mapping[str, str], devices: Sequence[str], groups: int, preview: Any | None) -> _Group:
    context = get_context("spawn")
    threads = max(1, torch.get_num_threads() // groups)
    own = preview.kept_by(None) if preview is not None else None
    ours, theirs = context.Pipe()
    processes: list[BaseProcess] = []
    for environment in _environments(devices):
        speaks = not processes
        arguments = (job, metadata, threads, theirs if speaks else None, own)
        process = context.Process(target=_child, args=arguments)
        with patch.dict(os.environ, environment):  # it has to be there before the child imports torch
            process.start()
        processes.append(process)
    theirs.close()
    return _Group(job, processes, ours)


def _environments(devices: Sequence[str]) -> Iterator[dict[str, str]]:
    """The environment of each process of an expert: its devices, and with several its place among them."""
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
    if len(devices) < 2:
        yield visible
        return
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(len(devices))}
    for rank in range(len(devices)):
        yield {**visible, **together, "RANK": str(rank), "LOCAL_RANK": str(rank)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _attend(groups: Sequence[_Group], trackers: Trackers, console: Console, preview: Any | None) -> list[str]:
    """Pass on what the children say until the last has ended; returns why some failed."""
    open_pipes = {group.pipe: group.job.expert for group in groups}
    tracked = {group.job.expert: trackers(group.job.expert) for group in groups}
    failures: dict[Expert, str] = {}
    with bars(console) as shown:
        receivers: dict[Expert, dict[str, Any]] = {
            group.job.expert: {
                "progress": Bar(shown, group.job.expert, group.job.phase.steps),
                "tracker": tracked[group.job.expert],
                "console": console,
                "preview": preview,
            }
            for group in groups
        }
        while open_pipes:
            for pipe in wait(list(open_pipes)):
                assert isinstance(pipe, Connection)
                expert = open_pipes[pipe]
                try:
                    receiver, method, arguments = pipe.recv()
                except (EOFError, ConnectionError):  # it has ended, or was killed before it read an answer
                    del open_pipes[pipe]
                    continue
                if receiver == "failure":
                    failures[expert] = method
                else:
                    getattr(receivers[expert][receiver], method)(*arguments)
                    if method == "flush":  # the child waits: what it writes next takes this for granted
                        with suppress(ConnectionError):
                            pipe.send(None)
    for group in groups:
        for process in group.processes:
            process.join()
            if process.exitcode:
                expert = group.job.expert
                failures.setdefault(expert, f"{expert.value} expert: its process ended with status {process.exitcode}")
        tracked[group.job.expert].close("FAILED" if group.job.expert in failures else "FINISHED")
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


def _child(job: Job, metadata: Mapping[str, str], threads: int, pipe: Connection | None, preview: Any | None) -> None:
    torch.set_num_threads(threads)
    relay = Relay(pipe)
    own = preview.kept_by(relay.keep) if preview is not None else None
    with _failures_told(relay), terminable():
        train_job(job, metadata, relay, relay, relay.say, own)


@contextmanager
def _failures_told(relay: Relay) -> Iterator[None]:
    try:
        yield
    except (DivergedError, DiskError, UserError) as error:
        relay.fail(str(error))
        raise SystemExit(1) from None
    except (KeyboardInterrupt, ConnectionError, EOFError):  # interrupted, or the parent is gone
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        relay.close_pipe()
