"""Which store is meant, and a clear word, soon, when it is not there."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from musubi_ext.errors import UserError
from musubi_ext.registry import store
from musubi_ext.registry.replay import look
from musubi_ext.registry.tracking import PairTracking

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)


def test_default_store_is_a_file_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert store.artifact_location(store.tracking_uri()) == (tmp_path / "mlartifacts").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert store.tracking_uri() == "http://tracking:5000"
    assert store.artifact_location("http://tracking:5000") is None
    assert store.tracking_uri("sqlite:///runs/x.db") == f"sqlite:///{tmp_path}/runs/x.db"


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "ftp://host/x"])
def test_what_is_no_store_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="expected sqlite:///FILE"):
        store.tracking_uri(uri)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_store_that_is_not_there_is_said_quickly_and_stops_nothing(
    scheme: str, free_port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"{scheme}://user:secret@127.0.0.1:{free_port}/mlflow"
    began = time.monotonic()
    with pytest.raises(store.StoreAway, match="--no_mlflow") as told:
        store.connect(uri)
    with PairTracking(uri, spool_directory=tmp_path) as parent:
        parent.expert("high").log_metrics({"loss": 1.0}, 1)
    assert time.monotonic() - began < 20
    assert parent.run_id == f"offline-{parent.spool_path.name}"
    assert f"events are kept in {parent.spool_path}" in caplog.text
    assert f"musubi-ext track replay {parent.spool_path}" in parent.where()
    written = "".join(file.read_text() for file in parent.spool_path.iterdir())
    assert "secret" not in str(told.value) + caplog.text + written


def test_a_server_that_answers_wrongly_is_said_quickly(free_port: int) -> None:
    """A port where something listens and is not MLflow: here Python's own file server."""
    port = free_port
    code = f"import http.server as h; h.HTTPServer(('127.0.0.1', {port}), h.BaseHTTPRequestHandler).serve_forever()"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        began = time.monotonic()
        with pytest.raises(UserError, match=f"tracking store http://127.0.0.1:{port}: MlflowException"):
            PairTracking(f"http://127.0.0.1:{port}")
        assert time.monotonic() - began < 10
    finally:
        process.kill()
        process.wait()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise TimeoutError(port)


def test_a_file_that_is_no_database_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("these are notes, not tables")
    with pytest.raises(UserError, match="is not a SQLite database"):
        PairTracking(f"sqlite:///{path}")
    assert path.read_text() == "these are notes, not tables"


def test_a_deleted_experiment_is_named(uri: str) -> None:
    client = store.connect(uri)
    client.delete_experiment(store.experiment_id(client, "old", uri))
    with pytest.raises(UserError, match="experiment 'old' is deleted"):
        PairTracking(uri, experiment="old")


def test_a_store_that_goes_away_keeps_the_run_going(uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The database file turns into something else in mid-run: nothing is raised, everything is kept and counted."""
    with PairTracking(uri, spool_directory=tmp_path / "kept") as parent:
        parent.expert("high")
        (tmp_path / "mlflow.db").write_bytes(b"broken" * 4096)
        low = parent.expert("low")
        low.log_metrics({"loss": float("nan")}, 7)
        parent.log_metrics({"seconds": 2.0}, 1)
    (found,) = look(tmp_path / "kept")
    assert found.path == parent.spool_path
    events = [json.loads(line) for line in (found.path / "events.jsonl").read_bytes().splitlines()]
    assert found.unsent == parent.unsent == 6  # the begin of low, two metrics, three statuses
    assert {"run", "metrics", "status"} <= {event["kind"] for event in events}
    assert {"loss": "nan"} in [event["content"] for event in events]
    assert "6 events were not sent" in caplog.text
