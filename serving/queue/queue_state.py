"""Where jobs stand in the queue: position, estimated start, room, and the figures an operator watches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from serving.queue.job_settings import JobSettings
from serving.queue.recovery import Recovery
from serving.queue.store import (
    ACTIVE,
    COMPLETED,
    IN_PROGRESS,
    QUEUED,
    Database,
    JobRecord,
    accepted,
    jobs,
    record,
    workers,
)

RECENT = 20  # finished jobs whose mean is the estimate for the next


def _count(table: sa.Table, which: sa.ColumnElement[bool], name: str) -> sa.Label[int]:
    return sa.select(sa.func.count()).select_from(table).where(which).scalar_subquery().label(name)


_OWNER = sa.bindparam("owner", type_=sa.String)
_LOAD = sa.select(  # one question, put together once: it is asked twice at every submission
    _count(jobs, jobs.c.state == QUEUED, "waiting"),
    _count(jobs, sa.and_(jobs.c.owner == _OWNER, jobs.c.state.in_(ACTIVE)), "active"),
    _count(accepted, sa.and_(accepted.c.owner == _OWNER, accepted.c.at > sa.bindparam("minute_ago")), "recent"),
    _count(workers, workers.c.beat_at >= sa.bindparam("heard"), "servers"),
)


@dataclass(frozen=True)
class Load:
    """Jobs that wait, and how many may: so many for each worker; of one owner: active, accepted within a minute."""

    waiting: int
    room: int
    active: int
    recent: int


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

    def load(self, connection: sa.Connection, owner: str) -> Load:
        """What decides whether a job more of `owner` is accepted."""
        now = time.time()
        asked = {"owner": owner, "minute_ago": now - 60.0, "heard": now - self.settings.lease}
        found = connection.execute(_LOAD, asked).one()
        servers = max(self.settings.workers, found.servers)
        return Load(found.waiting, self.settings.queue_limit * servers, found.active, found.recent)

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
