"""Whether a job is taken, and the one transaction that takes it: known by its key, room, quotas; then row and queue."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from musubi_ext.errors import Problems
from serving.keys import Key
from serving.queue.job_errors import ConflictError, QueueFullError, QuotaError
from serving.queue.job_settings import JobSettings
from serving.queue.queue_state import QueueState
from serving.queue.store import QUEUED, Database, accepted, jobs, note
from serving.queue.webhooks import Webhooks
from serving.queue.workflow import Durable

if TYPE_CHECKING:
    from serving.making.request import JobRequest
    from serving.versions.version_ref import VersionRef

PRIORITIES = (-100, 100)
LONGEST_KEY = 255  # characters of an idempotency key


@dataclass(frozen=True)
class Asked:
    """A job as somebody asks for it; see serving.jobs.Jobs.submit."""

    request: JobRequest
    key: Key
    idempotency_key: str | None
    version: VersionRef | None
    priority: int
    webhook: str | None
    seeded: bool

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what two requests of one idempotency key must have in common."""
        asked = self.request.record()
        same = [asked if self.seeded else {**asked, "seed": None}, self.priority, self.webhook]
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


class Admission:
    """The way into the queue. `accept` may be called from any thread and process."""

    def __init__(self, database: Database, durable: Durable, queue: QueueState, settings: JobSettings) -> None:
        self.database, self.durable, self.queue, self.settings = database, durable, queue, settings

    def accept(self, asked: Asked) -> tuple[str, bool]:
        """The job's id, and whether it is new: the same request under the same idempotency key gives the job it made.

        Raises UserError, QueueFullError, QuotaError or ConflictError; then nothing is left behind.
        """
        self._check(asked)
        fingerprint = asked.fingerprint
        with self.database.read() as connection:
            if known := self._known(connection, asked, fingerprint):
                return known, False
            self._check_room(connection, asked.key)
        job_id = f"video_{secrets.token_hex(12)}"
        folder = self.settings.job_folder(job_id)
        folder.mkdir(parents=True)
        try:
            asked.request.save_pictures(folder)  # its fields are in the row
            with self.database.admission() as connection:
                if known := self._known(connection, asked, fingerprint):
                    shutil.rmtree(folder)
                    return known, False
                self._check_room(connection, asked.key)
                self._insert(connection, job_id, asked, fingerprint)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return job_id, True

    def _insert(self, connection: sa.Connection, job_id: str, asked: Asked, fingerprint: str) -> None:
        now = time.time()
        values = {
            "id": job_id,
            "owner": asked.key.owner,
            "state": QUEUED,
            "priority": asked.priority,
            "request": asked.request.record(),
            "version": None if asked.version is None else asked.version.as_dict(),
            "idempotency_key": asked.idempotency_key,
            "fingerprint": fingerprint,
            "webhook": asked.webhook,
            "created_at": now,
            "updated_at": now,
            "start_by": now + self.settings.start_within,
        }
        connection.execute(sa.insert(jobs).values(values))
        connection.execute(sa.insert(accepted).values(owner=asked.key.owner, at=now))
        note(connection, job_id, "accepted", now)
        self.durable.enqueue_job(connection, job_id, asked.priority)

    def _check(self, asked: Asked) -> None:
        problems, key = Problems(), asked.idempotency_key
        low, high = PRIORITIES
        if not low <= asked.priority <= high:
            problems.add("priority", f"expected {low} to {high}, found {asked.priority}")
        if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
            problems.add("Idempotency-Key", f"expected 1 to {LONGEST_KEY} printable ASCII characters")
        if asked.webhook is not None:
            settings = self.settings
            hooks = Webhooks(settings.webhook_hosts, settings.webhook_secret, settings.webhook_private)
            problems.collect(lambda: hooks.check(str(asked.webhook)))
        problems.raise_if_any()

    def _check_room(self, connection: sa.Connection, key: Key) -> None:
        load = self.queue.load(connection, key.owner)
        if load.waiting >= load.room:
            raise QueueFullError(f"{load.waiting} jobs wait already, the most that may; ask again later")
        if load.active >= (key.max_active or self.settings.key_active):
            raise QuotaError(f"{load.active} of your jobs wait or run already, the most that may")
        if load.recent >= (key.per_minute or self.settings.key_per_minute):
            raise QuotaError(f"{load.recent} of your jobs were accepted within this minute, the most that may")

    def _known(self, connection: sa.Connection, asked: Asked, fingerprint: str) -> str | None:
        if asked.idempotency_key is None:
            return None
        named = sa.and_(jobs.c.owner == asked.key.owner, jobs.c.idempotency_key == asked.idempotency_key)
        row = connection.execute(sa.select(jobs.c.id, jobs.c.fingerprint, jobs.c.deleted_at).where(named)).first()
        if row is None:
            return None
        if row.fingerprint != fingerprint:
            raise ConflictError("this Idempotency-Key was used for another request")
        if row.deleted_at is not None:
            raise ConflictError("this Idempotency-Key's job was deleted")
        return str(row.id)
