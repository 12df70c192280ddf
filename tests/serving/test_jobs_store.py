"""What lies in the database and on the disk: JSON and nothing pickled, and nothing at all once a job is deleted."""

from __future__ import annotations

import os
import pickle
import sqlite3
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from some_jobs import ended, request, service, until

from serving.jobs import ConflictError, NotFoundError
from serving.queue.retention import ORPHAN_AGE
from serving.queue.store import jobs as table


def cells(path: Path) -> list[object]:
    """Every value of every table of a SQLite file."""
    connection = sqlite3.connect(path)
    try:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [cell for name in tables for row in connection.execute(f'SELECT * FROM "{name}"') for cell in row]
    finally:
        connection.close()


def files_with(folder: Path, text: str) -> list[str]:
    """Names of the files below `folder` whose bytes hold `text`."""
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_nothing_in_the_database_is_pickled(tmp_path: Path) -> None:
    with service(tmp_path) as jobs:
        for prompt in ("steps=1", "mistake=1", "defect=1"):
            ended(jobs, jobs.submit(request(prompt), "a", webhook=None))
        until(lambda: {"SUCCESS"} == {w.status for w in jobs.durable.client.list_workflows()})
    found = cells(tmp_path / "jobs.sqlite")
    assert "portable_json" in found
    assert "py_pickle" not in found
    marks = (pickle.dumps({})[:2], b"gAS", b"gAR")  # a pickle, and one in base64
    for cell in found:
        raw = cell if isinstance(cell, bytes) else str(cell).encode()
        assert not raw.startswith(marks), cell


def test_the_input_of_a_workflow_is_the_jobs_id_and_nothing_else(tmp_path: Path) -> None:
    with service(tmp_path, workers=False) as jobs:
        job = jobs.submit(request("private words"), "a")
        (workflow,) = jobs.durable.client.list_workflows()
        assert workflow.input == {"args": (job.id,), "kwargs": {}}


def test_a_deleted_job_is_gone_from_every_file(tmp_path: Path) -> None:
    with service(tmp_path) as jobs:
        job = ended(jobs, jobs.submit(request("steps=1 word=unmistakable"), "a", "some-idempotency-key"))
        kept = ended(jobs, jobs.submit(request("steps=1 word=another"), "a"))
        assert files_with(tmp_path, "unmistakable")
        jobs.delete(job.id, "a")
        with pytest.raises(NotFoundError):
            jobs.get(job.id, "a")
        assert not jobs.settings.job_folder(job.id).exists()
        assert jobs.file(kept.id, "video", "a").is_file()
    assert files_with(tmp_path, "unmistakable") == []
    assert files_with(tmp_path, job.id) == ["journal.txt"]


def test_deleting_a_running_job_cancels_it_and_deletes_it_afterwards(tmp_path: Path) -> None:
    with service(tmp_path) as jobs:
        job = jobs.submit(request("steps=200 seconds=0.05"), "a", "key")
        until(lambda: jobs.get(job.id, "a").step > 1)
        jobs.delete(job.id, "a")
        with pytest.raises(NotFoundError):
            jobs.get(job.id, "a")
        assert jobs.list("a") == []
        until(lambda: not jobs.settings.job_folder(job.id).exists(), 10)
        until(lambda: job.id not in cells(tmp_path / "jobs.sqlite"), 10)
        again = jobs.submit(request("steps=200 seconds=0.05"), "a", "key")
        assert again.id != job.id
        jobs.cancel(again.id, "a")


def test_an_idempotency_key_of_a_job_being_deleted_is_refused_until_it_is_gone(tmp_path: Path) -> None:
    with service(tmp_path, workers=False) as jobs:
        job = jobs.submit(request("x"), "a", "key")
        with jobs.database.write() as connection:
            connection.execute(sa.update(table).values(deleted_at=time.time()))
        with pytest.raises(ConflictError, match="deleted"):
            jobs.submit(request("x"), "a", "key")
        assert job.state == "queued"


def test_retention_deletes_what_is_old_too_much_or_left_over(tmp_path: Path) -> None:
    with service(tmp_path, workers=False) as jobs:
        submitted = [jobs.submit(request(f"p{index}"), "a") for index in range(5)]
        now = time.time()
        for age, job in zip((400_000, 300, 200, 100), submitted, strict=False):  # the last still waits
            (jobs.settings.job_folder(job.id) / "video.mp4").write_bytes(b"0" * 10_000)
            values = {"state": "completed", "completed_at": now - age}
            with jobs.database.write() as connection:
                connection.execute(sa.update(table).where(table.c.id == job.id).values(values))
        places = tmp_path / "jobs"
        fresh, orphan, other = (places / name for name in ("video_" + "0" * 24, "video_" + "1" * 24, "notes"))
        for place in (fresh, orphan, other):
            place.mkdir()
        old = now - ORPHAN_AGE - 10
        os.utime(orphan, (old, old))
        os.utime(other, (old, old))
        assert jobs.retention.sweep() == [submitted[0].id]
        assert sorted(path.name for path in places.iterdir()) == sorted(
            [*(job.id for job in submitted[1:]), fresh.name, other.name]
        )
    with service(tmp_path, workers=False, retain_bytes=30_000) as jobs:
        assert jobs.retention.sweep() == [submitted[1].id]
        assert {job.id for job in jobs.list("a")} == {job.id for job in submitted[2:]}
        assert all(jobs.settings.job_folder(job.id).is_dir() for job in submitted[2:])


def test_a_sweep_that_was_interrupted_is_completed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service(tmp_path, workers=False, retain=0.1) as jobs:
        job = jobs.submit(request("x"), "a")
        jobs.cancel(job.id, "a")
        time.sleep(0.2)
        with monkeypatch.context() as patched:
            patched.setattr(jobs.durable, "forget", lambda _: (_ for _ in ()).throw(OSError("no disk")))
            with pytest.raises(OSError, match="no disk"):
                jobs.retention.sweep()
        jobs.retention.sweep()
        assert job.id not in cells(tmp_path / "jobs.sqlite")


def test_a_job_whose_workflow_is_lost_ends_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.queue.recovery.STRAY_AGE", 0.0)
    with service(tmp_path, workers=False) as jobs:
        lost, kept = jobs.submit(request("x"), "a"), jobs.submit(request("x"), "a")
        jobs.durable.client.delete_workflow(lost.id)
        assert jobs.recovery.settle_strays() == [lost.id]
        now = jobs.get(lost.id, "a")
        assert (now.state, now.error["code"]) == ("failed", "internal")
        assert jobs.get(kept.id, "a").state == "queued"


def test_acceptance_is_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service(tmp_path, workers=False) as jobs:
        monkeypatch.setattr(jobs.durable, "enqueue_job", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(OSError, match="gone"):
            jobs.submit(request("x"), "a", "key")
        assert jobs.list("a") == []
        assert list((tmp_path / "jobs").iterdir()) == []
        assert jobs.durable.client.list_workflows() == []
