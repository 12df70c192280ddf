"""What happens to the jobs of a worker that is no longer there: back into the queue, and on with them.

Every worker says now and then that it lives. One that comes up again under its name takes back what it had; one that
stays silent for longer than the lease loses its jobs to the others.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from serving.queue.job_settings import JobSettings
from serving.queue.store import FAILED, IN_PROGRESS, QUEUED, Database, jobs, workers
from serving.queue.transitions import Transitions, error
from serving.queue.workflow import Durable

STRAY_AGE = 60.0  # seconds before a job without a workflow is one that nobody will ever run


class Recovery:
    """All methods may be called by several replicas at once."""

    def __init__(self, database: Database, durable: Durable, transitions: Transitions, settings: JobSettings) -> None:
        self.database, self.durable, self.transitions, self.settings = database, durable, transitions, settings

    def beat(self, executor: str, *, ready: bool) -> None:
        """Say that `executor` lives; `ready` once its engine has loaded."""
        values = {"beat_at": time.time(), "ready": ready}
        with self.database.write(relaxed=True) as connection:
            changed = connection.execute(sa.update(workers).where(workers.c.executor == executor).values(values))
            if changed.rowcount == 0:
                connection.execute(sa.insert(workers).values(executor=executor, **values))

    def leave(self, executor: str) -> None:
        """`executor` ends: from now on it counts as silent, should it have taken a job at the very last moment."""
        with self.database.write() as connection:
            gone = sa.update(workers).where(workers.c.executor == executor).values(beat_at=0.0, ready=False)
            connection.execute(gone)

    def take_back(self, executor: str, *, fault: bool, why: str) -> None:
        """Put every job of a worker that does not run back into the queue."""
        running = sa.and_(jobs.c.executor == executor, jobs.c.state == IN_PROGRESS)
        with self.database.read() as connection:
            rows = connection.execute(sa.select(jobs.c.id, jobs.c.attempt).where(running)).all()
        for row in rows:
            self.transitions.requeue(row.id, row.attempt, fault=fault, why=why)
        self.durable.release(executor)

    def take_over(self) -> list[str]:
        """Take back the jobs of workers silent for longer than the lease; their names.

        Whoever renews the silent worker's lease has it to itself, and if it dies meanwhile the lease runs out again.
        """
        now = time.time()
        silent = workers.c.beat_at < now - self.settings.lease
        with self.database.read() as connection:
            names = [row.executor for row in connection.execute(sa.select(workers.c.executor).where(silent))]
        taken = []
        for executor in names:
            claim = sa.update(workers).where(workers.c.executor == executor, silent).values(beat_at=now, ready=False)
            with self.database.write() as connection:
                won = connection.execute(claim).rowcount == 1
            if won:
                self.take_back(executor, fault=True, why="the worker fell silent")
                with self.database.write() as connection:
                    still = sa.and_(workers.c.executor == executor, workers.c.beat_at == now)
                    connection.execute(sa.delete(workers).where(still))
                taken.append(executor)
        return taken

    def overdue(self, executors: list[str]) -> list[str]:
        """End the jobs of these workers that run far longer than they may: such a worker hangs in a step. Its name."""
        late = time.time() - self.settings.run_within - self.settings.lease
        mine = sa.and_(jobs.c.executor.in_(executors), jobs.c.state == IN_PROGRESS, jobs.c.attempt_at < late)
        with self.database.read() as connection:
            rows = connection.execute(sa.select(jobs.c.id, jobs.c.attempt, jobs.c.executor).where(mine)).all()
        for row in rows:
            self.transitions.finish(row.id, row.attempt, FAILED, error=error("timeout"))
        return [row.executor for row in rows]

    def settle_strays(self) -> list[str]:
        """End the jobs that no workflow will run any more, which only a damaged database can leave; their ids."""
        strays = self.durable.stray(STRAY_AGE)
        for job_id in strays:
            with self.database.read() as connection:
                row = connection.execute(sa.select(jobs.c.attempt, jobs.c.state).where(jobs.c.id == job_id)).first()
            if row is not None and row.state == QUEUED:
                self.transitions.give_up(job_id, "internal")
            elif row is not None:
                self.transitions.finish(job_id, row.attempt, FAILED, error=error("internal"))
        return strays

    def alive(self) -> dict[str, bool]:
        """Worker → ready, of those heard within the lease."""
        heard = workers.c.beat_at >= time.time() - self.settings.lease
        with self.database.read() as connection:
            return {row.executor: bool(row.ready) for row in connection.execute(sa.select(workers).where(heard))}
