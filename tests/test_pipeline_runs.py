"""A pipeline's runs in MLflow when things end otherwise than they should: killed, a store that goes away, signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.pipeline import training
from musubi_ext.pipeline.runs import ENDED_TAG, StepRuns, Unrecorded
from musubi_ext.pipeline.stopping import stoppable
from musubi_ext.registry.runs import PARENT_TAG
from musubi_ext.registry.store import connect


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables, which take a second to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def runs(uri: str, state: Path) -> StepRuns:
    return StepRuns(uri, state, name="p", experiment="e")


def statuses(client: MlflowClient) -> dict[str, str]:
    experiment = client.get_experiment_by_name("e").experiment_id
    return {run.info.run_name: run.info.status for run in client.search_runs([experiment])}


def test_what_a_killed_process_left_open_is_closed_by_the_next(uri: str, tmp_path: Path) -> None:
    killed = runs(uri, tmp_path)
    step = killed.step("train", "k", {})
    step.__enter__()
    killed.below("pair")
    killed._end = lambda *_: None  # type: ignore[method-assign] # SIGKILL: nobody says how it ended
    step.__exit__(None, None, None)
    client = connect(uri)
    assert statuses(client) == dict.fromkeys(("p", "train", "pair"), "RUNNING")
    experiment = client.get_experiment_by_name("e").experiment_id
    old = {run.info.run_id for run in client.search_runs([experiment])}
    with runs(uri, tmp_path) as after, after.step("train", "k", {}):
        assert {client.get_run(run_id).info.status for run_id in old} == {"KILLED"}


def test_a_launched_run_that_mlflow_called_failed_is_killed(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(uri)
    launched = client.create_run(client.create_experiment("e", tmp_path.as_uri())).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", launched)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(KeyboardInterrupt), runs(uri, tmp_path) as first, first.step("train", "k", {}):
        raise KeyboardInterrupt
    client.set_terminated(launched, "FAILED")  # as `mlflow run` does
    monkeypatch.delenv("MLFLOW_RUN_ID")
    with runs(uri, tmp_path) as second, second.step("train", "k", {}):
        pass
    found = client.get_run(launched)
    assert (found.info.status, found.data.tags[ENDED_TAG]) == ("KILLED", "interrupted")


def test_a_failed_step_fails_its_pipeline(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError), runs(uri, tmp_path) as found, found.step("prepare", "k", {}):
        raise UserError("no")
    assert statuses(connect(uri)) == {"p": "FAILED", "prepare": "FAILED"}


def test_a_store_that_goes_away_costs_no_step(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done = []
    with runs(uri, tmp_path) as found:
        with found.step("prepare", "k", {}):
            pass
        away = OSError("the network is down")

        def fail(*_: object, **__: object) -> None:
            raise away

        for name in ("create_run", "set_terminated", "log_metric"):
            monkeypatch.setattr(found._client, name, fail, raising=True)
        with found.step("train", "k", {}) as run_id:
            done.append(run_id)
            assert found.below("pair") is None
    assert done == [None]
    assert "the network is down" in caplog.text
    with runs(uri, tmp_path) as later, later.step("train", "k", {}):
        pass  # and what could not be closed then is closed now
    assert "RUNNING" not in statuses(connect(uri)).values()


def test_a_training_that_is_broken_off_goes_on_in_its_run(uri: str, tmp_path: Path) -> None:
    client = connect(uri)
    with runs(uri, tmp_path) as found:
        with found.step("train", "k", {}) as first:
            pair = found.below("pair")
        assert pair is not None
        with found.step("train", "k", {}) as second:
            found.adopt(pair)
            found.adopt("offline-" + "0" * 32)  # no store knows it yet: nothing is said
            assert client.get_run(pair).data.tags[PARENT_TAG] == second != first
            found.settle(pair, KeyboardInterrupt())
    assert client.get_run(pair).info.status == "KILLED"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_does_not_break_into_the_cleaning_up(number: signal.Signals) -> None:
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        finally:
            for again in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), again)
            time.sleep(0.01)
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stoppable():
        work()
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("status", "raised"), [(0, None), (2, UserError), (training.INTERRUPTED, KeyboardInterrupt)])
def test_how_a_training_ended(
    status: int, raised: type[BaseException] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stand_in.py").write_text(f"raise SystemExit({status})")
    monkeypatch.setattr(training, "PROGRAM", "stand_in")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if raised is None:
        training.train([], tmp_path, "pair", "", Unrecorded())
    else:
        with pytest.raises(raised):
            training.train([], tmp_path, "pair", "", Unrecorded())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children only there")
def test_a_training_does_not_outlive_a_pipeline_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "stand_in.py").write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    code = (
        "import pathlib\nfrom musubi_ext.pipeline import training, runs\ntraining.PROGRAM = 'stand_in'\n"
        "training.train([], pathlib.Path('.'), 'pair', '', runs.Unrecorded())\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    _wait(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text() != "")
    child = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    try:
        _wait(lambda: not _alive(child))
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
