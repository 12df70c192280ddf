"""SIGKILL at any moment, of a worker or the service: every accepted job ends once, no finished stage is repeated.

MUSUBI_EXT_TORTURE=20 kills twenty times under forty jobs; the default is four under eight.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from some_jobs import children, end_all, ended, history, journal, process, request, service, settings, until

from serving.jobs import Jobs
from serving.queue.store import JobRecord, transitions

ENDS = ("completed", "failed", "cancelled")
KILLS = int(os.environ.get("MUSUBI_EXT_TORTURE", "4"))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No service outlives its test, also not one that failed."""
    yield
    end_all()


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def freeze(worker: int, jobs: Jobs) -> None:
    """SIGSTOP, but not while it holds SQLite's write lock, which would freeze everybody."""
    while True:
        os.kill(worker, signal.SIGSTOP)
        with closing(sqlite3.connect(Path(jobs.settings.folder) / "jobs.sqlite", timeout=0.2)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                os.kill(worker, signal.SIGCONT)


def check_whole(folder: Path, jobs: Jobs, done: list[JobRecord]) -> None:
    """Each job ended once; the completed have whole files, and each of their stages was computed once."""
    computed = Counter((line[0], line[1]) for line in journal(folder))
    for job in done:
        assert sum(what in ENDS for what in history(jobs, job)) == 1, history(jobs, job)
        if job.state == "completed":
            assert jobs.file(job.id, "video", "a").read_text() == f"{job.request['prompt']} by base"
    # a kill between a stage's file and its line in the journal loses the line, never the stage
    assert max(computed.values()) == 1


def started(jobs: Jobs) -> int:
    """How often a job has been started so far."""
    with jobs.database.read() as connection:
        starts = sa.select(sa.func.count()).where(transitions.c.what == "started")
        return int(connection.execute(starts).scalar_one())


def test_a_killed_worker_is_replaced_and_its_job_goes_on_where_it_was(tmp_path: Path) -> None:
    with service(tmp_path) as jobs:
        job = jobs.submit(request("steps=20 seconds=0.1"), "a")
        until(lambda: jobs.get(job.id, "a").stage == "low")
        (first,) = jobs.supervisor.pids()
        assert jobs.ready
        os.kill(first, signal.SIGKILL)
        until(lambda: not jobs.ready, 2)  # though its successor has yet to load, and to say anything
        done = ended(jobs, job)
        assert (done.state, done.attempt) == ("completed", 2)
        check_whole(tmp_path, jobs, [done])
        workers = [int(line[2]) for line in journal(tmp_path)]
        assert workers[:2] == [first, first]
        assert len(set(workers[2:])) == 1
        assert first not in workers[2:]


def test_a_killed_service_takes_its_worker_with_it_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    with service(tmp_path, workers=False) as jobs:
        submitted = [jobs.submit(request("steps=10 seconds=0.1"), "a") for _ in range(3)]
        parent = process(chosen)
        until(lambda: jobs.get(submitted[0].id, "a").state == "in_progress")
        cancelled = jobs.cancel(submitted[2].id, "a")
        (worker,) = children(parent.pid)
        parent.kill()
        parent.wait()
        until(lambda: gone(worker))
        assert jobs.get(submitted[0].id, "a").state == "queued"
    with service(tmp_path) as jobs:
        done = [ended(jobs, job) for job in submitted]
        assert [job.state for job in done] == ["completed", "completed", "cancelled"]
        assert cancelled.state == "cancelled"
        check_whole(tmp_path, jobs, done)


@pytest.mark.parametrize(("grace", "state"), [(10.0, "completed"), (0.2, "queued")])
def test_sigterm_lets_a_job_end_within_the_grace_period_or_puts_it_back(
    tmp_path: Path, grace: float, state: str
) -> None:
    with service(tmp_path, workers=False) as jobs:
        job = jobs.submit(request("steps=10 seconds=0.15"), "a")
        waiting = jobs.submit(request("steps=1"), "a")
        parent = process(settings(tmp_path, grace=grace))
        until(lambda: jobs.get(job.id, "a").state == "in_progress")
        parent.terminate()
        assert parent.wait(20) == 0
        now = jobs.get(job.id, "a")
        assert (now.state, now.faults) == (state, 0)
        assert jobs.get(waiting.id, "a").state == "queued"
        assert not jobs.ready
    with service(tmp_path) as jobs:
        done = [ended(jobs, job), ended(jobs, waiting)]
        assert [job.state for job in done] == ["completed", "completed"]
        check_whole(tmp_path, jobs, done)


def test_a_job_asked_to_be_cancelled_while_nobody_runs_it_does_not_run(tmp_path: Path) -> None:
    with service(tmp_path, workers=False) as jobs:
        job = jobs.submit(request("steps=200 seconds=0.05"), "a")
        parent = process(settings(tmp_path))
        until(lambda: jobs.get(job.id, "a").state == "in_progress")
        (worker,) = children(parent.pid)
        freeze(worker, jobs)  # it sees neither the wish nor the end of its parent
        jobs.cancel(job.id, "a")
        parent.kill()
        parent.wait()
        os.kill(worker, signal.SIGKILL)
        until(lambda: gone(worker))
        assert jobs.get(job.id, "a").state == "in_progress"
    with service(tmp_path) as jobs:
        assert ended(jobs, job).state == "cancelled"


def test_a_worker_taken_for_dead_that_comes_back_writes_nothing(tmp_path: Path) -> None:
    with service(tmp_path, workers=False, lease=1.0) as jobs:
        job = jobs.submit(request("steps=20 seconds=0.1"), "a")
        frozen = process(settings(tmp_path, replica="frozen", lease=1.0))
        until(lambda: jobs.get(job.id, "a").step > 2)
        (worker,) = children(frozen.pid)
        freeze(worker, jobs)
        until(lambda: jobs.get(job.id, "a").state == "queued")
        other = process(settings(tmp_path, replica="other", lease=1.0))
        until(lambda: jobs.get(job.id, "a").attempt == 2)
        os.kill(worker, signal.SIGCONT)
        done = ended(jobs, job)
        assert done.result["pid"] in children(other.pid)  # though the frozen one was ahead
        for parent in (frozen, other):
            parent.terminate()
            parent.wait(20)
        assert (done.state, done.attempt) == ("completed", 2)
        assert sum(what in ENDS for what in history(jobs, done)) == 1


def test_torture(tmp_path: Path) -> None:
    """Kills of parent and worker in turn, mostly while a job runs, while others are cancelled and accepted."""
    chosen, rng, jobs_in_all = settings(tmp_path, retries=5), random.Random(7), 2 * KILLS
    kinds = ["steps=8 seconds=0.1"] * 8 + ["mistake=1", "os_faults=1"]
    parent: subprocess.Popen[str] | None = None
    with service(tmp_path, workers=False) as jobs:
        submitted = [jobs.submit(request(kinds[index % 10]), "a") for index in range(jobs_in_all // 2)]
        for kill in range(KILLS):
            if parent is None:
                parent = process(chosen)
            submitted.append(jobs.submit(request(kinds[len(submitted) % 10]), "a"))
            if kill % 4:  # the fourth hits a service that is only just starting
                before = started(jobs)
                until(lambda: started(jobs) > before, 60)  # noqa: B023  called at once
            time.sleep(rng.uniform(0.0, 1.0))
            if kill % 5 == 3:
                jobs.cancel(rng.choice(submitted).id, "a")
            victims = [parent.pid] if kill % 2 else children(parent.pid)
            for pid in victims:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if kill % 2:
                parent.wait()
                parent = None
        parent = parent or process(chosen)
        done = [ended(jobs, job, 120) for job in submitted]
        parent.terminate()
        parent.wait(20)
        assert len({job.id for job in done}) == jobs_in_all
        wrong = [job for job in done if job.state == "failed" and job.error["code"] != "invalid_request"]
        assert not wrong, [(job.error, history(jobs, job)) for job in wrong]
        check_whole(tmp_path, jobs, done)
        print(f"{KILLS} kills, {len(done)} jobs: {Counter(job.state for job in done)}")
        print(f"attempts {Counter(job.attempt for job in done)}, stages computed {len(journal(tmp_path))}")
