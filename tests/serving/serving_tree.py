"""The real service for the tests that hurt it: its processes by what they do, its jobs by their rows and files."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import sqlalchemy as sa
from PIL import Image

from musubi_ext.video import read_comment, read_video
from serving.queue.process import ServiceProcess
from serving.queue.store import Database, jobs, transitions

ENDS = ("completed", "failed", "cancelled")
PARENT, HTTP, WORKER = "parent", "http", "worker"  # bentoml's, its HTTP worker, the process that has the engine
SMALL = {"prompt": "a red car", "size": "32x32", "num_frames": 5, "num_inference_steps": 4}
CONFIG: dict[str, Any] = {  # a pocket without a pair, one thread, no bounds that these tests would meet
    "pair": "",
    "threads": 1,
    "limits": {"queue": 1000, "grace_seconds": 1.0},
    "keys": {"queued": 1000, "per_minute": 100_000},
    "evaluation": {"metrics": ["temporal_flicker"], "threads": 1},
}


def png(seed: int, side: int = 48) -> bytes:
    """Noise as a PNG: every seed another picture."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def until(true: Callable[[], Any], seconds: float = 120.0, every: float = 0.05) -> Any:
    """What `true` returns once that is not false; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(every)
    return found


def children(pid: int) -> list[int]:
    """The processes that any thread of `pid` has started and that have not been waited for."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def words(pid: int) -> str:
    """A process' command line; "" once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Tree(ServiceProcess):
    """A service whose processes can be found and killed, and whose jobs can be looked at behind its back."""

    def pids(self) -> dict[str, int]:
        """What runs of PARENT, HTTP and WORKER."""
        found: dict[str, int] = {}
        if self.process is None or self.process.poll() is not None:
            return found
        found[PARENT] = self.process.pid
        for child in children(self.process.pid):
            if "_bentoml_impl.worker.service" in words(child):
                found[HTTP] = child
                engines = [pid for pid in children(child) if "serving.queue.worker" in words(pid)]
                if engines:
                    found[WORKER] = engines[0]
        return found

    def kill(self, *roles: str) -> list[str]:
        """SIGKILL to those of `roles` that run; their names."""
        there = self.pids()
        hit = [role for role in roles if role in there]
        for role in hit:
            with suppress(ProcessLookupError):
                os.kill(there[role], signal.SIGKILL)
        if PARENT in hit:
            assert self.process is not None
            self.process.wait()
        return hit

    def listens(self) -> bool:
        """Whether a process still has the port: an HTTP worker takes a moment to notice that its parent is gone."""
        from socket import socket

        with socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def client(self) -> httpx.Client:
        """Requests to it."""
        return httpx.Client(base_url=self.address, timeout=60)

    @property
    def jobs_folder(self) -> Path:
        """Where the jobs' files lie."""
        return Path(self.values["folder"]) / "jobs"

    def database(self) -> Database:
        """Its database, to be closed."""
        return Database(self.values.get("database") or f"sqlite:///{Path(self.values['folder']) / 'jobs.sqlite'}")


def submit(client: httpx.Client, seed: int, key: str | None = None, **fields: Any) -> httpx.Response:
    """Ask for a small video; `key` is the Idempotency-Key."""
    headers = {} if key is None else {"Idempotency-Key": key}
    data = {**SMALL, "seed": seed, **fields}
    return client.post("/v1/videos", data=data, files={"first_frame": png(seed)}, headers=headers)


@dataclass(frozen=True)
class Row:
    """A job as the database has it, and the changes of its state in their order."""

    values: Mapping[str, Any]
    history: list[str]

    @property
    def ends(self) -> list[str]:
        """How it ended: once, or something is wrong."""
        return [what for what in self.history if what in ENDS]


def rows(service: Tree) -> dict[str, Row]:
    """Every job by its id."""
    database = service.database()
    try:
        with database.read() as connection:
            found = {row.id: dict(row._mapping) for row in connection.execute(sa.select(jobs))}
            notes = connection.execute(sa.select(transitions).order_by(transitions.c.seq)).all()
        return {name: Row(values, [n.what for n in notes if n.job_id == name]) for name, values in found.items()}
    finally:
        database.close()


def check_video(path: Path, frames: int = SMALL["num_frames"]) -> dict[str, Any]:  # type: ignore[assignment]
    """Decode an mp4 to its last frame; what its metadata say."""
    found = read_video(path)[0]
    assert found.shape == (frames, 32, 32, 3)
    return read_comment(path)
