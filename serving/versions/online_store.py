"""Which videos were sent to MLflow, and under which number: asked for by every replica, answered once."""

from __future__ import annotations

import sqlalchemy as sa

from serving.queue.store import Database, jobs, metadata

sent = sa.Table(  # a row goes with its job
    "service_online",
    metadata,
    sa.Column("job_id", sa.String(40), primary_key=True),
)
runs = sa.Table(
    "service_online_runs",
    metadata,
    sa.Column("run", sa.String(32), primary_key=True),  # our key of the run
    sa.Column("number", sa.Integer, nullable=False),  # of its last video
)


def claim(database: Database, job_id: str, run: str) -> int | None:
    """The running number of this video in `run`, from 1; None when somebody has claimed it, or it is gone."""
    with database.admission() as connection:
        if connection.execute(sa.select(sent.c.job_id).where(sent.c.job_id == job_id)).first() is not None:
            return None
        if connection.execute(sa.select(jobs.c.id).where(jobs.c.id == job_id)).first() is None:
            return None
        connection.execute(sa.insert(sent).values(job_id=job_id))
        counted = sa.update(runs).where(runs.c.run == run).values(number=runs.c.number + 1).returning(runs.c.number)
        row = connection.execute(counted).first()
        if row is None:
            connection.execute(sa.insert(runs).values(run=run, number=1))
        return 1 if row is None else int(row.number)


def forget(database: Database) -> None:
    """Delete what is noted of jobs that are deleted."""
    there = sa.select(jobs.c.id)
    with database.read() as connection:  # nearly always none: then nothing is locked
        gone = [row.job_id for row in connection.execute(sa.select(sent.c.job_id).where(sent.c.job_id.not_in(there)))]
    if gone:
        with database.write() as connection:
            connection.execute(sa.delete(sent).where(sent.c.job_id.in_(gone)))
