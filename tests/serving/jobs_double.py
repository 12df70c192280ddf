"""An in-memory queue for tests of HTTP's shape, which the test moves itself; and a real server to put it behind.

It keeps `serving.jobs.Jobs`' promises towards HTTP and nothing more: what a queue must survive, the real one shows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI

from musubi_ext.errors import UserError
from musubi_ext.generation.presets import preset
from musubi_ext.video import write_mp4
from serving.adapters_live import BASE, VersionRef
from serving.keys import LOCAL, Key, UnknownKeyError
from serving.queue.job_errors import ConflictError, JobError, NotFoundError, QueueFullError
from serving.queue.store import CANCELLED, COMPLETED, FAILED, IN_PROGRESS, QUEUED, JobRecord

RESULT = {
    "value": 2.5, "unit": "px", "unavailable": None,
}  # fmt: skip


class Adapters:
    """Two versions of one model, the second of which is live."""

    def resolve(self, asked: str = "") -> VersionRef:
        if asked == "none":
            return BASE
        known = {"": 2, "circle-rotate@champion": 2, "circle-rotate/1": 1, "circle-rotate/2": 2}
        if asked not in known:
            raise UserError(f"pair: no such version {asked} (in /srv/mlflow/store.db)")
        return VersionRef("circle-rotate", known[asked])

    def defaults(self, version: VersionRef) -> dict[str, Any]:
        return preset("pocket-i2v")

    def state(self) -> dict[str, Any]:
        return {"reference": "models:/circle-rotate@champion", "current": "models:/circle-rotate/2",
                "since": 1.0, "refused": None, "problem": None}  # fmt: skip


class KeysDouble:
    def __init__(self, **owners: Key) -> None:
        self.of = owners

    def authenticate(self, token: str) -> Key:
        if token not in self.of:
            raise UnknownKeyError
        return self.of[token]


class JobsDouble:
    """Jobs stay queued until the test says otherwise, with `start`, `complete` and `fail`."""

    def __init__(self, folder: Path, most: int = 50, keys: KeysDouble | None = None) -> None:
        self.folder, self.most, self.keys, self.ready = folder, most, keys or KeysDouble(), True
        self.records: dict[str, JobRecord] = {}
        self.known: dict[tuple[str, str], tuple[str, Any]] = {}
        self.lock = threading.RLock()

    def submit(self, request: Any, owner: Key, idempotency_key: str | None = None, *, version: Any = None,
               priority: int = 0, webhook: str | None = None, seeded: bool = True) -> JobRecord:  # fmt: skip
        if webhook is not None:
            raise UserError("webhook: webhooks are off on this service")
        with self.lock:
            asked = request.record() if seeded else {**request.record(), "seed": None}
            if idempotency_key is not None and (owner.owner, idempotency_key) in self.known:
                job_id, before = self.known[(owner.owner, idempotency_key)]
                if before != asked:
                    raise ConflictError("this Idempotency-Key was used for another request")
                return self.records[job_id]
            if sum(job.state == QUEUED for job in self.records.values()) >= self.most:
                raise QueueFullError("the queue is full")
            job_id = f"video_{len(self.records):024x}"
            job = JobRecord(
                job_id, owner.owner, QUEUED, priority, request.record(), version.as_dict(), time.time(), position=1
            )
            self.records[job_id] = job
            if idempotency_key is not None:
                self.known[(owner.owner, idempotency_key)] = (job_id, asked)
            return job

    def get(self, job_id: str, owner: Key = LOCAL) -> JobRecord:
        with self.lock:
            job = self.records.get(job_id)
            if job is None or job.owner != owner.owner:
                raise NotFoundError
            return job

    def list(self, owner: Key, after: str | None, limit: int, order: str) -> list[JobRecord]:
        mine = sorted((job for job in self.records.values() if job.owner == owner.owner), key=lambda job: job.id)
        mine = mine if order == "asc" else mine[::-1]
        if after is not None:
            self.get(after, owner)
            mine = mine[[job.id for job in mine].index(after) + 1 :]
        return mine[:limit]

    def cancel(self, job_id: str, owner: Key = LOCAL) -> JobRecord:
        if not self.get(job_id, owner).finished:
            error = {"code": "cancelled", "message": "cancelled on request"}
            self.change(job_id, state=CANCELLED, completed_at=time.time(), error=error)
        return self.get(job_id, owner)

    def delete(self, job_id: str, owner: Key = LOCAL) -> None:
        self.get(job_id, owner)
        del self.records[job_id]

    def file(self, job_id: str, variant: str, owner: Key = LOCAL) -> Path:
        job = self.get(job_id, owner)
        if job.state != COMPLETED and not (variant == "preview" and not job.finished):
            raise ConflictError(f"the job is {job.state}: there is no video")
        if variant not in job.files:
            raise NotFoundError
        return self.folder / job.files[variant]

    def stats(self) -> dict[str, Any]:
        states = [job.state for job in self.records.values()]
        return {"states": {state: states.count(state) for state in set(states)}, "queued": states.count(QUEUED),
                "running": states.count(IN_PROGRESS), "queue_limit": self.most, "oldest_wait": 0.0,
                "mean_seconds": None, "workers": {"here.0": True}, "mistakes": []}  # fmt: skip

    def change(self, job_id: str, **values: Any) -> None:
        with self.lock:
            self.records[job_id] = replace(self.records[job_id], **values)

    def start(self, job_id: str, step: int = 1, stage: str = "high") -> None:
        moved = {"step": step, "steps": 12, "progress": round(100 * step / 12)}
        self.change(job_id, state=IN_PROGRESS, position=None, started_at=time.time(), stage=stage, **moved)

    def complete(self, job_id: str) -> None:
        request = self.records[job_id].request
        shade = np.linspace(0, 200, 17, dtype=np.uint8)[:, None, None, None]
        write_mp4(self.folder / f"{job_id}.mp4", np.broadcast_to(shade, (17, 64, 64, 3)), 8.0)
        settings = {**preset("pocket-i2v"), "prompt": request["prompt"], "seed": request["seed"]}
        stage = {"stage": "high", "seconds": 0.5, "peak_bytes": 1000, "memory": "rss"}
        missing = {"value": None, "unit": "", "unavailable": "its weights are not at /srv/models/clip"}
        result = {"results": {"subject_drift": RESULT, "clip_i": missing}, "settings": settings, "stages": [stage]}
        self.change(job_id, state=COMPLETED, completed_at=time.time(), files={"video": f"{job_id}.mp4"}, result=result,
                    started_at=time.time(), progress=100, step=12, steps=12, position=None)  # fmt: skip

    def fail(self, job_id: str, message: str) -> None:
        self.change(job_id, state=FAILED, completed_at=time.time(), error={"code": "internal", "message": message})

    def run(self, stop: threading.Event, seconds: float = 0.3, steps: int = 4) -> None:
        """Complete what waits, oldest first, visibly step by step, until `stop`."""
        while not stop.wait(0.05):
            with self.lock:
                waiting = [job.id for job in self.records.values() if job.state == QUEUED]
            for job_id in waiting[:1]:
                for step in range(steps):
                    if self._gone(job_id):
                        break
                    self.start(job_id, 1 + step * 12 // steps)
                    stop.wait(seconds / steps)
                if not self._gone(job_id):
                    self.complete(job_id)

    def _gone(self, job_id: str) -> bool:
        return job_id not in self.records or self.records[job_id].state == CANCELLED


@contextmanager
def served(app: FastAPI, port: int) -> Iterator[str]:
    """`app` behind a real uvicorn on 127.0.0.1; yields its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive(), "the server did not start"
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def worked(jobs: JobsDouble) -> Iterator[None]:
    """Someone completes the jobs meanwhile."""
    stop = threading.Event()
    thread = threading.Thread(target=jobs.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


__all__ = ["Adapters", "JobError", "JobsDouble", "KeysDouble", "served", "worked"]
