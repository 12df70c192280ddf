"""What is measured on the service as a whole: one `bentoml serve` process on loopback, asked over HTTP.

Every figure is of the pocket's own request (17 frames of 64×64 in 12 steps, unless it says otherwise), with a picture
and a prompt that no other job has. The times of jobs are those in the service's database, on the clock of this machine.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import numpy as np
import sqlalchemy as sa
from PIL import Image

from serving.queue.process import ServiceProcess
from serving.queue.store import Database, jobs

CONFIG: dict[str, Any] = {  # one thread, and nothing but the video, as the bare calls beside it
    "pair": "",
    "threads": 1,
    "limits": {"queue": 1000},
    "keys": {"queued": 1000, "per_minute": 100_000},
    "evaluation": {"enabled": False},
    "previews": {"every": 0},
}
SMALL = {"size": "32x32", "num_frames": 5, "num_inference_steps": 2}


def picture(number: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Noise: every number another picture."""
    width, height = size
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The file a client would send."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def prompt(number: int) -> str:
    """A sentence that no other number has."""
    return f"red car number {number}, camera circles right to left"


class Asking:
    """One service, and what became of the jobs it was asked for."""

    def __init__(self, service: ServiceProcess) -> None:
        self.service = service
        self.http = httpx2.Client(base_url=service.address, timeout=300)
        self.database = Database(f"sqlite:///{Path(service.values['folder']) / 'jobs.sqlite'}")

    def close(self) -> None:
        """Let go of the connections."""
        self.http.close()
        self.database.close()

    def submit(self, seed: int, number: int | None = None, file: bytes | None = None, **fields: Any) -> str:
        """A job's id. `number` decides picture and prompt, `seed` without it."""
        number = seed if number is None else number
        files = {"first_frame": file or encoded(picture(number))}
        answer = self.http.post("/v1/videos", data={"prompt": prompt(number), "seed": seed, **fields}, files=files)
        return str(answer.raise_for_status().json()["id"])

    def ended(self, job: str) -> Any:
        """The job's row once it has ended; asked seldom enough to cost nothing."""
        while True:
            with self.database.read() as connection:
                row = connection.execute(sa.select(jobs).where(jobs.c.id == job)).one()
            if row.completed_at is not None:
                if row.state != "completed":
                    raise RuntimeError(f"{job}: {row.state}, {row.error}")
                return row
            time.sleep(0.02)

    def job(self, seed: int, number: int | None = None, **fields: Any) -> tuple[float, Any]:
        """Seconds from the request's first byte to the job's end, and its row."""
        began = time.time()
        row = self.ended(self.submit(seed, number, **fields))
        return row.completed_at - began, row


@contextmanager
def asking(folder: Path, **values: Any) -> Iterator[Asking]:
    """A service with `values` beside the usual ones, warm."""
    with ServiceProcess(folder, {**CONFIG, **values}) as service:
        client = Asking(service)
        try:
            client.job(999_999)
            yield client
        finally:
            client.close()


def stage_seconds(row: Any, *names: str) -> float:
    """Of the stages named, together."""
    return float(sum(stage["seconds"] for stage in row.result["stages"] if stage["stage"] in names))


def latency(plain: Asking, full: Asking, bare: Callable[[int], float], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round: bare call, job, job with scores and previews, these alone, encode, a repeat's saving."""
    found: dict[str, list[float]] = {}
    for number in range(1, rounds + 1):
        calls: dict[str, Callable[[], Any]] = {
            "bare": lambda number=number: bare(number),
            "job": lambda number=number: plain.job(number),
            "full": lambda number=number: full.job(number),
        }
        order = list(calls)[number % 3 :] + list(calls)[: number % 3]
        taken = {name: calls[name]() for name in order}
        fresh, row = plain.job(10_000 + number)
        again, _ = plain.job(20_000 + number, number=10_000 + number)
        values = {
            "bare": taken["bare"],
            "job": taken["job"][0],
            "full": taken["full"][0],
            "scores": stage_seconds(taken["full"][1], "evaluate"),
            "previews": taken["full"][1].result["preview_seconds"],
            "encode": stage_seconds(row, "encode"),
            "saved": fresh - again,
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return found


def throughput(plain: Asking, bare: Callable[[int], float], rounds: int, count: int = 8) -> dict[str, list[float]]:
    """Seconds of `count` bare calls one after the other, and of as many jobs queued at once, in turns."""
    found: dict[str, list[float]] = {"bare": [], "jobs": []}
    for number in range(1, rounds + 1):
        seeds = range(30_000 + count * number, 30_000 + count * (number + 1))

        def queued(seeds: Sequence[int] = seeds) -> float:
            began = time.time()
            submitted = [plain.submit(seed) for seed in seeds]
            return float(max(plain.ended(job).completed_at for job in submitted) - began)

        calls = {"bare": lambda seeds=seeds: sum(bare(seed) for seed in seeds), "jobs": queued}
        for name in sorted(calls, reverse=bool(number % 2)):
            found[name].append(calls[name]())
    return found


def submissions(plain: Asking, count: int) -> dict[str, list[float]]:
    """Seconds of POST /v1/videos on an open connection: to an idle service, with a larger picture, behind a queue."""
    found: dict[str, list[float]] = {"idle": [], "1280x720 JPEG": [], "busy": []}
    large = encoded(Image.effect_noise((1280, 720), 40).convert("RGB"), "JPEG")
    for name, file, wait in (("idle", None, True), ("1280x720 JPEG", large, True), ("busy", None, False)):
        last = ""
        for number in range(count):
            sent = file or encoded(picture(number))
            began = time.perf_counter()
            last = plain.submit(40_000 + number, file=sent, **SMALL)
            found[name].append(time.perf_counter() - began)
            if wait:
                plain.ended(last)
        plain.ended(last)
    return found


def cold_starts(folder: Path, count: int) -> list[float]:
    """Seconds from the command to the first /readyz that says yes, each in a new folder."""
    taken = []
    for number in range(count):
        service = ServiceProcess(folder / str(number), CONFIG)
        taken.append(service.start())
        service.stop()
    return taken


def idle_cpu(service: ServiceProcess, seconds: float) -> float:
    """CPU time of all processes of a service that nobody asks for anything, per second."""
    assert service.process is not None
    pids = descendants(service.process.pid)
    before, began = sum(map(cpu_seconds, pids)), time.monotonic()
    time.sleep(seconds)
    return (sum(map(cpu_seconds, pids)) - before) / (time.monotonic() - began)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, its threads' together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """A process and all that it has started, directly or not."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += descendants(int(child))
    return found


def summary(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: median(of) for name, of in values.items()}
