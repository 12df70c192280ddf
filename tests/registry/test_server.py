"""A real tracking server over HTTP, killed in the middle of a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from musubi_ext.registry.tracking import PairTracking

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)


@dataclass
class Server:
    uri: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(migrated_store: Path, tmp_path: Path, free_port: int) -> Iterator[Server]:
    store = tmp_path / "server.db"
    shutil.copy(migrated_store, store)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(free_port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", f"sqlite:///{store}", "--artifacts-destination", (tmp_path / "served").as_uri()]
    # Jobs are a second service of MLflow's own, which a test of tracking does not wait for.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
        )
    running = Server(f"http://127.0.0.1:{free_port}", process)
    try:
        wait_until_healthy(running, tmp_path / "server.log")
        yield running
    finally:
        if process.poll() is None:
            running.kill()


def wait_until_healthy(server: Server, log: Path) -> None:
    from urllib.error import URLError
    from urllib.request import urlopen

    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.process.poll() is None, log.read_text()
        try:
            with urlopen(f"{server.uri}/health", timeout=1):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(log.read_text())


def test_killed_server_costs_the_run_nothing_but_the_points_after(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strip = tmp_path / "strip.png"
    strip.write_bytes(b"picture")
    with PairTracking(server.uri, spool_directory=tmp_path / "kept") as parent:
        high = parent.expert("high")
        high.log_metrics({"loss": 1.0}, 1)
        parent.log_artifact(strip, "filmstrips")
        high.close()
        wait_for_end(MlflowClient(server.uri), high.run_id)
        server.kill()
        began = time.monotonic()
        low = parent.expert("low")
        for step in range(50):
            low.log_metrics({"loss": 1.0}, step)
            high.log_metrics({"late": 1.0}, step)
        parent.log_artifact(strip, "filmstrips")
    # 5 s here; with MLflow's own defaults the first call alone would take 245 s.
    assert time.monotonic() - began < 90
    assert next((tmp_path / "served").rglob("filmstrips/strip.png")).read_bytes() == b"picture"
    kept = [json.loads(line) for line in parent.spool_path.read_text().splitlines()]
    assert [event["step"] for event in kept if "late" in event["content"]] == list(range(50))
    assert [event["step"] for event in kept if "loss" in event["content"]] == list(range(50))
    run = next(event for event in kept if event["kind"] == "run")
    assert run["run_id"] == low.run_id
    assert run["content"]["tags"]["mlflow.parentRunId"] == parent.run_id
    assert [event["run_id"] for event in kept if event["kind"] == "status"] == [low.run_id, parent.run_id]
    assert parent.unsent == len(kept)
    assert f"MLflow: {len(kept)} events were not sent" in caplog.text
    assert str(parent.spool_path) in caplog.text


def wait_for_end(client: MlflowClient, run_id: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if client.get_run(run_id).info.status == "FINISHED":
            return
        time.sleep(0.1)
    raise TimeoutError(run_id)
