"""A store with jobs that completed, written as the queue writes them; and the scores of their videos."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import serving.versions.online_store  # noqa: F401  its tables
from serving.queue.job_settings import JobSettings
from serving.queue.store import COMPLETED, Database, jobs
from serving.versions.version_ref import VersionRef

_NUMBERS = count(1)


class Finished:
    """As `Online` needs a queue: its database and its settings."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.settings = JobSettings(str(folder), replica="here")
        self.database = Database(self.settings.url)
        self.database.migrate()

    def add(self, version: VersionRef, settings: dict[str, Any] | None = None, size: int = 64, **scores: float) -> str:
        """A completed job with these scores; its id."""
        number, now = next(_NUMBERS), time.time()
        job_id = f"video_{number:024x}"
        results = {name: {"value": value, "unit": "", "resolution": f"{size}x{size}"} for name, value in scores.items()}
        values = {
            "id": job_id, "owner": "local", "state": COMPLETED, "priority": 0, "request": {}, "fingerprint": job_id,
            "version": version.as_dict(), "created_at": now, "updated_at": now, "completed_at": now, "files": {},
            "result": {"results": results, "settings": settings or {}},
        }  # fmt: skip
        with self.database.write() as connection:
            connection.execute(sa.insert(jobs).values(values))
        return job_id

    def delete(self, job_id: str) -> None:
        """As its owner deletes it, at the end."""
        with self.database.write() as connection:
            connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
