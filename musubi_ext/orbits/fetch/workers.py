"""The same work for many items on a few threads that never keep the program from ending."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

GRACE = 0.5  # seconds that threads have to see `stop`


def in_threads(
    work: Callable[[T], R], items: Sequence[T], workers: int, stop: Event
) -> Generator[tuple[T, Future[R]], None, None]:
    """Every item with its finished future, in the order in which they end. Closing the generator sets `stop`.

    Threads of concurrent.futures are joined when the program ends, and a thread may wait half a minute for a server:
    these are daemons, so Ctrl-C ends at once.
    """
    waiting: SimpleQueue[T] = SimpleQueue()
    ended: SimpleQueue[tuple[T, Future[R]]] = SimpleQueue()
    for item in items:
        waiting.put(item)
    threads = [
        Thread(target=_work, args=(work, waiting, ended, stop), daemon=True) for _ in range(min(workers, len(items)))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in items:
            yield ended.get()
    finally:
        stop.set()
        deadline = time.monotonic() + GRACE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _work(
    work: Callable[[T], R], waiting: SimpleQueue[T], ended: SimpleQueue[tuple[T, Future[R]]], stop: Event
) -> None:
    while not stop.is_set():
        try:
            item = waiting.get_nowait()
        except Empty:
            return
        future: Future[R] = Future()
        try:
            future.set_result(work(item))
        except BaseException as error:  # it is raised where the result is asked for
            future.set_exception(error)
        ended.put((item, future))
