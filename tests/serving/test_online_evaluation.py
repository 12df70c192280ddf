"""A share of the videos' scores in MLflow: which, where, in what order, and what happens while MLflow is away."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finished_jobs import Finished

from musubi_ext.registry.store import connect
from serving.config import ServiceConfig
from serving.versions.online import Online
from serving.versions.online_evaluation import OnlineEvaluation, sampled
from serving.versions.promises import Promise
from serving.versions.version_ref import VersionRef

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mlflow_server import Server

V1, V2 = (VersionRef("orbit-pair", number, {"a": "0" * 64}) for number in (1, 2))


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Finished]:
    found = Finished(tmp_path / "service")
    yield found
    found.database.close()


class NoPromises:
    def promised(self, _: VersionRef) -> dict[str, Promise]:
        return {}


def watching(jobs: Finished, uri: str, share: float = 1.0) -> Online:
    return Online(jobs, ServiceConfig.of({"tracking_uri": uri, "evaluation": {"mlflow_sample": share}}), NoPromises())


def runs(uri: str) -> dict[str, Any]:
    """Name → run, of every experiment."""
    client = connect(uri)
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(everywhere)
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def history(uri: str, name: str, metric: str) -> list[tuple[int, float]]:
    points = connect(uri).get_metric_history(runs(uri)[name].info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def test_the_share_is_chosen_by_the_id_alone() -> None:
    ids = [f"video_{number:024x}" for number in range(20_000)]
    chosen = [job_id for job_id in ids if sampled(job_id, 0.1)]
    assert 1_800 < len(chosen) < 2_200
    assert set(chosen) <= {job_id for job_id in ids if sampled(job_id, 0.2)}
    assert not any(sampled(job_id, 0.0) for job_id in ids)
    assert all(sampled(job_id, 1.0) for job_id in ids)


def test_each_version_has_one_run_and_each_video_one_step_also_after_restarts(jobs: Finished, uri: str) -> None:
    for value in (1.0, 2.0):
        jobs.add(V1, subject_drift=value)
    jobs.add(V2, subject_drift=5.0)
    jobs.add(VersionRef(), subject_drift=9.0)  # the base has no version to be evaluated
    jobs.add(V1)  # nothing was measured
    for value in (3.0, 4.0):  # each turn is a service of its own
        online = watching(jobs, uri)
        online.look()
        online.look()
        jobs.add(V1, subject_drift=value)
        online.look()
        assert online.state()["mlflow"]["noted"] == (4 if value == 3.0 else 1)
        online.close()
    name = "online evaluation orbit-pair/1"
    assert set(runs(uri)) == {name, "online evaluation orbit-pair/2"}
    run = runs(uri)[name]
    assert history(uri, name, "subject_drift") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert run.info.status == "FINISHED"
    tags = ("musubi_ext.kind", "model.name", "model.version", "service")
    assert [run.data.tags[tag] for tag in tags] == ["online evaluation", "orbit-pair", "1", "here"]
    assert not (Path(jobs.settings.folder) / "online").exists() or not list(
        (Path(jobs.settings.folder) / "online").iterdir()
    )


def test_two_replicas_send_a_video_once(jobs: Finished, uri: str) -> None:
    both = [watching(jobs, uri) for _ in range(2)]
    for value in range(6):
        jobs.add(V1, subject_drift=float(value))
        for online in both[:: 1 if value % 2 else -1]:
            online.look()
    for online in both:
        online.close()
    assert sum(online.state()["mlflow"]["noted"] for online in both) == 6
    assert [step for step, _ in history(uri, "online evaluation orbit-pair/1", "subject_drift")] == [1, 2, 3, 4, 5, 6]


def test_what_was_noted_of_a_deleted_job_goes_too_and_its_number_is_not_given_again(jobs: Finished, uri: str) -> None:
    online = watching(jobs, uri)
    gone = jobs.add(V1, subject_drift=1.0)
    online.look()
    jobs.delete(gone)
    online._forget_at = 0.0
    jobs.add(V1, subject_drift=2.0)
    online.look()
    online.close()
    with jobs.database.read() as connection:
        kept = connection.exec_driver_sql("SELECT job_id FROM service_online").scalars().all()
    assert gone not in kept
    assert history(uri, "online evaluation orbit-pair/1", "subject_drift") == [(1, 1.0), (2, 2.0)]


def test_while_mlflow_is_away_scores_wait_on_the_disk(
    jobs: Finished, migrated_store: Path, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    address = f"http://127.0.0.1:{free_port}"
    online = watching(jobs, address)
    for value in (1.0, 2.0, 3.0):
        jobs.add(V1, subject_drift=value)
    started = time.monotonic()
    online.look()
    assert time.monotonic() - started < 5
    assert online.state()["mlflow"]["noted"] == 3
    while online.state()["mlflow"]["unsent"] < 3:  # the spool's own thread writes them
        assert time.monotonic() - started < 10
        time.sleep(0.01)
    online.close()  # the service ends before MLflow is back
    assert list((Path(jobs.settings.folder) / "online").glob("*/events.jsonl"))
    (tmp_path / "server").mkdir()
    shutil.copy(migrated_store, tmp_path / "server" / "server.db")
    server = Server(tmp_path / "server", free_port).start()
    try:
        again = watching(jobs, address)
        jobs.add(V1, subject_drift=4.0)
        again.look()
        again.close()
        found = history(address, "online evaluation orbit-pair/1", "subject_drift")
    finally:
        server.kill()
    assert found == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert again.state()["mlflow"]["unsent"] == 0


def test_a_queue_that_is_full_drops_and_counts(jobs: Finished, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.versions.online_evaluation.WAITING", 3)
    evaluation = OnlineEvaluation(jobs.database, jobs.settings.folder, "here", uri, 1.0)
    for _ in range(5):
        evaluation.offer(jobs.add(V1, subject_drift=1.0), V1, {"subject_drift": 1.0})
    assert evaluation.state() == {"noted": 0, "dropped": 2, "unsent": 3}
    evaluation.work()
    assert evaluation.state()["noted"] + evaluation.state()["dropped"] == 5
    evaluation.close()


def test_a_store_that_is_none_is_said_once_and_asked_again_later(
    jobs: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.db").write_bytes(b"no database" * 100)
    online = watching(jobs, f"sqlite:///{tmp_path / 'broken.db'}")
    jobs.add(V1, subject_drift=1.0)
    for _ in range(3):
        online.look()
    assert caplog.text.count("online evaluation waits") == 1
    assert online.state()["mlflow"] == {"noted": 0, "dropped": 0, "unsent": 1}
    online.close()
