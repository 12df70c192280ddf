"""A share of the videos' scores in MLflow, as online evaluation of the version that made them.

One run for each version and service, "online evaluation NAME/VERSION"; a video is one step. Scores go through the spool
of registry.tracking: while MLflow is away they wait on the disk and are sent later, also after a restart or by
`musubi-ext track replay FOLDER/online`. Beyond WAITING videos the newest are dropped and counted. A process killed in
the moment between a video's claim and its line in the spool loses that one: a sample, not an account.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import UserError
from serving.queue.store import Database
from serving.versions.online_store import claim
from serving.versions.version_ref import VersionRef

if TYPE_CHECKING:
    from musubi_ext.registry.tracking import PairTracking

WAITING = 5_000  # videos of one version that MLflow has not taken
IDLE = 30.0  # seconds without a video of a version after which its run is left
_AGAIN = 60.0  # seconds until a store that refused a run is asked again
_log = logging.getLogger(__name__)


def sampled(job_id: str, share: float) -> bool:
    """Whether a job is among the share: by its id alone, so that every process agrees."""
    return int(hashlib.sha256(job_id.encode()).hexdigest()[:12], 16) < share * 16**12


@dataclass
class _Run:
    tracking: PairTracking
    used: float


class OnlineEvaluation:
    """`service` names this replica. For one thread: opening a run may take seconds, where MLflow is slow."""

    def __init__(
        self, database: Database, folder: Path | str, service: str, uri: str | None, share: float, *, idle: float = IDLE
    ) -> None:
        self.database, self.service, self.uri, self.share = database, service, uri, share
        self._folder, self._idle = Path(folder) / "online", idle
        self._waiting: deque[tuple[str, VersionRef, dict[str, float]]] = deque()
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._not_before = 0.0
        self.noted = self.dropped = 0

    def offer(self, job_id: str, version: VersionRef, scores: Mapping[str, float]) -> None:
        """A completed video; it counts if it is in the share, and a registered version made it."""
        if not version.version or not scores or not sampled(job_id, self.share):
            return
        if len(self._waiting) >= WAITING:
            self.dropped += 1
        else:
            self._waiting.append((job_id, version, dict(scores)))

    def work(self) -> None:
        """Hand over what was offered, and leave runs that nothing is told of. Raises SQLAlchemyError; then again."""
        while self._waiting and time.monotonic() >= self._not_before:
            job_id, version, scores = self._waiting[0]
            key = self._key(version)
            try:
                run = self._run(key, version)
            except UserError as error:
                _log.warning("online evaluation waits: %s", error)
                self._not_before = time.monotonic() + _AGAIN
                break
            number = claim(self.database, job_id, key)
            self._waiting.popleft()
            if number is None:
                continue
            if run.unsent >= WAITING:
                self.dropped += 1
                continue
            run.log_metrics(scores, number)
            self.noted += 1
        for key in [key for key, run in self._runs.items() if time.monotonic() - run.used > self._idle]:
            self._leave(key)

    def state(self) -> dict[str, Any]:
        """For metrics: videos noted and dropped since the start, and those that MLflow has not taken so far."""
        unsent = sum(run.tracking.unsent for run in list(self._runs.values())) + len(self._waiting)
        return {"noted": self.noted, "dropped": self.dropped, "unsent": unsent}

    def close(self) -> None:
        """Leave every run; what is not sent stays on the disk."""
        for key in list(self._runs):
            self._leave(key)

    def _key(self, version: VersionRef) -> str:
        return hashlib.sha256(f"{self.service} {version}".encode()).hexdigest()[:32]

    def _run(self, key: str, version: VersionRef) -> PairTracking:
        from musubi_ext.registry.runs import OFFLINE
        from musubi_ext.registry.tracking import PairTracking

        if key not in self._runs:
            tracking = PairTracking(
                self.uri,
                run_name=f"online evaluation {version.name}/{version.version}",
                run_id=OFFLINE + key,  # found again by this key, also when it began while MLflow was away
                spool_directory=self._folder,
                tags={
                    "musubi_ext.kind": "online evaluation",
                    "model.name": version.name,
                    "model.version": version.version,
                    "service": self.service,
                },
                close_timeout=2.0,
            )
            self._runs[key] = _Run(tracking, 0.0)
        self._runs[key].used = time.monotonic()
        return self._runs[key].tracking

    def _leave(self, key: str) -> None:
        self._runs.pop(key).tracking.close()
