"""Jobs from acceptance to their end: order, bounds, cancelling, limits of time, idempotency, isolation, faults."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
from some_jobs import ended, history, journal, request, service, settings, until

from musubi_ext.errors import UserError
from serving.adapters_live import VersionRef
from serving.jobs import ConflictError, NotFoundError, QueueFullError, QuotaError
from serving.keys import Key


def test_a_job_runs_through_its_stages_and_keeps_what_it_was_accepted_with(tmp_path: Path) -> None:
    version = VersionRef("orbit", 3, {"orbit_h.safetensors": "0" * 64})
    with service(tmp_path) as jobs:
        job = jobs.submit(request("steps=4 seconds=0.15"), "a", version=version)
        assert (job.state, job.position, job.estimated_start) == ("queued", 1, None)
        events = list(jobs.events(job.id, "a"))
        job = events[-1].job
        file = jobs.file(job.id, "video", "a")
        assert jobs.submit(request("next"), "a").estimated_start is not None
    names = [event.name for event in events]
    assert (names[0], names[-1]) == ("queued", "completed")
    steps = [event.job.step for event in events if event.name == "progress"]
    assert steps == sorted(steps)
    assert len({event.job.progress for event in events}) >= 3
    assert (job.progress, job.version) == (100, version.as_dict())
    assert "models:/orbit/3" in file.read_text()
    assert [line[1] for line in journal(tmp_path)][:5] == ["encode", "high", "low", "decode", "evaluate"]


def test_higher_priority_starts_earlier_else_the_order_of_acceptance(tmp_path: Path) -> None:
    with service(tmp_path, workers=False) as jobs:
        usual = [jobs.submit(request("steps=1"), "a") for _ in range(3)]
        urgent = jobs.submit(request("steps=1"), "b", priority=5)
        late = jobs.submit(request("steps=1"), "b", priority=-5)
        places = [jobs.get(job.id, job.owner).position for job in (urgent, *usual, late)]
        assert places == [1, 2, 3, 4, 5]
        assert jobs.stats()["queued"] == 5
        with pytest.raises(UserError, match="priority"):
            jobs.submit(request("x"), "a", priority=101)
    with service(tmp_path) as jobs:
        done = [ended(jobs, job) for job in (urgent, *usual, late)]
    starts = [job.started_at for job in done]
    assert starts == sorted(starts)


def test_a_full_queue_and_an_owner_beyond_its_quota_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with service(tmp_path, workers=False, queue_limit=3, key_active=2) as jobs:
        for _ in range(2):
            jobs.submit(request("x"), "a")
        with pytest.raises(QuotaError, match="2 of your jobs"):
            jobs.submit(request("x"), "a")
        narrow = Key("k", "b", ("videos:write",), per_minute=1)
        last = jobs.submit(request("x"), narrow)
        with pytest.raises(QueueFullError, match="3 jobs wait") as refusal:
            jobs.submit(request("x"), "c")
        assert refusal.value.retry_after
        jobs.cancel(last.id, "b")
        with pytest.raises(QuotaError, match="this minute"):
            jobs.submit(request("x"), narrow)
        assert len(list((tmp_path / "jobs").iterdir())) == 3


def test_cancelling_ends_a_waiting_job_at_once_and_a_running_one_at_its_next_step(tmp_path: Path) -> None:
    with service(tmp_path) as jobs:
        running = jobs.submit(request("steps=200 seconds=0.05"), "a")
        waiting = jobs.submit(request("steps=1"), "a")
        until(lambda: jobs.get(running.id, "a").step > 2)
        cancelled = jobs.cancel(waiting.id, "a")
        assert (cancelled.state, cancelled.public_state) == ("cancelled", "failed")
        assert cancelled.error["code"] == "cancelled"
        asked = time.monotonic()
        jobs.cancel(running.id, "a")
        assert ended(jobs, running).error["code"] == "cancelled"
        assert time.monotonic() - asked < 5.0
        after = jobs.submit(request("steps=1"), "a")
        assert ended(jobs, after).state == "completed"
        assert jobs.cancel(after.id, "a").state == "completed"
        with pytest.raises(ConflictError):
            jobs.file(running.id, "video", "a")
        assert history(jobs, waiting) == ["accepted", "cancelled"]
    assert {line[0] for line in journal(tmp_path)} == {running.id, after.id}


def test_a_job_that_waits_or_runs_too_long_fails_with_the_reason(tmp_path: Path) -> None:
    with service(tmp_path, workers=False, start_within=0.2) as jobs:
        late = jobs.submit(request("x"), "a")
        late = ended(jobs, late)
        assert (late.state, late.error["code"]) == ("failed", "expired")
    with service(tmp_path, run_within=0.5) as jobs:
        slow = ended(jobs, jobs.submit(request("steps=200 seconds=0.05"), "a"))
        assert (slow.state, slow.error["code"]) == ("failed", "timeout")


def test_a_worker_that_hangs_within_a_step_is_ended_and_replaced(tmp_path: Path) -> None:
    with service(tmp_path, run_within=3.0, lease=1.0) as jobs:
        job = jobs.submit(request("hang=1000"), "a")
        until(lambda: jobs.get(job.id, "a").state == "in_progress")
        time.sleep(4.2)
        hanging = jobs.supervisor.pids()
        jobs.supervisor.kill(jobs.recovery.overdue(jobs.supervisor.executors))
        assert jobs.get(job.id, "a").error["code"] == "timeout"
        until(lambda: jobs.supervisor.pids() not in ([], hanging))
        assert ended(jobs, jobs.submit(request("steps=1"), "a")).state == "completed"


def test_an_idempotency_key_means_one_job_and_one_request(tmp_path: Path) -> None:
    with service(tmp_path, workers=False) as jobs:
        first = jobs.submit(request("x"), "a", "key-1")
        assert jobs.submit(request("x"), "a", "key-1").id == first.id
        assert jobs.submit(request("x"), "b", "key-1").id != first.id
        for other in (request("y"), request("x", seed=2), request("x", color="blue")):
            with pytest.raises(ConflictError, match="another request"):
                jobs.submit(other, "a", "key-1")
        drawn = jobs.submit(request("x", seed=11), "a", "key-2", seeded=False)
        assert jobs.submit(request("x", seed=12), "a", "key-2", seeded=False).id == drawn.id
        with pytest.raises(UserError, match="Idempotency-Key"):
            jobs.submit(request("x"), "a", "no\nlines")
        assert len(list((tmp_path / "jobs").iterdir())) == 3


def test_an_owner_sees_and_touches_only_its_own_jobs(tmp_path: Path) -> None:
    with service(tmp_path, workers=False) as jobs:
        mine = [jobs.submit(request(f"p{index}"), "a") for index in range(4)]
        other = jobs.submit(request("secret"), "b")
        for touch in (jobs.get, jobs.cancel, jobs.delete):
            with pytest.raises(NotFoundError, match="no such job"):
                touch(other.id, "a")
        for name in ("video_", "../../etc/passwd", other.id + "\n", ""):
            with pytest.raises(NotFoundError):
                jobs.get(name, "b")
        assert [job.id for job in jobs.list("a", order="asc")] == [job.id for job in mine]
        assert [job.id for job in jobs.list("a", after=mine[2].id, limit=1)] == [mine[1].id]
        assert [job.id for job in jobs.list("a", after=mine[1].id, order="asc")] == [mine[2].id, mine[3].id]
        with pytest.raises(NotFoundError):
            jobs.list("a", after=other.id)
        assert jobs.get(other.id, "b").state == "queued"


def test_only_the_machines_faults_are_tried_again_and_not_for_ever(tmp_path: Path) -> None:
    with service(tmp_path, retries=1) as jobs:
        asked = {
            "passing": "os_faults=1",
            "lasting": "os_faults=9",
            "mistaken": "mistake=1",
            "defective": "defect=1",
            "deadly": "dies=1",
            "sound": "steps=1",
        }
        submitted = {name: jobs.submit(request(prompt), "a") for name, prompt in asked.items()}
        done = {name: ended(jobs, job, 60) for name, job in submitted.items()}
        deaths = history(jobs, submitted["deadly"])
    assert {name: (job.error or {}).get("code", job.state) for name, job in done.items()} == {
        "passing": "completed",
        "lasting": "infrastructure",
        "mistaken": "invalid_request",
        "defective": "internal",
        "deadly": "worker_died",
        "sound": "completed",
    }
    assert "divide by 16" in done["mistaken"].error["message"]
    assert "secret" not in done["defective"].error["message"]
    assert deaths == ["accepted", "started", "requeued", "started", "requeued", "failed"]


def test_an_engine_that_cannot_be_made_is_said_and_not_tried_for_ever(tmp_path: Path) -> None:
    with service(tmp_path, config={"base": "/no/such/folder"}) as jobs:
        mistakes = until(lambda: jobs.stats()["mistakes"])
        assert "is no folder" in mistakes[0]
        assert not jobs.ready
        time.sleep(0.6)
        assert jobs.supervisor.workers[0].starts == 1


def test_settings_are_checked_all_at_once_and_travel_as_json(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        settings(tmp_path, queue_limit=0, lease=0.0, replica="a/b", webhook_hosts=("example.org",))
    assert len(refusal.value.problems) == 4
    chosen = settings(tmp_path, webhook_hosts=("example.org",), webhook_secret="s" * 16)
    assert type(chosen).from_json(chosen.to_json()) == chosen
    assert chosen.replica_name != dataclasses.replace(chosen, folder=str(tmp_path / "other")).replica_name
