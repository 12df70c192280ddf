"""Requests, services and looks at them, for the tests of the job queue."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image

from serving.jobs import Jobs
from serving.making.request import JobRequest
from serving.queue.job_settings import JobSettings
from serving.queue.store import JobRecord, transitions

HERE = Path(__file__).parent
STARTED: list[subprocess.Popen[str]] = []  # every service in a process of its own
_PLACES = (str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH"))  # of the fake engine, of `serving`
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PLACES))  # for workers and services


def request(prompt: str, seed: int = 1, color: str = "red") -> JobRequest:
    """A small request; the fake engine does what its prompt says."""
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(picture, "PNG")
    return JobRequest.parse({"prompt": prompt, "seed": seed}, {"first_frame": picture.getvalue()})


def settings(folder: Path, **others: Any) -> JobSettings:
    """Of a service with the fake engine, and no patience."""
    usual = {"engine": "fake_engine:FakeEngine", "grace": 1.0, "key_per_minute": 1000, "key_active": 100}
    return JobSettings(**{"folder": str(folder), **usual, **others})


@contextmanager
def service(folder: Path, *, workers: bool = True, **others: Any) -> Iterator[Jobs]:
    """A service in this process; `workers` False accepts and runs nothing."""
    jobs = Jobs(settings(folder, **others))
    jobs.start(workers=workers)
    try:
        yield jobs
    finally:
        jobs.close()


def until(true: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `true` returns once that is not false; fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


def ended(jobs: Jobs, job: JobRecord, seconds: float = 30.0) -> JobRecord:
    """The job once it has ended."""
    return until(lambda: (now := jobs.get(job.id, job.owner)).finished and now, seconds)


def history(jobs: Jobs, job: JobRecord) -> list[str]:
    """Every change of the job's state, as the audit has it."""
    with jobs.database.read() as connection:
        chosen = sa.select(transitions.c.what).where(transitions.c.job_id == job.id).order_by(transitions.c.seq)
        return list(connection.execute(chosen).scalars())


def journal(folder: Path) -> list[list[str]]:
    """Job, stage, process of every stage that was computed."""
    path = folder / "journal.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def end_all() -> None:
    """After a test that failed: end the services it started, and with them their workers, which may be frozen."""
    while STARTED:
        service_process = STARTED.pop()
        if service_process.poll() is None:
            for worker in children(service_process.pid):
                os.kill(worker, signal.SIGKILL)
            service_process.kill()
            service_process.wait()
        if service_process.stdout is not None:
            service_process.stdout.close()


def children(parent: int) -> list[int]:
    """The worker processes of a service."""
    with suppress(FileNotFoundError):
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return []


def process(chosen: JobSettings) -> subprocess.Popen[str]:
    """A service in a process of its own, started."""
    command = [sys.executable, str(HERE / "jobs_process.py"), chosen.to_json()]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    STARTED.append(started)
    assert started.stdout is not None
    assert started.stdout.readline().startswith("started")
    return started
