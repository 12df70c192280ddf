"""A real tracking server over HTTP, killed in the middle of a run, started again, or absent from the start."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_server import Server

from musubi_ext.registry.replay import look, replay
from musubi_ext.registry.tracking import PairTracking

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)


@pytest.fixture
def server(migrated_store: Path, tmp_path: Path, free_port: int) -> Iterator[Server]:
    """Made, not started."""
    shutil.copy(migrated_store, tmp_path / "server.db")
    made = Server(tmp_path, free_port)
    yield made
    made.kill()


def steps(client: MlflowClient, run: str, key: str = "loss") -> list[int]:
    return [point.step for point in client.get_metric_history(run, key)]


def test_killed_server_costs_the_run_nothing_and_the_store_nothing_after_replay(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strip = tmp_path / "strip.png"
    strip.write_bytes(b"picture")
    client = MlflowClient(server.start().uri)
    with PairTracking(server.uri, run_name="orbit", spool_directory=tmp_path / "kept") as parent:
        high = parent.expert("high")
        high.log_metrics({"loss": 1.0}, 1)
        parent.log_artifact(strip, "filmstrips")
        high.close()
        wait_for_end(client, high.run_id)
        server.kill()
        began = time.monotonic()
        low = parent.expert("low")
        for step in range(50):
            low.log_metrics({"loss": 1.0, "odd": float("nan")}, step)
            high.log_metrics({"late": 1.0}, step)
        parent.log_artifact(strip, "previews")
    # 5 s here; with MLflow's own defaults the first call alone would take 245 s.
    assert time.monotonic() - began < 90
    assert low.run_id.startswith("offline-")
    assert "events were not sent" in caplog.text
    (found,) = look(tmp_path / "kept")
    assert (found.state, found.unsent) == ("ended", parent.unsent)

    server.start()
    done = replay(found)
    assert (done.run_id, done.left, done.sent) == (parent.run_id, 0, parent.unsent)
    assert look(tmp_path / "kept") == []
    runs = {run.data.tags.get("expert", "pair"): run for run in client.search_runs([parent.experiment_id or ""])}
    assert runs.keys() == {"pair", "high", "low"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["low"].data.tags["mlflow.parentRunId"] == parent.run_id
    assert steps(client, runs["low"].info.run_id) == list(range(50))
    assert steps(client, runs["low"].info.run_id, "odd") == list(range(50))
    assert steps(client, high.run_id, "late") == list(range(50))
    for folder in ("filmstrips", "previews"):
        assert next((tmp_path / "served").rglob(f"{folder}/strip.png")).read_bytes() == b"picture"


def test_a_server_that_comes_back_gets_everything_while_the_run_goes_on(server: Server, tmp_path: Path) -> None:
    """Absent from the start, then there: no replay is needed, and the runs have their true times."""
    began = time.time()
    with PairTracking(server.uri, spool_directory=tmp_path / "kept", retry_seconds=0.1) as parent:
        low = parent.expert("low")
        assert parent.run_id.startswith("offline-")
        low.log_metrics({"loss": 1.0}, 1)
        ended = time.time()
        client = MlflowClient(server.start().uri)
        deadline = time.monotonic() + 60
        while parent.run_id.startswith("offline-") or low.run_id.startswith("offline-"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        low.log_metrics({"loss": 0.5}, 2)
    assert not parent.spool_path.exists()
    for run_id in (parent.run_id, low.run_id):
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        assert began - 1 < run.info.start_time / 1000 < ended + 1
    assert steps(client, low.run_id) == [1, 2]
    assert parent.where().endswith(f"#/experiments/{parent.experiment_id}/runs/{parent.run_id}")


def wait_for_end(client: MlflowClient, run_id: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if client.get_run(run_id).info.status == "FINISHED":
            return
        time.sleep(0.1)
    raise TimeoutError(run_id)
