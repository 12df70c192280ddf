"""The process that owns one GPU: `python -m serving.queue.worker`, started and watched by serving.queue.supervisor.

Its argument is the engine's module and class, which it loads at once; then it reads one line of JSON from its standard
input: JobSettings, and its number. It ends when that input closes, since then its parent is gone; on SIGTERM, after the
grace period; and by itself on nothing else. Two workers of one name exclude each other by a lock that ends with the
process: one that is killed has let go of the GPU before its successor loads.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from importlib import import_module
from typing import Any, TypeAlias

from musubi_ext.errors import UserError
from musubi_ext.locks import locked
from serving.queue.dispatch import Dispatch
from serving.queue.job_settings import JobSettings
from serving.queue.recovery import Recovery
from serving.queue.runner import Engine, Runner, persistently
from serving.queue.store import Database, JobRecord, jobs, record
from serving.queue.transitions import Transitions
from serving.queue.webhooks import RefusedAddressError, Webhooks
from serving.queue.worker_protocol import LAST, MISTAKE
from serving.queue.workflow import Durable, launch, webhook_id

Inbox: TypeAlias = "queue.SimpleQueue[float | None]"  # None: there is a job; a number: stop, after so many seconds
_log = logging.getLogger(__name__)


def main() -> None:
    """Run until told to stop; never returns."""
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    import_module(sys.argv[1].partition(":")[0])  # seconds, while the service prepares the database
    told = json.loads(sys.stdin.buffer.readline() or "null")
    if told is None:
        os._exit(0)
    settings = JobSettings.from_json(json.dumps(told["settings"]))
    executor = settings.executor(told["worker"])
    inbox: Inbox = queue.SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: inbox.put(settings.grace))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to parent and child; the parent decides
    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    waiting = "waiting for the worker before this one to end"
    try:
        with locked(settings.lock_folder(executor), "", waiting=lambda: _log.warning(waiting)):
            _serve(settings, executor, inbox)
            status = 0
    except UserError as mistake:
        print(json.dumps({"mistake": list(mistake.problems)}), flush=True)
        status = MISTAKE
    logging.shutdown()
    os._exit(status)  # threads of unfinished workflows are still there, on purpose


def _listen(inbox: Inbox) -> None:
    """The parent holds the other end of our standard input: a line means a job, its end is the parent's."""
    for _ in sys.stdin.buffer:
        inbox.put(None)
    inbox.put(0.0)


def _serve(settings: JobSettings, executor: str, inbox: Inbox) -> None:
    database = Database(settings.url)
    durable = Durable(database)
    transitions = Transitions(database, durable.enqueue_webhook)
    recovery = Recovery(database, durable, transitions, settings)
    persistently(lambda: recovery.beat(executor, ready=False))
    persistently(lambda: recovery.take_back(executor, fault=True, why="the worker died"))
    runner = Runner(settings, _engine(settings), transitions, executor)
    dbos = launch(settings.url, executor, runner.run, lambda job_id: _deliver(settings, database, job_id))
    dispatch = Dispatch(dbos, executor)
    runner.after = dispatch.now
    dispatch.now()
    runner.drain(_told_to_stop(settings, executor, inbox, recovery, dispatch), LAST)
    recovery.take_back(executor, fault=False, why="the service stops")
    recovery.leave(executor)
    database.close()


def _told_to_stop(settings: JobSettings, executor: str, inbox: Inbox, recovery: Recovery, dispatch: Dispatch) -> float:
    """Say now and then that we live, until told to stop: the seconds of grace."""
    beat_at = 0.0
    while True:
        if time.monotonic() >= beat_at:
            persistently(lambda: recovery.beat(executor, ready=True))
            beat_at = time.monotonic() + settings.lease / 4
        try:
            grace = inbox.get(timeout=max(0.0, beat_at - time.monotonic()))
        except queue.Empty:
            continue
        if grace is not None:
            return grace
        dispatch.now()


def _engine(settings: JobSettings) -> Engine:
    from serving.config import ServiceConfig

    module, _, name = settings.engine.partition(":")
    engine: Engine = getattr(import_module(module), name)(ServiceConfig.of(settings.config))
    return engine


def _deliver(settings: JobSettings, database: Database, job_id: str) -> None:
    with database.read() as connection:
        row = connection.execute(jobs.select().where(jobs.c.id == job_id)).first()
    if row is None or row.deleted_at is not None:
        return  # its owner deleted it meanwhile: nothing to tell
    hooks = Webhooks(settings.webhook_hosts, settings.webhook_secret, settings.webhook_private)
    try:
        hooks.deliver(row.webhook, payload(record(row)), webhook_id(job_id))
    except (UserError, RefusedAddressError) as refused:  # the configuration has changed since, or the host's address
        _log.warning("%s: webhook not delivered: %s", job_id, refused)


def payload(job: JobRecord) -> dict[str, Any]:
    """What a webhook says of a job that ended: how, and never what was asked for."""
    return {
        "type": f"video.{job.state}",
        "created_at": int(time.time()),
        "data": {
            "id": job.id,
            "object": "video",
            "status": job.public_state,
            "completed_at": int(job.completed_at or 0),
            "version": job.version,
            "error": job.error,
        },
    }


if __name__ == "__main__":
    main()
