"""Every video of a suite for two models: what was kept before is taken, the rest is made on all cores or one GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from musubi_ext.errors import UserError
from musubi_ext.evaluation.result import Result
from musubi_ext.locks import locked
from musubi_ext.promotion.shootings import Shooting, read_kept

if TYPE_CHECKING:
    from rich.console import Console

    from musubi_ext.evaluation.suite import Measured

_FEW = 6  # videos: starting processes would take longer than making these in one
R = TypeVar("R")


@dataclass(frozen=True)
class Made:
    """Results and scenes by clip name, in the suite's order. `problems`: what could not be made or measured."""

    results: Mapping[str, Mapping[str, Result]]
    scenes: Mapping[str, Mapping[str, Any]]
    problems: tuple[str, ...] = ()


def make_all(models: Sequence[Sequence[Shooting]], console: Console, workers: int | None = None) -> list[Made]:
    """What was made of each model's shootings. A video that cannot be made or measured never stops the others.

    Of two processes that need the same, the second waits and finds it made. Raises UserError for a base, pair or
    picture that cannot be used, before anything is made.
    """
    from musubi_ext.promotion.clips import check_before, scenes_to_render

    jobs = [job for model in models for job in model]
    missing = [job for job in jobs if read_kept(job) is None]
    measured: dict[str, Measured] = {}
    if missing:
        check_before(missing)
    if missing or scenes_to_render(jobs):
        waiting = partial(console.print, "another promotion makes videos: waiting")
        with locked(jobs[0].root / "making", "", waiting):
            _render(scenes_to_render(jobs), console, workers)
            measured = _make([job for job in missing if read_kept(job) is None], console, workers)
    return [_made(model, measured) for model in models]


def _render(scenes: Sequence[Shooting], console: Console, workers: int | None) -> None:
    from musubi_ext.promotion.clips import render

    for _ in _spread(scenes, render, _processes(scenes, workers, True), "rendering", console, None):
        pass


def _make(jobs: Sequence[Shooting], console: Console, workers: int | None) -> dict[str, Measured]:
    """A model's videos follow one another: a process puts another pair into its base once."""
    from musubi_ext.promotion.clips import died, shoot

    on_cpu = all(job.device == "cpu" for job in jobs)
    made = _spread(jobs, shoot, _processes(jobs, workers, on_cpu), "filming and measuring", console, died)
    return {job.results_key: measured for job, measured in made}


def _processes(jobs: Sequence[Shooting], workers: int | None, on_cpu: bool) -> int:
    """1 is this process itself: a GPU holds one model."""
    from musubi_ext.evaluation.flow import cores

    if not on_cpu or len(jobs) < _FEW:
        return 1
    return max(1, min(workers or cores(), len(jobs)))


def _spread(
    jobs: Sequence[Shooting],
    work: Callable[[Shooting], R],
    processes: int,
    label: str,
    console: Console,
    died: Callable[[Shooting], R] | None,
) -> Iterator[tuple[Shooting, R]]:
    from musubi_ext.worker_pool import outlive

    def lost(job: Shooting) -> R:
        if died is None:
            raise UserError(f"{job.scene.name}: the process that rendered it died (killed, or out of memory)")
        return died(job)

    with _progress(console, label, len(jobs)) as advance:
        found = ((job, work(job)) for job in jobs) if processes == 1 else outlive(jobs, work, processes, died=lost)
        for pair in found:
            advance()
            yield pair


def _made(jobs: Sequence[Shooting], measured: Mapping[str, Measured]) -> Made:
    results: dict[str, Mapping[str, Result]] = {}
    scenes: dict[str, Mapping[str, Any]] = {}
    problems: list[str] = []
    for job in jobs:
        name, kept = job.scene.name, read_kept(job)
        if kept is not None:
            results[name], scenes[name] = kept
        else:
            results[name] = measured[job.results_key].results
            problems += measured[job.results_key].problems
    return Made(results, scenes, tuple(problems))


@contextmanager
def _progress(console: Console, label: str, total: int) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)
