"""Run the jobs of a plan one after another in this process, and show how far each is."""

from __future__ import annotations

import gc
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from musubi_ext.hosts.disk import DiskError
from musubi_ext.hosts.endings import DivergedError, TrainingFailed
from musubi_ext.hosts.extension import Preview
from musubi_ext.hosts.jobs import MUSUBI, Job
from musubi_ext.hosts.launched import is_main
from musubi_ext.hosts.seam import NoProgress, NoTracking, Progress, Tracker
from musubi_ext.hosts.state_policy import StatePolicy
from musubi_ext.schedule.experts import Expert

Trackers = Callable[[Expert], Tracker]
Say = Callable[[str], None]


class Bar:
    """One expert's progress bar."""

    def __init__(self, bars: Bars, expert: Expert, total: int | None) -> None:
        self._bars, self._task = bars, bars.add_task(f"{expert.value}-noise expert", total=total, loss="")

    def update(self, step: int, total: int, loss: float) -> None:
        """Seam `Progress`."""
        self._bars.update(self._task, completed=step, total=total, loss=f"loss {loss:.4f}")


def train_job(
    job: Job,
    metadata: Mapping[str, str],
    tracker: Tracker,
    progress: Progress,
    say: Say | None = None,
    preview: Preview | None = None,
) -> None:
    """Train one expert in this process; its adapter is at `job.path` when this returns, and its model is freed.

    Raises DivergedError, DiskError, and UserError for a state that does not belong to the job.
    """
    started = time.perf_counter()
    args = Namespace(**vars(job.args))
    policy = StatePolicy(args, job.settings, say)
    trainer = _trainer_class(job)(job.phase, job.data, tracker, progress, metadata, preview, policy)
    try:
        trainer.train(args)
    finally:
        del trainer
        _release()
    tracker.log_metrics({"train_seconds": time.perf_counter() - started}, 0)


def run_in_turn(
    jobs: Sequence[Job],
    metadata: Mapping[Expert, Mapping[str, str]],
    trackers: Trackers,
    console: Console,
    preview: Preview | None = None,
) -> None:
    """Train one job after another; a model is freed before the next is loaded.

    A job that fails does not keep the next from being trained. Raises TrainingFailed at the end.
    """
    failures: list[str] = []
    with bars(console) as shown:
        for job in jobs:
            tracker: Tracker = trackers(job.expert) if is_main() else NoTracking()
            bar: Progress = Bar(shown, job.expert, job.phase.steps) if is_main() else NoProgress()
            try:
                train_job(job, metadata[job.expert], tracker, bar, console.print if is_main() else None, preview)
            except (DivergedError, DiskError) as error:
                failures.append(str(error))
                tracker.close("FAILED")
            else:
                tracker.close("FINISHED")
    if failures:
        raise TrainingFailed("\n".join(failures))


def bars(console: Console) -> Bars:
    """The display that holds a bar per expert."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    shown = console.is_terminal and is_main()
    return Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not shown)


def _trainer_class(job: Job) -> type:
    if job.host == MUSUBI:
        from musubi_ext.hosts.musubi.trainer import trainer_class

        return trainer_class(job.args.task)
    from musubi_ext.hosts.pocket import PocketTrainer

    return PocketTrainer


def _release() -> None:
    """Let go of what accelerate remembers of a finished training, so that its model's memory is free.

    The process group stays: the next phase trains in the same one.
    """
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state()
    GradientState._reset_state()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
