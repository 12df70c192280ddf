"""Starts the worker processes, one per GPU, and starts each again when it dies; ends them when the service ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.queue.job_settings import JobSettings
from serving.queue.worker_protocol import LAST, MISTAKE

SHORT = 10.0  # seconds: a worker that dies sooner is started again after a pause, doubled each time
LONGEST_PAUSE = 30.0
_log = logging.getLogger(__name__)


class Worker:
    """One worker process and its successors."""

    def __init__(self, settings: JobSettings, number: int, died: Callable[[str], object]) -> None:
        self.settings, self.number, self.died = settings, number, died
        self.process: subprocess.Popen[bytes] | None = None
        self.mistake: str | None = None  # why it cannot be started at all
        self.starts = 0
        self._told = False
        self._pause, self._not_before, self._started = 0.0, 0.0, 0.0

    def prepare(self) -> None:
        """Start the process, which loads its libraries and waits to be told what it is for."""
        home = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        device = self._device()
        if self.mistake is not None:
            return
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving.queue.worker", self.settings.engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, **device},
        )
        self._told, self._started, self.starts = False, time.monotonic(), self.starts + 1
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def check(self) -> None:
        """Start it if it does not run and its pause is over, and tell it what it is for."""
        if self.mistake is not None:
            return
        if self.process is not None and self.process.poll() is None:
            if not self._told:
                self._tell()
            return
        now = time.monotonic()
        if self.process is not None:
            _log.warning("worker %d ended with status %s", self.number, self.process.returncode)
            short = now - self._started < SHORT
            self._pause = min(max(0.5, 2 * self._pause), LONGEST_PAUSE) if short else 0.0
            self._not_before = now + self._pause
            self._close()
            self.died(self.settings.executor(self.number))
        if now >= self._not_before:
            self.prepare()
            if self.process is not None:
                self._tell()

    def _tell(self) -> None:
        told = {"settings": dataclasses.asdict(self.settings), "worker": self.number}
        assert self.process is not None
        assert self.process.stdin is not None
        self._told = True
        with contextlib.suppress(BrokenPipeError):  # it has died already; `check` sees it
            self.process.stdin.write(json.dumps(told).encode() + b"\n")
            self.process.stdin.flush()  # it stays open: its end tells the worker that we are gone

    def _device(self) -> dict[str, str]:
        """One GPU of those that we may use, where there are several workers."""
        if self.settings.workers == 1 or self.settings.config.get("device") != "cuda":
            return {}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        places = visible.split(",") if visible else [str(number) for number in range(self.settings.workers)]
        if self.number >= len(places):
            self.mistake = f"jobs.workers: {self.settings.workers}, but CUDA_VISIBLE_DEVICES names {len(places)}"
            return {}
        return {"CUDA_VISIBLE_DEVICES": places[self.number]}

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                try:
                    said: Any = json.loads(line)
                except ValueError:
                    sys.stderr.buffer.write(line)  # something the engine's libraries print
                    continue
                if isinstance(said, dict) and "mistake" in said:
                    self.mistake = "; ".join(said["mistake"])
                    _log.error("worker %d cannot work: %s", self.number, self.mistake)
        if process.wait() == MISTAKE and self.mistake is None:
            self.mistake = "the worker refused to start; its log says why"

    def wake(self) -> None:
        """Tell it that there is a job; one that does not listen finds it by itself."""
        process = self.process
        if process is not None and process.stdin is not None and self._told:
            with contextlib.suppress(OSError, ValueError):  # it has died, or is being replaced
                os.write(process.stdin.fileno(), b"job\n")

    def kill(self) -> None:
        """End it at once: it hangs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    def tell(self) -> None:
        """Ask it to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, deadline: float) -> None:
        """Until it has ended, or is ended at `deadline` (monotonic)."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process = None


class Supervisor:
    """All workers of this replica. `check` is called now and then, by one thread; `died` is told who ended."""

    def __init__(self, settings: JobSettings, died: Callable[[str], object]) -> None:
        self.settings = settings
        self.workers = [Worker(settings, number, died) for number in range(settings.workers)]
        self._lock = threading.Lock()
        self._stopped = False

    def prepare(self) -> None:
        """Start the processes, to be told by the first `check` what they are for: loading takes them seconds."""
        for worker in self.workers:
            worker.prepare()

    def check(self) -> None:
        """Start what does not run."""
        with self._lock:
            if not self._stopped:
                for worker in self.workers:
                    worker.check()

    def wake(self) -> None:
        """Tell the workers that there is a job."""
        for worker in self.workers:
            worker.wake()

    def kill(self, executors: list[str]) -> None:
        """End the workers of these names; others' are left alone."""
        for worker in self.workers:
            if self.settings.executor(worker.number) in executors:
                worker.kill()

    @property
    def executors(self) -> list[str]:
        """The names under which this replica's workers run jobs."""
        return [self.settings.executor(worker.number) for worker in self.workers]

    @property
    def mistakes(self) -> list[str]:
        """Why workers cannot be started at all."""
        return [worker.mistake for worker in self.workers if worker.mistake is not None]

    def pids(self) -> list[int]:
        """The processes that run."""
        running = (worker.process for worker in self.workers)
        return [process.pid for process in running if process is not None and process.poll() is None]

    def stop(self) -> None:
        """Let running jobs end within the grace period, put the others back into the queue, end every worker."""
        with self._lock:
            self._stopped = True
            for worker in self.workers:
                worker.tell()
            deadline = time.monotonic() + self.settings.grace + LAST + 5.0
            for worker in self.workers:
                worker.wait(deadline)
