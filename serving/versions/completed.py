"""Every completed job once, in the order of completion, read from the store: right after a restart, on any replica."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from serving.queue.store import COMPLETED, Database, JobRecord, jobs, record

OVERLAP = 60.0  # seconds looked back: replicas' clocks differ, and a job is visible a little after its time


@dataclass
class Completed:
    """`news` is for one thread. At first it tells of the last `remembered` jobs of all owners."""

    database: Database
    remembered: int = 500
    _known: dict[str, float] = field(default_factory=dict)  # id → when it was completed
    _since: float | None = None

    def news(self) -> list[JobRecord]:
        """Those that were not told of before, oldest first."""
        done = sa.and_(jobs.c.state == COMPLETED, jobs.c.deleted_at.is_(None))
        latest = sa.select(jobs.c.id, jobs.c.completed_at).where(done).order_by(jobs.c.completed_at.desc())
        if self._since is None:
            latest = latest.limit(self.remembered)
        else:
            latest = latest.where(jobs.c.completed_at > self._since - OVERLAP)
        with self.database.read() as connection:
            found = {row.id: row.completed_at for row in connection.execute(latest)}
            new = [job_id for job_id in found if job_id not in self._known]
            rows = connection.execute(sa.select(jobs).where(jobs.c.id.in_(new))).all() if new else []
        self._since = max([self._since or 0.0, *found.values()])
        self._known = {key: at for key, at in (self._known | found).items() if at > self._since - 2 * OVERLAP}
        return sorted((record(row) for row in rows), key=lambda job: job.completed_at or 0.0)
