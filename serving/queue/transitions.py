"""Every change of a job's state: one transaction each, and only when the job is in the state it may change from.

The number of the attempt is the fence. A worker that was taken for dead and comes back holds an old number: nothing it
writes is accepted, and it learns so at its next step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from serving.queue.store import ACTIVE, CANCELLED, FAILED, IN_PROGRESS, QUEUED, Database, jobs, note

Outbox = Callable[[sa.Connection, Any], None]  # what goes out in the transaction that ends a job: (connection, row)
MESSAGES = {
    "cancelled": "cancelled on request",
    "expired": "not started within the time a job may wait",
    "timeout": "ran longer than a job may",
    "worker_died": "the worker died again and again on this job",
    "infrastructure": "a fault of the machine, again and again: no disk space, or an unreachable store",
    "internal": "the service failed on this job; its log says how",
}


class LostJobError(Exception):
    """Another worker has this job now, or it is gone: stop, and write nothing."""


class Transitions:
    """`outbox` is called in the transaction that ends a job."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self.database, self.outbox = database, outbox

    def start(self, job_id: str, executor: str, retries: int) -> Any:
        """The row of a job that `executor` begins now, its attempt counted; None when there is nothing to run.

        A job that waited too long, was to be cancelled, or has had more than `retries` faults ends here.
        """
        now = time.time()
        with self.database.write() as connection:
            row = self._locked(connection, job_id)
            if row is None or row.state not in ACTIVE:
                return None
            faults = row.faults + (row.state == IN_PROGRESS)  # whoever ran it has died
            if ending := _ending(row, faults, retries, now):
                self._end(connection, row, *ending, now)
                return None
            changes = {
                "state": IN_PROGRESS,
                "executor": executor,
                "attempt": row.attempt + 1,
                "faults": faults,
                "started_at": row.started_at or now,
                "start_by": None,
                "attempt_at": now,
                "updated_at": now,
            }
            connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(changes))
            note(connection, job_id, "started", now, row.attempt + 1, executor)
            return self._locked(connection, job_id)

    def advance(self, job_id: str, attempt: int, values: dict[str, Any]) -> bool:
        """Store progress (columns of `jobs`); True when the job is to be cancelled. Raises LostJobError."""
        statement = (
            sa.update(jobs)
            .where(_held(job_id, attempt))
            .values({**values, "updated_at": time.time()})
            .returning(jobs.c.cancel_requested)
        )
        with self.database.write(relaxed=True) as connection:
            row = connection.execute(statement).first()
        if row is None:
            raise LostJobError(job_id)
        return bool(row.cancel_requested)

    def to_be_cancelled(self, job_id: str, attempt: int) -> bool:
        """Whether someone asked to cancel it. Raises LostJobError."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(jobs.c.cancel_requested).where(_held(job_id, attempt))).first()
        if row is None:
            raise LostJobError(job_id)
        return bool(row.cancel_requested)

    def fault(self, job_id: str, attempt: int, text: str) -> int:
        """Count one fault of the machine under a running job; how many there were in a row. Raises LostJobError."""
        with self.database.write() as connection:
            statement = sa.update(jobs).where(_held(job_id, attempt)).values(faults=jobs.c.faults + 1)
            row = connection.execute(statement.returning(jobs.c.faults)).first()
            if row is None:
                raise LostJobError(job_id)
            note(connection, job_id, "fault", time.time(), attempt, text)
        return int(row.faults)

    def requeue(self, job_id: str, attempt: int, *, fault: bool, why: str) -> bool:
        """Put a running job back at its place in the queue; False when this attempt no longer holds it."""
        now = time.time()
        changes: dict[str, Any] = {"state": QUEUED, "executor": None, "updated_at": now}
        if fault:
            changes["faults"] = jobs.c.faults + 1
        with self.database.write() as connection:
            if connection.execute(sa.update(jobs).where(_held(job_id, attempt)).values(changes)).rowcount == 0:
                return False
            note(connection, job_id, "requeued", now, attempt, why)
        return True

    def finish(self, job_id: str, attempt: int, state: str, **values: Any) -> bool:
        """End a running job: `state`, and columns of `jobs`. False when this attempt no longer holds it."""
        now = time.time()
        with self.database.write() as connection:
            row = self._locked(connection, job_id)
            if row is None or row.state != IN_PROGRESS or row.attempt != attempt:
                return False
            self._end(connection, row, state, values, now)
        return True

    def cancel(self, job_id: str) -> str | None:
        """Cancel a job: at once when it waits, at its next step when it runs. Its state now; None without one."""
        now = time.time()
        with self.database.write() as connection:
            row = self._locked(connection, job_id)
            if row is None:
                return None
            if row.state == QUEUED:
                self._end(connection, row, CANCELLED, {"error": error("cancelled")}, now)
                return CANCELLED
            if row.state == IN_PROGRESS and not row.cancel_requested:
                connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(cancel_requested=True))
                note(connection, job_id, "cancelling", now, row.attempt)
            return str(row.state)

    def expire(self) -> list[str]:
        """End the jobs that waited too long, also while no worker lives; their ids."""
        now = time.time()
        overdue = sa.and_(jobs.c.state == QUEUED, jobs.c.start_by < now)
        with self.database.read() as connection:  # nearly always none: then nothing is locked
            ids = [row.id for row in connection.execute(sa.select(jobs.c.id).where(overdue))]
        return [job_id for job_id in ids if self.give_up(job_id, "expired")]

    def give_up(self, job_id: str, code: str) -> bool:
        """End a waiting job as failed; False when it waits no longer."""
        now = time.time()
        with self.database.write() as connection:
            row = self._locked(connection, job_id)
            if row is None or row.state != QUEUED:
                return False
            self._end(connection, row, FAILED, {"error": error(code)}, now)
        return True

    def _end(self, connection: sa.Connection, row: Any, state: str, values: dict[str, Any], now: float) -> None:
        changes = {**values, "state": state, "completed_at": now, "updated_at": now, "executor": None}
        connection.execute(sa.update(jobs).where(jobs.c.id == row.id).values(changes))
        note(connection, row.id, state, now, row.attempt, (values.get("error") or {}).get("code", ""))
        self.outbox(connection, row)

    def _locked(self, connection: sa.Connection, job_id: str) -> Any:
        return connection.execute(sa.select(jobs).where(jobs.c.id == job_id).with_for_update()).first()


def error(code: str, message: str = "") -> dict[str, str]:
    """The `error` of a job that did not complete."""
    return {"code": code, "message": message or MESSAGES[code]}


def _held(job_id: str, attempt: int) -> sa.ColumnElement[bool]:
    return sa.and_(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state == IN_PROGRESS)


def _ending(row: Any, faults: int, retries: int, now: float) -> tuple[str, dict[str, Any]] | None:
    """Why a job does not begin: its last state and the columns that go with it."""
    if row.cancel_requested:
        return CANCELLED, {"error": error("cancelled")}
    if row.start_by is not None and row.start_by < now:
        return FAILED, {"error": error("expired")}
    if faults > retries:
        return FAILED, {"error": error("worker_died"), "faults": faults}
    return None
