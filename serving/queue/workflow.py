"""What DBOS is to the service: a durable queue that hands every accepted job to one worker, and again after a crash.

A job's row says everything about it; the workflow carries its id and nothing else. Both are written in one transaction
when the job is accepted, and so are a job's end and the webhook that tells of it. What is stored is JSON, never pickle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig
from dbos import DBOSPortableJSONSerializer as PortableJSON

from serving.queue.store import ACTIVE, Database, jobs
from serving.queue.webhooks import DeliveryError

APPLICATION = "musubi-ext-serving"
VERSION = "1"  # of the workflows below: work accepted by another version waits for a worker of that version
JOBS, WEBHOOKS = "video_jobs", "webhooks"  # queues, and their workflows' names
DELIVERIES = 6  # attempts of one webhook, over about two minutes
_PRIORITY = 1_000  # DBOS: 1 is first; ours: higher is earlier, 0 is usual
_OVER = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


class Durable:
    """The queue, for processes that put work into it and for those that repair it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.client = DBOSClient(
            system_database_engine=database.engine,
            serializer=PortableJSON(),
            application_name=APPLICATION,
            lazy=True,
        )

    def migrate(self, url: str, poll: float) -> None:
        """Create or update DBOS's tables and the queues; several processes may do so at once."""
        DBOS.migrate(url)
        self.client.register_queue(JOBS, worker_concurrency=1, polling_interval_sec=poll)
        self.client.register_queue(WEBHOOKS, worker_concurrency=4, polling_interval_sec=1.0)

    def enqueue_job(self, connection: sa.Connection, job_id: str, priority: int) -> None:
        """Within the transaction that accepts the job."""
        self._enqueue(connection, JOBS, job_id, _PRIORITY - priority)

    def enqueue_webhook(self, connection: sa.Connection, row: Any) -> None:
        """Within the transaction that ends the job: an `Outbox`."""
        if row.webhook:
            self._enqueue(connection, WEBHOOKS, row.id, _PRIORITY, webhook_id(row.id))

    def _enqueue(
        self, connection: sa.Connection, queue: str, job_id: str, priority: int, workflow_id: str | None = None
    ) -> None:
        options: Any = {
            "queue_name": queue,
            "workflow_name": queue,
            "workflow_id": workflow_id or job_id,
            "priority": priority,
            "app_version": VERSION,
        }
        self.client.enqueue_in_transaction(connection, options, job_id)

    def drop(self, job_id: str) -> None:
        """Take a job that has ended out of the queue."""
        self.client.cancel_workflow(job_id)

    def forget(self, job_ids: Iterable[str]) -> None:
        """Delete all that DBOS holds of these jobs."""
        self.client.delete_workflows([name for job_id in job_ids for name in (job_id, webhook_id(job_id))])

    def release(self, executor: str) -> None:
        """Give back to the queue what a worker that no longer runs had taken; each keeps its place."""
        held = self.client.list_workflows(status="PENDING", executor_id=executor, load_input=False, load_output=False)
        for workflow in held:
            self.client.resume_workflow(workflow.workflow_id, queue_name=workflow.queue_name)

    def stray(self, age: float) -> list[str]:
        """Jobs that still wait or run after `age` seconds although their workflow is over or gone."""
        old = sa.and_(jobs.c.state.in_(ACTIVE), jobs.c.updated_at < time.time() - age)
        with self.database.read() as connection:
            ids = [row.id for row in connection.execute(sa.select(jobs.c.id).where(old))]
        if not ids:
            return []
        found = self.client.list_workflows(workflow_ids=ids, load_input=False, load_output=False)
        alive = {workflow.workflow_id for workflow in found if workflow.status not in _OVER}
        return [job_id for job_id in ids if job_id not in alive]

    def close(self) -> None:
        """Stop the client; the database's connections are not its own."""
        self.client.destroy()


def webhook_id(job_id: str) -> str:
    """The workflow, and the delivery, that tells of a job's end."""
    return f"webhook_{job_id}"


def launch(url: str, executor: str, run: Callable[[str], None], deliver: Callable[[str], None]) -> DBOS:
    """Begin to take work from the queues in this process, under the name `executor`; once per process. DBOS's instance.

    `run` makes one video, by its job's id, and settles the job whatever happens. `deliver` tells of its end and raises
    DeliveryError when that is worth another attempt.
    """
    config: DBOSConfig = {
        "name": APPLICATION,
        "system_database_url": url,
        "serializer": PortableJSON(),
        "application_version": VERSION,
        "executor_id": executor,
        "log_level": "WARNING",
        "run_migrations": False,
    }
    dbos = DBOS(config=config)

    @DBOS.step(name="run")
    def run_job(job_id: str) -> None:
        run(job_id)

    @DBOS.step(
        name="deliver",
        retries_allowed=True,
        max_attempts=DELIVERIES,
        interval_seconds=2.0,
        should_retry=lambda error: isinstance(error, DeliveryError),
    )
    def deliver_webhook(job_id: str) -> None:
        deliver(job_id)

    @DBOS.workflow(name=JOBS, max_recovery_attempts=None)  # the bound is ours: JobSettings.retries
    def video_jobs(job_id: str) -> None:
        run_job(job_id)

    @DBOS.workflow(name=WEBHOOKS, max_recovery_attempts=DELIVERIES)
    def webhooks(job_id: str) -> None:
        deliver_webhook(job_id)

    DBOS.launch()
    return dbos
