"""Take the next job now, not at the queue's next look: after a submission here, and when the job before has ended.

DBOS looks into a queue at an interval and cannot be woken. Looking often costs a service that does nothing CPU, looking
seldom costs every job time. So this does once what DBOS's own queue thread does at each look, with the same calls. They
are not public: should another version of DBOS lack them, the service goes on at the queue's interval and says so.
"""

from __future__ import annotations

import logging
import threading
import uuid
from typing import Any

import sqlalchemy as sa
from dbos import DBOS

from serving.queue.workflow import JOBS, VERSION

_SETTLING = 0.25  # seconds in which DBOS writes down that a job's workflow is over
_log = logging.getLogger(__name__)


class Dispatch:
    """`now` may be called from any thread, as often as one likes."""

    def __init__(self, dbos: Any, executor: str) -> None:
        self.dbos, self.executor = dbos, executor
        self._asked = threading.Event()
        threading.Thread(target=self._loop, name="dispatch", daemon=True).start()

    def now(self) -> None:
        """Look into the queue now."""
        self._asked.set()

    def _loop(self) -> None:
        try:
            while self._asked.wait():
                self._asked.clear()
                for _ in range(50):
                    if not self.dbos._active_workflows_set.count_for_queue(JOBS):
                        self._take()
                        break
                    if self._asked.wait(_SETTLING / 50):
                        break
        except (AttributeError, TypeError, ImportError) as changed:
            _log.warning("this DBOS cannot be asked to look into its queue (%s); jobs start at its interval", changed)

    def _take(self) -> None:
        from dbos._core import execute_dequeued_workflow

        token, system = str(uuid.uuid4()), self.dbos._sys_db
        try:
            queue = DBOS.retrieve_queue(JOBS)
            ids, _ = system.start_queued_workflows(queue, self.executor, VERSION, None, 0, owner_xid=token)
        except sa.exc.DBAPIError:
            return  # another worker is at the queue, or the database is away: DBOS's own look comes soon
        for workflow_id in ids:
            execute_dequeued_workflow(self.dbos, system.get_workflow_status(workflow_id), token)
