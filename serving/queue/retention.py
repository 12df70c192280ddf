"""Deletion that deletes: the folder, the rows, and what the queue kept; also from the pages of the database's file.

The order lets a sweep that is interrupted be repeated: first the job is gone for its owner, then its files, then what
DBOS holds, and its row last of all.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

import sqlalchemy as sa

from serving.queue.job_settings import JobSettings
from serving.queue.store import ACTIVE, JOB_ID, Database, accepted, jobs, transitions
from serving.queue.workflow import Durable

ORPHAN_AGE = 3_600.0  # seconds after which a folder without a job is the leftover of a crash, not a job being accepted
RATE_WINDOW = 3_600.0  # how long acceptances are kept for the rates per minute
_ENDED = sa.not_(jobs.c.state.in_(ACTIVE))


class Retention:
    """Deletes finished jobs that are too old, too many bytes, or deleted by their owner."""

    def __init__(self, database: Database, durable: Durable, settings: JobSettings) -> None:
        self.database, self.durable, self.settings = database, durable, settings

    def sweep(self) -> list[str]:
        """Delete all that is due; the ids."""
        now = time.time()
        with self.database.read() as connection:
            old = sa.and_(_ENDED, jobs.c.completed_at < now - self.settings.retain)
            due = [row.id for row in connection.execute(sa.select(jobs.c.id).where(old))]
        due += self._beyond_bytes(set(due))
        with self.database.write() as connection:
            connection.execute(sa.delete(accepted).where(accepted.c.at < now - RATE_WINDOW))
        gone = self.purge(due) + self.purge_deleted()
        self._orphans(now)
        return gone

    def purge_deleted(self) -> list[str]:
        """Finish what owners have deleted, as far as nothing runs any more; the ids."""
        with self.database.read() as connection:
            due = sa.and_(_ENDED, jobs.c.deleted_at.is_not(None))
            ids = [row.id for row in connection.execute(sa.select(jobs.c.id).where(due))]
        return self.purge(ids)

    def purge(self, job_ids: list[str]) -> list[str]:
        """Delete these jobs, which have ended, for good; the ids."""
        if not job_ids:
            return []
        with self.database.write() as connection:
            kept = sa.and_(jobs.c.id.in_(job_ids), _ENDED, jobs.c.deleted_at.is_(None))
            connection.execute(sa.update(jobs).where(kept).values(deleted_at=time.time()))
        for job_id in job_ids:
            _remove(self.settings.job_folder(job_id))
        self.durable.forget(job_ids)
        with self.database.write() as connection:
            connection.execute(sa.delete(transitions).where(transitions.c.job_id.in_(job_ids)))
            connection.execute(sa.delete(jobs).where(jobs.c.id.in_(job_ids)))
        self.database.forget_pages()
        return job_ids

    def _beyond_bytes(self, already: set[str]) -> list[str]:
        """The oldest finished jobs whose files are more than may be kept."""
        with self.database.read() as connection:
            newest = sa.select(jobs.c.id).where(_ENDED).order_by(jobs.c.completed_at.desc())
            ids = [row.id for row in connection.execute(newest) if row.id not in already]
        total, due = 0, []
        for job_id in ids:
            total += _size(self.settings.job_folder(job_id))
            if total > self.settings.retain_bytes:
                due.append(job_id)
        return due

    def _orphans(self, now: float) -> None:
        """Folders that a crash between writing the files and accepting the job has left."""
        places = Path(self.settings.folder, "jobs")
        found = [place for place in places.iterdir() if JOB_ID.fullmatch(place.name)] if places.is_dir() else []
        old = {place.name: place for place in found if _changed(place) < now - ORPHAN_AGE}
        if not old:
            return
        with self.database.read() as connection:
            known = {row.id for row in connection.execute(sa.select(jobs.c.id).where(jobs.c.id.in_(list(old))))}
        for name in old.keys() - known:
            _remove(old[name])


def _remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # an interrupted sweep, or another replica's, was here
        shutil.rmtree(folder)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return time.time()
