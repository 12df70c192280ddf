"""What is learned of videos once they are made: whether a version got worse than promoted, and MLflow's share.

    online = Online(jobs, config, adapters); online.start()
    online.state()                    # for /metrics, the stats endpoint and the page

One thread of the HTTP process, beside requests and jobs: it reads completed jobs from the store, so a restart forgets
nothing, and whatever fails here costs no job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

import sqlalchemy as sa

from musubi_ext.errors import UserError
from serving.config import ServiceConfig
from serving.making.measures import values
from serving.queue.job_settings import JobSettings
from serving.queue.store import Database, JobRecord
from serving.versions.completed import Completed
from serving.versions.drift import DriftAlarm, Standing
from serving.versions.online_evaluation import OnlineEvaluation
from serving.versions.online_store import forget
from serving.versions.promises import Promise
from serving.versions.version_ref import RegistryDownError, VersionRef

EVERY = 2.0  # seconds between two looks
_ASK_AGAIN = 600.0  # seconds until a version's promise is read again: it may have been promoted since
_AFTER_FAILURE = 60.0
_FORGET = 600.0
_log = logging.getLogger(__name__)


class HasJobs(Protocol):
    """What `serving.jobs.Jobs` has."""

    database: Database
    settings: JobSettings


class Promises(Protocol):
    """What `serving.adapters_live.LiveAdapters` does."""

    def promised(self, version: VersionRef) -> dict[str, Promise]:
        """Metric → what the version was promoted with. Raises UserError, RegistryDownError."""


class Online:
    """`state` and `alarms` may be called from any thread, before `start` too."""

    def __init__(self, jobs: HasJobs, config: ServiceConfig, adapters: Promises, *, every: float = EVERY) -> None:
        self._completed, self._database, self._every = Completed(jobs.database), jobs.database, every
        self._adapters, self._alarm = adapters, DriftAlarm(config.evaluation.alarm_window)
        self._evaluation = OnlineEvaluation(
            jobs.database,
            jobs.settings.folder,
            jobs.settings.replica_name,
            config.tracking_uri,
            config.evaluation.mlflow_sample,
        )
        self._versions: dict[str, VersionRef] = {}
        self._ask_at: dict[str, float] = {}
        self._forget_at = 0.0
        self._standings: tuple[Standing, ...] = ()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="online", daemon=True)

    def start(self) -> None:
        """Begin; the store must have its tables."""
        self._thread.start()

    def close(self) -> None:
        """End, once what is under way is done."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._evaluation.close()

    @property
    def alarms(self) -> list[Standing]:
        """Those that ring."""
        return [standing for standing in self._standings if standing.ringing]

    def state(self) -> dict[str, Any]:
        """Each watched metric beside its promise, and what became of MLflow's share."""
        return {"drift": [one.as_dict() for one in self._standings], "mlflow": self._evaluation.state()}

    def look(self) -> None:
        """Take in what was completed since. Raises SQLAlchemyError when the database does not answer."""
        for job in self._completed.news():
            self._take(job)
        self._read_promises()
        self._tell(tuple(self._alarm.standings()))
        self._evaluation.work()
        if time.monotonic() >= self._forget_at:
            forget(self._database)
            self._forget_at = time.monotonic() + _FORGET

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self.look()
            except (sa.exc.SQLAlchemyError, OSError) as trouble:
                _log.warning("completed jobs cannot be read: %s", type(trouble).__name__)
            self._closed.wait(self._every)

    def _take(self, job: JobRecord) -> None:
        results: Mapping[str, Any] = job.result.get("results") or {}
        version, settings = VersionRef(**(job.version or {})), job.result.get("settings") or {}
        if version.version and settings.get("strength_high", 1.0) == settings.get("strength_low", 1.0) == 1.0:
            self._versions[str(version)] = version
            self._alarm.add(str(version), results)  # at another strength it is not what was promoted
        self._evaluation.offer(job.id, version, values(results))

    def _read_promises(self) -> None:
        for name, version in self._versions.items():
            if time.monotonic() < self._ask_at.get(name, 0.0) or self._closed.is_set():
                continue
            try:
                self._alarm.promise(name, self._adapters.promised(version))
                self._ask_at[name] = time.monotonic() + _ASK_AGAIN
            except (UserError, RegistryDownError) as error:
                if name not in self._ask_at:
                    _log.warning("%s is not watched for drift so far: %s", name, error)
                self._ask_at[name] = time.monotonic() + _AFTER_FAILURE

    def _tell(self, found: tuple[Standing, ...]) -> None:
        """Keep the standings, and say in the log which alarms begin and end."""
        before = {(one.version, one.metric) for one in self.alarms}
        self._standings = found
        for one in found:
            rang = (one.version, one.metric) in before
            if one.ringing and not rang:
                _log.warning("%s got worse than promoted: %s", one.version, one)
            elif rang and not one.ringing:
                _log.warning("%s is as promoted again: %s", one.version, one)
