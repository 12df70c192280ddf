"""Where jobs stand in the queue: position, estimated start, room, and the figures an operator watches."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from serving.job_settings import JobSettings
from serving.recovery import Recovery
from serving.store import ACTIVE, COMPLETED, IN_PROGRESS, QUEUED, Database, JobRecord, accepted, jobs, record

RECENT = 20  # finished jobs whose mean is the estimate for the next


class QueueState:
    """Reads only."""

    def __init__(self, database: Database, recovery: Recovery, settings: JobSettings) -> None:
        self.database, self.recovery, self.settings = database, recovery, settings

    def shown(self, connection: sa.Connection, rows: list[Any]) -> list[JobRecord]:
        """The rows as records, with position and estimated start of those that wait."""
        waiting = [row for row in rows if row.state == QUEUED]
        estimate = self._estimate(connection) if waiting else None
        records = []
        for row in rows:
            computed: dict[str, Any] = {}
            if row.completed_at is not None:
                computed["expires_at"] = row.completed_at + self.settings.retain
            if row.state == QUEUED:
                computed["position"] = position = 1 + self._ahead(connection, row)
                if estimate is not None:
                    mean, free_in, servers = estimate
                    computed["estimated_start"] = time.time() + free_in + (position - 1) * mean / servers
            records.append(record(row, **computed))
        return records

    def room(self, connection: sa.Connection) -> tuple[int, int]:
        """Jobs that wait, and how many may: so many for each worker."""
        waiting = connection.execute(sa.select(sa.func.count()).where(jobs.c.state == QUEUED)).scalar_one()
        return waiting, self.settings.queue_limit * self._servers()

    def used(self, connection: sa.Connection, owner: str) -> tuple[int, int]:
        """An owner's jobs that wait or run, and those accepted within the last minute."""
        active = sa.and_(jobs.c.owner == owner, jobs.c.state.in_(ACTIVE))
        recent = sa.and_(accepted.c.owner == owner, accepted.c.at > time.time() - 60.0)
        counts = (
            connection.execute(sa.select(sa.func.count()).select_from(table).where(which)).scalar_one()
            for table, which in ((jobs, active), (accepted, recent))
        )
        return tuple(counts)  # type: ignore[return-value]

    def stats(self) -> dict[str, Any]:
        """Jobs by state, the longest wait, the mean running time, workers: name → ready."""
        with self.database.read() as connection:
            counted = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
            states = {row[0]: row[1] for row in connection.execute(counted)}
            since = sa.select(sa.func.min(jobs.c.created_at)).where(jobs.c.state == QUEUED)
            oldest = connection.execute(since).scalar()
            mean = self._mean(connection)
        return {
            "states": states,
            "queued": states.get(QUEUED, 0),
            "running": states.get(IN_PROGRESS, 0),
            "queue_limit": self.settings.queue_limit * self._servers(),
            "oldest_wait": 0.0 if oldest is None else time.time() - oldest,
            "mean_seconds": mean,
            "workers": self.recovery.alive(),
        }

    def _servers(self) -> int:
        return max(self.settings.workers, len(self.recovery.alive()))

    def _ahead(self, connection: sa.Connection, row: Any) -> int:
        """How many start before it: higher priority first, then the order of acceptance."""
        before = sa.tuple_(jobs.c.created_at, jobs.c.id) < sa.tuple_(sa.literal(row.created_at), sa.literal(row.id))
        earlier = sa.or_(jobs.c.priority > row.priority, sa.and_(jobs.c.priority == row.priority, before))
        return int(connection.execute(sa.select(sa.func.count()).where(jobs.c.state == QUEUED, earlier)).scalar_one())

    def _estimate(self, connection: sa.Connection) -> tuple[float, float, int] | None:
        """Mean seconds of a job, seconds until a worker is free, workers; None before any job has ended."""
        mean = self._mean(connection)
        if mean is None:
            return None
        running = connection.execute(sa.select(jobs.c.progress).where(jobs.c.state == IN_PROGRESS)).scalars().all()
        servers = self._servers()
        left = [mean * (1.0 - progress / 100.0) for progress in running]
        return mean, min(left) if len(left) >= servers else 0.0, servers

    def _mean(self, connection: sa.Connection) -> float | None:
        seconds = (jobs.c.completed_at - jobs.c.attempt_at).label("seconds")
        recent = sa.select(seconds).where(jobs.c.state == COMPLETED).order_by(jobs.c.completed_at.desc()).limit(RECENT)
        return connection.execute(sa.select(sa.func.avg(recent.subquery().c.seconds))).scalar()
