"""The service's tables, in the database DBOS keeps its own in: a job and its workflow are accepted in one transaction.

SQLite runs in WAL mode and takes the write lock at BEGIN, so a transaction that reads and then writes never fails half
way; deleted rows are overwritten with zeros. Postgres locks rows.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

JOB_ID = re.compile(r"video_[0-9a-f]{24}")
QUEUED, IN_PROGRESS, COMPLETED, FAILED, CANCELLED = "queued", "in_progress", "completed", "failed", "cancelled"
ACTIVE = (QUEUED, IN_PROGRESS)
_SUBMISSIONS = 0x6D757375  # Postgres advisory lock: "musu"

metadata = sa.MetaData()

jobs = sa.Table(
    "service_jobs",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("request", sa.JSON, nullable=False),  # the fields, without the images: those are files
    sa.Column("version", sa.JSON),  # of the adapter pair, fixed when the job was accepted
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("webhook", sa.Text),
    sa.Column("stage", sa.String(32)),
    sa.Column("step", sa.Integer, nullable=False, default=0),
    sa.Column("steps", sa.Integer, nullable=False, default=0),
    sa.Column("progress", sa.Integer, nullable=False, default=0),  # percent
    sa.Column("furthest", sa.Integer, nullable=False, default=0),  # stages entered, over all attempts
    sa.Column("attempt", sa.Integer, nullable=False, default=0),  # also the fence: only the latest attempt may write
    sa.Column("faults", sa.Integer, nullable=False, default=0),  # in a row, without a stage finished
    sa.Column("executor", sa.String(80)),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("start_by", sa.Double),
    sa.Column("started_at", sa.Double),  # of the first attempt
    sa.Column("attempt_at", sa.Double),  # of the latest
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("completed_at", sa.Double),
    sa.Column("deleted_at", sa.Double),  # gone for its owner; files and row follow once nothing runs
    sa.Column("error", sa.JSON),  # {code, message}
    sa.Column("files", sa.JSON),  # variant → file name in the job's folder
    sa.Column("result", sa.JSON),  # what the engine reports: seconds, memory, scores
    sa.UniqueConstraint("owner", "idempotency_key", name="service_jobs_idempotency"),
    sa.Index("service_jobs_queue", "state", "priority", "created_at"),
    sa.Index("service_jobs_owner", "owner", "created_at"),
)

transitions = sa.Table(  # one row per change of state: the audit of "every job once"
    "service_transitions",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.String(40), nullable=False, index=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("what", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("note", sa.Text),
)

workers = sa.Table(  # who is alive
    "service_workers",
    metadata,
    sa.Column("executor", sa.String(80), primary_key=True),
    sa.Column("beat_at", sa.Double, nullable=False),
    sa.Column("ready", sa.Boolean, nullable=False),
)

api_keys = sa.Table(
    "service_api_keys",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("max_active", sa.Integer),  # jobs waiting or running at once; NULL = no bound of its own
    sa.Column("per_minute", sa.Integer),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)

accepted = sa.Table(  # what rates count: deleting a job does not give its place back, and leaves nothing of it here
    "service_accepted",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Index("service_accepted_rate", "owner", "at"),
)


@dataclass(frozen=True)
class JobRecord:
    """One job as its owner may see it. Times: seconds since the epoch. `position`: 1 = next to start."""

    id: str
    owner: str
    state: str
    priority: int
    request: dict[str, Any]
    version: dict[str, Any] | None
    created_at: float
    stage: str | None = None
    step: int = 0
    steps: int = 0
    progress: int = 0
    attempt: int = 0
    faults: int = 0
    cancel_requested: bool = False
    started_at: float | None = None
    completed_at: float | None = None
    expires_at: float | None = None
    error: dict[str, str] | None = None
    files: dict[str, str] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    position: int | None = None
    estimated_start: float | None = None

    @property
    def finished(self) -> bool:
        """True once nothing more happens to it."""
        return self.state not in ACTIVE

    @property
    def public_state(self) -> str:
        """The state in the words of /v1/videos, which has no "cancelled": failed, with error code "cancelled"."""
        return FAILED if self.state == CANCELLED else self.state


_SHOWN = tuple(
    name for name in JobRecord.__dataclass_fields__ if name not in ("expires_at", "position", "estimated_start")
)


def record(row: Any, **computed: Any) -> JobRecord:
    """The JobRecord of a row of `jobs`."""
    values = {name: row._mapping[name] for name in _SHOWN}
    return JobRecord(**{**values, "files": values["files"] or {}, "result": values["result"] or {}, **computed})


class Database:
    """One pool of connections; `read` and `write` are its transactions."""

    def __init__(self, url: str) -> None:
        address = sa.make_url(url)
        self.sqlite = address.get_backend_name() == "sqlite"
        if self.sqlite:
            self.engine = sa.create_engine(address, pool_size=5, max_overflow=20)
            sa.event.listen(self.engine, "connect", _sqlite_connect)
            sa.event.listen(self.engine, "begin", _sqlite_begin)
        else:
            self.engine = sa.create_engine(address.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
        self._reading = self.engine.execution_options(read_only=True)
        self._relaxed = self.engine.execution_options(relaxed=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads: it waits for nobody."""
        with self._reading.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, *, relaxed: bool = False) -> Iterator[sa.Connection]:
        """A transaction that writes; on SQLite it is alone with the database.

        `relaxed`: a power cut (not a killed process) may undo it, and it waits for no disk.
        """
        with (self._relaxed if relaxed else self.engine).begin() as connection:
            yield connection

    @contextlib.contextmanager
    def admission(self) -> Iterator[sa.Connection]:
        """A `write` that no other admission overlaps, in any process: what it counts stays true until it commits."""
        with self.write() as connection:
            if not self.sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SUBMISSIONS})
            yield connection

    def migrate(self) -> None:
        """Create what is missing of our tables; several processes may do so at once."""
        with self.admission() as connection:
            metadata.create_all(connection)

    def forget_pages(self) -> None:
        """After a deletion: what SQLite's log still holds of it goes too, once nobody reads. Postgres vacuums."""
        if self.sqlite:
            raw = self.engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            finally:
                raw.close()

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # `_sqlite_begin` says BEGIN
    for setting in ("busy_timeout=30000", "journal_mode=WAL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {setting}")


def _sqlite_begin(connection: sa.Connection) -> None:
    asked = connection.get_execution_options()
    connection.exec_driver_sql(f"PRAGMA synchronous={'NORMAL' if asked.get('relaxed') else 'FULL'}")
    connection.exec_driver_sql("BEGIN" if asked.get("read_only") else "BEGIN IMMEDIATE")


def note(connection: sa.Connection, job_id: str, what: str, at: float, attempt: int = 0, text: str = "") -> None:
    """Write one line of the audit."""
    values = {"job_id": job_id, "what": what, "at": at, "attempt": attempt, "note": text or None}
    connection.execute(sa.insert(transitions).values(values))
