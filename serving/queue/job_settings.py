"""What the job queue needs to know, as plain values that travel to the worker process as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import Problems

if TYPE_CHECKING:
    from serving.config import ServiceConfig

_REPLICA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class JobSettings:
    """Times are seconds. `folder` holds the jobs' files and, by default, the database; replicas share it."""

    folder: str
    database_url: str = ""  # "" = SQLite in `folder`; postgresql://… for several replicas
    engine: str = "serving.engine:Engine"  # module:class, made in the worker with the service's configuration
    config: dict[str, Any] = field(default_factory=dict)  # that configuration, as `ServiceConfig.of` reads it
    workers: int = 1  # one process per GPU
    replica: str = ""  # unique per service that shares the database; "" = host name and folder
    queue_limit: int = 100  # waiting jobs over all owners; one more is refused
    retries: int = 3  # infrastructure faults in a row, without a stage finished, before a job fails
    start_within: float = 86_400.0  # a job not started by then fails with "expired"
    run_within: float = 7_200.0  # a job running longer fails with "timeout", at a step boundary
    retain: float = 72 * 3_600.0  # finished jobs and their files are deleted after this
    retain_bytes: int = 50_000_000_000  # the oldest finished jobs go when all files together are more
    key_active: int = 16  # jobs of one owner that wait or run at once
    key_per_minute: int = 60  # jobs of one owner accepted within a minute
    grace: float = 30.0  # SIGTERM: a running job may finish within it, then it is put back into the queue
    poll: float = 1.0  # between two looks into the queue; a job submitted here, or next in line, does not wait for one
    lease: float = 30.0  # a worker silent for this long is taken for dead, and its jobs go to the others
    webhook_hosts: tuple[str, ...] = ()  # empty = webhooks are off
    webhook_secret: str = ""
    webhook_private: bool = False  # also plain http and private addresses: a receiver inside one's own network

    def __post_init__(self) -> None:
        problems = Problems()
        for name in ("workers", "queue_limit", "retain_bytes", "key_active", "key_per_minute"):
            if getattr(self, name) < 1:
                problems.add(f"jobs.{name}", f"expected at least 1, found {getattr(self, name)}")
        for name in ("start_within", "run_within", "retain", "poll", "lease"):
            if not getattr(self, name) > 0:
                problems.add(f"jobs.{name}", f"expected more than 0 seconds, found {getattr(self, name)}")
        for name in ("retries", "grace"):
            if getattr(self, name) < 0:
                problems.add(f"jobs.{name}", f"expected 0 or more, found {getattr(self, name)}")
        if self.replica and not _REPLICA.fullmatch(self.replica):
            problems.add("jobs.replica", f"expected letters, digits, '.', '_' and '-', found {self.replica!r}")
        if self.webhook_hosts and len(self.webhook_secret) < 16:
            problems.add("jobs.webhook_secret", "expected at least 16 characters when webhook_hosts is set")
        problems.raise_if_any()

    @classmethod
    def of(cls, config: ServiceConfig, **others: Any) -> JobSettings:
        """The job queue's part of the service's configuration; `others` are fields of this class."""
        values: dict[str, Any] = {
            "folder": str(Path(config.folder).resolve()),
            "database_url": config.database,
            "config": config.model_dump(mode="json"),
            **config.jobs.model_dump(),
            "queue_limit": config.limits.queue,
            "start_within": config.limits.wait_seconds,
            "run_within": config.limits.job_seconds,
            "grace": config.limits.grace_seconds,
            "retain": config.retention.hours * 3_600.0,
            "retain_bytes": config.retention.bytes,
            "key_active": config.keys.queued,
            "key_per_minute": config.keys.per_minute,
            "webhook_hosts": config.webhooks.hosts,
            "webhook_secret": os.environ.get(config.webhooks.secret_env, "") if config.webhooks.hosts else "",
        }
        return cls(**{**values, **others})

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{(Path(self.folder).resolve() / 'jobs.sqlite')}"

    @property
    def replica_name(self) -> str:
        """A name that stays the same over restarts of this replica, and differs between replicas."""
        if self.replica:
            return self.replica
        place = hashlib.sha256(str(Path(self.folder).resolve()).encode()).hexdigest()[:8]
        return f"{re.sub('[^A-Za-z0-9.-]', '-', socket.gethostname())}-{place}"

    def executor(self, worker: int) -> str:
        """The name under which worker number `worker` of this replica runs jobs."""
        return f"{self.replica_name}.{worker}"

    def job_folder(self, job_id: str) -> Path:
        """The folder of one job's files; `job_id` must have been checked (`store.JOB_ID`)."""
        return Path(self.folder) / "jobs" / job_id

    def lock_folder(self, executor: str) -> Path:
        """Locked by the one process that runs jobs as `executor`."""
        return Path(self.folder) / "locks" / executor

    def to_json(self) -> str:
        """For the worker process; `from_json` reads it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> JobSettings:
        """The settings that `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        values["webhook_hosts"] = tuple(values["webhook_hosts"])
        return cls(**values)
