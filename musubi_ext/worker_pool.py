"""The same work for many things in processes of one thread each: neither an error nor a dead process stops the rest.

Memory does not grow with the number of things: a few for each process are under way.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

IN_FLIGHT = 4  # jobs handed to the pool for each worker
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

J = TypeVar("J")
R = TypeVar("R")


def outlive(
    jobs: Iterable[J], work: Callable[[J], R], workers: int, *, died: Callable[[J], R]
) -> Iterator[tuple[J, R]]:
    """(job, `work(job)`) in any order, over `workers` processes; `died(job)` for a job that kills its process.

    Jobs, `work` and what it returns must pickle. An exception in `work` is raised here.
    """
    waiting = iter(jobs)
    while suspects := (yield from _until_broken(waiting, work, workers, workers * IN_FLIGHT)):
        alone = iter(suspects)  # one of them killed its worker: one at a time shows which
        while killers := (yield from _until_broken(alone, work, 1, 1)):
            yield killers[0], died(killers[0])


def _until_broken(
    waiting: Iterator[J], work: Callable[[J], R], workers: int, most: int
) -> Generator[tuple[J, R], None, list[J]]:
    """Work until all is done; gives back the jobs under way when a worker died, else an empty list."""
    under_way: dict[int, J] = {}
    running: dict[Future[R], int] = {}
    numbers = itertools.count()
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of whoever calls
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        while True:
            for job in itertools.islice(waiting, most - len(under_way)):
                number = next(numbers)
                under_way[number] = job  # before it is submitted: a pool that is already broken refuses it
                running[pool.submit(work, job)] = number
            if not under_way:
                return []
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                yield under_way.pop(running.pop(future)), result
    except BrokenProcessPool:
        return list(under_way.values())
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """One thread each; Ctrl-C is the parent's to handle; and a worker never outlives a parent that was killed."""
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # for libraries that load later
    import cv2
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
