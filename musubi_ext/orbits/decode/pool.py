"""`clips.probe` and `clips.load_frames` in worker processes that are killed when they hang, grow or crash.

A video decoder is a large C program fed with files of unknown origin: its endless loops and crashes must cost one clip,
not a night's run. Frames come back in memory that both processes map, without a copy through a pipe.
"""

from __future__ import annotations

import atexit
import mmap
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from musubi_ext.errors import UserError, shown
from musubi_ext.orbits.buckets import Size
from musubi_ext.orbits.clips import MAX_BYTES, ClipInfo
from musubi_ext.orbits.decode.process import DiedError, Worker
from musubi_ext.video import Frames

TIME_LIMIT = 60.0  # seconds a clip
SLOTS = 4  # frames that a streaming worker may be ahead
MEMORY_LIMIT = 4 << 30  # bytes a clip: the decoder's own, and as much again for the frames it hands over


class DecodePool:
    """Workers that decode clips; as many threads as `workers` are served at once, further ones wait.

    Processes start when first needed and are gone after `close`, the `with` block, Ctrl-C or our own end, even by
    SIGKILL. `time_limit`: seconds a clip. `memory_limit`: bytes a clip, above what the idle worker holds; most decoders
    say that they ran out of it, some (H.264) call the file invalid.
    Raises UserError on systems without Unix sockets (Windows).
    """

    def __init__(self, workers: int = 1, *, time_limit: float = TIME_LIMIT, memory_limit: int = MEMORY_LIMIT) -> None:
        if sys.platform == "win32":
            raise UserError("decoding in a worker: unavailable: needs Linux or macOS (use WSL)")
        if workers < 1 or time_limit <= 0 or memory_limit <= 0:
            raise ValueError(f"expected positive numbers, found {workers=}, {time_limit=}, {memory_limit=}")
        self.time_limit, self.memory_limit = time_limit, memory_limit
        self.closed = False
        self._workers = [Worker(memory_limit) for _ in range(workers)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the last one used is warm
        for worker in self._workers:
            self._idle.put(worker)

    def probe(self, path: Path | str) -> ClipInfo:
        """`clips.probe`. Raises UserError, also for time, memory and crashes."""
        with _shared_file() as file:
            return ClipInfo(**self._ask({"action": "probe", "path": str(path)}, file)["info"])

    def load(
        self, path: Path | str, size: Size, *, limit: int | None = None, source_fps: float | None = None
    ) -> Frames:
        """`clips.load_frames`, uint8 (F, H, W, 3). Raises UserError, also for time, memory and crashes."""
        request = {
            "action": "load",
            "path": str(path),
            "size": size,
            "limit": limit,
            "source_fps": source_fps,
            "max_bytes": min(MAX_BYTES, self.memory_limit),
        }
        with _shared_file() as file:
            shape = self._ask(request, file)["shape"]
            # The array keeps the mapping alive, and the mapping the pages; the descriptor may go.
            return np.frombuffer(mmap.mmap(file, int(np.prod(shape))), np.uint8).reshape(shape)

    def stream(self, path: Path | str, size: Size) -> Iterator[Frames]:
        """`clips.iter_frames`: frames (H, W, 3) one by one in bounded memory, however long the clip.

        `time_limit` is for each frame. Raises UserError as `load` does, after the frames that could be decoded. A
        worker serves one stream: exhaust or close the iterator to free it.
        """
        width, height = size
        request = {"action": "stream", "path": str(path), "size": size, "slots": SLOTS}
        with _shared_file() as file:
            os.ftruncate(file, SLOTS * width * height * 3)
            slots = np.frombuffer(mmap.mmap(file, 0), np.uint8).reshape(SLOTS, height, width, 3)
            with self._named(path), self._worker() as worker:
                answer: dict[str, Any] = {}
                for answer in worker.stream(request, file, self.time_limit):
                    if "frame" in answer:
                        yield slots[answer["frame"] % SLOTS].copy()
            self._raise_refusal(answer, shown(path))

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [worker.pid for worker in self._workers if worker.pid]

    def limits(self) -> str:
        """What a clip may cost, in words; says so where the system cannot limit memory."""
        with self._worker() as worker:
            limited = worker.limited
        memory = _gibibytes(self.memory_limit) if limited else f"memory limit unavailable: {sys.platform} has none"
        return f"{self.time_limit:g} s, {memory}"

    def close(self) -> None:
        """End all workers, busy ones too; safe to repeat."""
        self.closed = True
        for worker in self._workers:
            worker.stop()  # a busy one is cleared away by the thread that waits for it
        idle = [self._idle.get() for _ in range(self._idle.qsize())]
        for worker in idle:
            worker.kill()
            self._idle.put(worker)

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], file: int) -> dict[str, Any]:
        """One clip's answer; a worker that failed, or that we were interrupted in waiting for, is killed."""
        with self._named(request["path"]), self._worker() as worker:
            answer = worker.ask(request, file, self.time_limit)
        self._raise_refusal(answer, shown(request["path"]))
        return answer

    @contextmanager
    def _named(self, path: Path | str) -> Iterator[None]:
        """What a worker's silence or death within the block means for the clip, as a UserError."""
        name = shown(path)
        try:
            yield
        except TimeoutError as error:
            raise UserError(
                f"{name}: took longer than {self.time_limit:g} s to decode (re-encode or remove)"
            ) from error
        except DiedError as error:
            if self.closed:
                raise RuntimeError("the pool was closed while it decoded") from error
            raise UserError(f"{name}: the decoder crashed ({error}) (re-encode or remove)") from error

    def _raise_refusal(self, answer: dict[str, Any], name: str) -> None:
        if "memory" in answer:
            limit = _gibibytes(self.memory_limit)
            raise UserError(f"{name}: needed more than {limit} to decode (scale it down or remove)")
        if "problems" in answer:
            raise UserError(answer["problems"])

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        worker, clean = self._idle.get(), False
        try:
            if self.closed:
                raise RuntimeError("the pool is closed")
            worker.start()
            yield worker
            clean = True
        finally:
            if self.closed or not clean:
                worker.kill()
            self._idle.put(worker)


@contextmanager
def _shared_file() -> Iterator[int]:
    """A descriptor of memory without a name: it cannot be left behind, whoever is killed when."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("clip")
        try:
            yield file
        finally:
            os.close(file)
    else:
        with tempfile.TemporaryFile() as temporary:
            yield temporary.fileno()


def _gibibytes(count: int) -> str:
    return f"{count / (1 << 30):.3g} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.3g} MiB"


_lock = threading.Lock()
_pools: list[DecodePool] = []


def probe(path: Path | str) -> ClipInfo:
    """`DecodePool.probe` with a pool of this process's own, ended at exit."""
    return _default().probe(path)


def load_frames(path: Path | str, size: Size, *, limit: int | None = None, source_fps: float | None = None) -> Frames:
    """`DecodePool.load` with a pool of this process's own, ended at exit."""
    return _default().load(path, size, limit=limit, source_fps=source_fps)


def stream(path: Path | str, size: Size) -> Iterator[Frames]:
    """`DecodePool.stream` with a pool of this process's own, ended at exit."""
    return _default().stream(path, size)


def _default() -> DecodePool:
    with _lock:
        if not _pools:
            _pools.append(DecodePool(os.cpu_count() or 1))
        return _pools[0]


@atexit.register
def _close_default() -> None:
    for pool in _pools:
        pool.close()


def _forget_default() -> None:
    """A forked child would read the answers meant for its parent; and the lock may have been held at the fork."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_default)
