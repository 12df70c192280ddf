"""The jobs of the service, as HTTP sees them: accepted once, kept, shown to their owner, ended in one of three ways.

    jobs = Jobs(config); jobs.start()
    record = jobs.submit(request, "team-a", version=version)     # durable when it returns
    for event in jobs.events(record.id, "team-a"): …             # until it has ended
    jobs.close()                                                 # drains, or puts back into the queue

The engine runs in worker processes (serving.queue.worker); this side needs no torch.
"""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from serving.keys import LOCAL, Key, Keys
from serving.queue.admission import Admission, Asked
from serving.queue.housekeeping import Chore, Housekeeping
from serving.queue.job_errors import ConflictError, JobError, NotFoundError, QueueFullError, QuotaError
from serving.queue.job_settings import JobSettings
from serving.queue.queue_state import QueueState
from serving.queue.recovery import Recovery
from serving.queue.retention import Retention
from serving.queue.store import ACTIVE, CANCELLED, COMPLETED, JOB_ID, Database, JobRecord
from serving.queue.store import jobs as table
from serving.queue.supervisor import Supervisor
from serving.queue.transitions import Transitions
from serving.queue.workflow import Durable

if TYPE_CHECKING:
    from serving.adapters_live import VersionRef
    from serving.config import ServiceConfig
    from serving.making.request import JobRequest

__all__ = ["ConflictError", "Event", "JobError", "Jobs", "NotFoundError", "QueueFullError", "QuotaError"]
LOOK = 0.1  # seconds between two looks at a job whose events are read
PING = 15.0  # seconds without news after which an event says so


@dataclass(frozen=True)
class Event:
    """`name`: the job's state when that has changed, "progress", or "ping" when nothing has."""

    name: str
    job: JobRecord


class Jobs:
    """All methods may be called from any thread; only `events` and `close` take longer than a transaction."""

    def __init__(self, config: ServiceConfig | JobSettings) -> None:
        self.settings = config if isinstance(config, JobSettings) else JobSettings.of(config)
        Path(self.settings.folder).mkdir(mode=0o700, parents=True, exist_ok=True)  # prompts and pictures of strangers
        Path(self.settings.folder, "jobs").mkdir(exist_ok=True)
        self.database = Database(self.settings.url)
        self.durable = Durable(self.database)
        self.transitions = Transitions(self.database, self.durable.enqueue_webhook)
        self.recovery = Recovery(self.database, self.durable, self.transitions, self.settings)
        self.retention = Retention(self.database, self.durable, self.settings)
        self.queue = QueueState(self.database, self.recovery, self.settings)
        self.admission = Admission(self.database, self.durable, self.queue, self.settings)
        self.supervisor = Supervisor(self.settings, lambda name: self.recovery.beat(name, ready=False))
        self.keys = Keys(self.database)
        self._closing = threading.Event()
        self._housekeeping: Housekeeping | None = None

    def prepare(self) -> None:
        """Start the worker processes ahead of `start`: they load their libraries while the caller does other things."""
        self.supervisor.prepare()

    def start(self, *, workers: bool = True) -> None:
        """Create the tables and start the workers; `workers` False accepts jobs for other replicas to run."""
        self.durable.migrate(self.settings.url, self.settings.poll)
        self.database.migrate()
        chores: builtins.list[Chore] = [
            (2.0, self._expire),
            (2.0, self.retention.purge_deleted),
            (self.settings.lease / 3, self.recovery.take_over),
            (30.0, lambda: self.supervisor.kill(self.recovery.overdue(self.supervisor.executors))),
            (30.0, self.recovery.settle_strays),
            (60.0, self.retention.sweep),
        ]
        if workers:
            self.supervisor.check()
            chores.insert(0, (0.5, self.supervisor.check))
        self._housekeeping = Housekeeping(chores)

    def close(self) -> None:
        """Take no more jobs; running ones may end within the grace period, the others go back into the queue."""
        self._closing.set()
        self.supervisor.stop()
        if self._housekeeping is not None:
            self._housekeeping.stop()
        self.durable.close()
        self.database.close()

    def submit(
        self,
        request: JobRequest,
        owner: str | Key = LOCAL,
        idempotency_key: str | None = None,
        *,
        version: VersionRef | None = None,
        priority: int = 0,
        webhook: str | None = None,
        seeded: bool = True,
    ) -> JobRecord:
        """Accept a job: when this returns, it will end in one of three ways, whatever is killed.

        `version` is what makes it, whatever is promoted meanwhile. With an `idempotency_key` that this owner used for
        the same request, that job is returned; `seeded` False says that the seed was drawn, not asked for, and does not
        count as a difference. Raises UserError, QueueFullError, QuotaError or ConflictError.
        """
        if self._closing.is_set():
            raise QueueFullError("the service is stopping; ask again in a moment")
        key = _key(owner)
        asked = Asked(request, key, idempotency_key, version, priority, webhook, seeded)
        job_id, new = self.admission.accept(asked)
        if new:
            self.supervisor.wake()
        return self.get(job_id, key)

    def get(self, job_id: str, owner: str | Key = LOCAL) -> JobRecord:
        """The job now. Raises NotFoundError."""
        with self.database.read() as connection:
            return self.queue.shown(connection, [self._row(connection, job_id, _key(owner).owner)])[0]

    def list(
        self,
        owner: str | Key = LOCAL,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> list[JobRecord]:
        """The owner's jobs by the time they were accepted, from behind `after`. Raises NotFoundError for that."""
        place = (table.c.created_at, table.c.id)
        chosen = sa.and_(table.c.owner == _key(owner).owner, table.c.deleted_at.is_(None))
        with self.database.read() as connection:
            if after is not None:
                last = self._row(connection, after, _key(owner).owner)
                here = sa.tuple_(*place), sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
                chosen = sa.and_(chosen, here[0] > here[1] if order == "asc" else here[0] < here[1])
            sorting = [column.asc() if order == "asc" else column.desc() for column in place]
            rows = connection.execute(sa.select(table).where(chosen).order_by(*sorting).limit(limit)).all()
            return self.queue.shown(connection, list(rows))

    def cancel(self, job_id: str, owner: str | Key = LOCAL) -> JobRecord:
        """Cancel a job: at once when it waits, at its next step when it runs. One that has ended stays as it is."""
        self.get(job_id, owner)
        if self.transitions.cancel(job_id) == CANCELLED:
            self.durable.drop(job_id)
        return self.get(job_id, owner)

    def delete(self, job_id: str, owner: str | Key = LOCAL) -> None:
        """Delete a job and its files; one that runs is cancelled first, and gone for its owner already."""
        self.cancel(job_id, owner)
        with self.database.write() as connection:
            mine = sa.and_(table.c.id == job_id, table.c.deleted_at.is_(None))
            connection.execute(sa.update(table).where(mine).values(deleted_at=time.time()))
            state = connection.execute(sa.select(table.c.state).where(table.c.id == job_id)).scalar()
        if state is not None and state not in ACTIVE:
            self.retention.purge([job_id])

    def file(self, job_id: str, variant: str, owner: str | Key = LOCAL) -> Path:
        """A file of a completed job, or the preview of one that is being made.

        Raises NotFoundError, also for a variant it has not; ConflictError before the job is completed.
        """
        job = self.get(job_id, owner)
        if job.state != COMPLETED and not (variant == "preview" and job.state in ACTIVE):
            raise ConflictError(f"the job is {job.state}: there is no video")
        if variant not in job.files or not (path := self.settings.job_folder(job_id) / job.files[variant]).is_file():
            raise NotFoundError
        return path

    def events(
        self, job_id: str, owner: str | Key = LOCAL, closed: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """What happens to a job, from its state now until it has ended, is deleted, or `closed`, or we are."""
        last: JobRecord | None = None
        told = time.monotonic()
        job = self.get(job_id, owner)
        while True:
            name = "ping" if last is not None and time.monotonic() - told >= PING else None
            if last is None or job.state != last.state:
                name = job.state
            elif _moved(job, last):
                name = "progress"
            if name is not None:
                last, told = job, time.monotonic()
                yield Event(name, job)
            if job.finished or closed() or self._closing.wait(LOOK):
                return
            try:
                job = self.get(job_id, owner)
            except NotFoundError:
                return

    def stats(self) -> dict[str, Any]:
        """What an operator watches: jobs by state, waiting times, workers."""
        return {**self.queue.stats(), "mistakes": self.supervisor.mistakes}

    @property
    def ready(self) -> bool:
        """Whether a job accepted now would be run: some worker's engine is loaded."""
        return not self._closing.is_set() and any(self.recovery.alive().values())

    def _row(self, connection: sa.Connection, job_id: str, owner: str) -> Any:
        row = None
        if JOB_ID.fullmatch(job_id):
            mine = sa.and_(table.c.id == job_id, table.c.owner == owner, table.c.deleted_at.is_(None))
            row = connection.execute(sa.select(table).where(mine)).first()
        if row is None:
            raise NotFoundError
        return row

    def _expire(self) -> None:
        for job_id in self.transitions.expire():
            self.durable.drop(job_id)


def _key(owner: str | Key) -> Key:
    return owner if isinstance(owner, Key) else Key("", owner, ())


def _moved(job: JobRecord, last: JobRecord) -> bool:
    """Whether there is news beside the state."""
    shown = ("stage", "step", "progress", "position", "cancel_requested")
    return any(getattr(job, name) != getattr(last, name) for name in shown)
