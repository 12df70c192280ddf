"""The same small piece of work for many things, on two cores: one process of one thread each."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Job = TypeVar("Job")
Result = TypeVar("Result")

PROCESSES = 2
WORTH_IT = 4  # jobs; for fewer, starting a process (seconds, with torch) costs more than it saves
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def spread(
    function: Callable[[Job], Result], jobs: Sequence[Job], label: str, console: Console, processes: int = PROCESSES
) -> list[Result]:
    """`[function(job) for job in jobs]`, shared among processes, with a progress bar.

    `function` and jobs must be importable and picklable. The first error is raised as it is, after the jobs under way
    have ended; so is Ctrl-C, which the workers ignore: what a job writes is finished, and no more is begun.
    """
    name, count = TextColumn("{task.description}"), MofNCompleteColumn()
    columns = (name, BarColumn(), count, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=len(jobs))
        results = dict[int, Result]()
        run = _here if len(jobs) < WORTH_IT or processes == 1 else _apart
        for index, result in run(function, jobs, processes):
            results[index] = result
            bar.advance(task)
    return [results[index] for index in range(len(jobs))]


def _here(function: Callable[[Job], Result], jobs: Sequence[Job], _: int) -> Iterator[tuple[int, Result]]:
    for index, job in enumerate(jobs):
        yield index, function(job)


def _apart(function: Callable[[Job], Result], jobs: Sequence[Job], processes: int) -> Iterator[tuple[int, Result]]:
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # read by the children's libraries when they load
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_watch_parent)
    try:
        with _ignored(signal.SIGINT):  # children inherit that from their first moment on: Ctrl-C is the parent's
            futures = {pool.submit(function, job): index for index, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _ignored(signal_number: signal.Signals) -> Iterator[None]:
    before = signal.signal(signal_number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal_number, before)


def _watch_parent() -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = parent_process()
    assert parent is not None  # this is a child
    connection.wait([parent.sentinel])
    os._exit(1)  # the parent was killed: nobody waits for the result
