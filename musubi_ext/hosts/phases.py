"""Run the jobs of a plan, one after another or side by side, and show how far each is."""

from __future__ import annotations

import gc
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from musubi_ext.hosts.endings import DivergedError, TrainingFailed
from musubi_ext.hosts.resolve import Job
from musubi_ext.hosts.seam import Progress, Tracker
from musubi_ext.schedule.experts import Expert

Trackers = Callable[[Expert], Tracker]


class Bar:
    """One expert's progress bar."""

    def __init__(self, bars: Bars, expert: Expert, total: int | None) -> None:
        self._bars, self._task = bars, bars.add_task(f"{expert.value}-noise expert", total=total, loss="")

    def update(self, step: int, total: int, loss: float) -> None:
        """Seam `Progress`."""
        self._bars.update(self._task, completed=step, total=total, loss=f"loss {loss:.4f}")


def train_job(job: Job, metadata: Mapping[str, str], tracker: Tracker, progress: Progress) -> None:
    """Train one expert in this process; its adapter is at `job.path` when this returns."""
    from musubi_ext.hosts.pocket import PocketTrainer

    started = time.perf_counter()
    PocketTrainer(job.phase, job.data, tracker, progress, metadata).train(Namespace(**vars(job.args)))
    tracker.log_metrics({"train_seconds": time.perf_counter() - started}, 0)


def run_in_turn(
    jobs: Sequence[Job], metadata: Mapping[Expert, Mapping[str, str]], trackers: Trackers, console: Console
) -> None:
    """Train one job after another in this process; a model is freed before the next is loaded.

    A job that diverges does not keep the next from being trained. Raises TrainingFailed at the end.
    """
    failures: list[str] = []
    with bars(console) as shown:
        for job in jobs:
            tracker, bar = trackers(job.expert), Bar(shown, job.expert, job.phase.steps)
            try:
                train_job(job, metadata[job.expert], tracker, bar)
            except DivergedError as error:
                failures.append(str(error))
                tracker.close("FAILED")
            else:
                tracker.close("FINISHED")
            gc.collect()
    if failures:
        raise TrainingFailed("\n".join(failures))


def bars(console: Console) -> Bars:
    """The display that holds a bar per expert."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    return Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal)
