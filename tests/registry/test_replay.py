"""`musubi-ext track`: what dead runs left is sent, once, into the right runs, with a true end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from musubi_ext.cli import main
from musubi_ext.errors import UserError
from musubi_ext.registry.drain import Drain
from musubi_ext.registry.replay import look, replay
from musubi_ext.registry.runs import resolve_run_id
from musubi_ext.registry.spool import Spool
from musubi_ext.registry.tracking import PairTracking

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)
DYING = """
import os, signal, sys
from musubi_ext.registry.tracking import PairTracking
tracking = PairTracking(sys.argv[1], run_name="orbit", tags={"device": "cpu"})
tracking.log_params({"rank": 4})
high = tracking.expert("high")
high.close()
low = tracking.expert("low")
for step in range(1, 41):
    low.log_metrics({"loss": 1 / step}, step)
low.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def dead_run(uri: str) -> None:
    """A process that tells 40 steps, most of them too late for the sender, and dies."""
    assert subprocess.run([sys.executable, "-c", DYING, uri], check=False).returncode == -9


def tree(uri: str) -> dict[str, object]:
    """Runs by expert; there must be one of each."""
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'musubi-ext'")
    runs = client.search_runs([experiment.experiment_id])
    found = {run.data.tags.get("expert", "pair"): run for run in runs}
    assert len(found) == len(runs)
    return found


def points(uri: str, run: object) -> list[tuple[int, float]]:
    history = MlflowClient(uri).get_metric_history(run.info.run_id, "loss")  # type: ignore[attr-defined]
    return [(point.step, point.value) for point in history]


def test_replay_of_a_killed_run(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    died = time.time()
    dead_run(uri)
    assert main(["track", "status"]) == 1
    said = capsys.readouterr().out
    assert "(killed)" in said
    (found,) = look(tmp_path)
    assert f"unsent {found.unsent}" in said
    assert main(["track", "replay", "--dry-run"]) == 1
    assert "2 status" in capsys.readouterr().out.replace("3 status", "2 status")  # of low and the pair, perhaps of high
    assert look(tmp_path) == [found]

    assert main(["track", "replay"]) == 0
    assert ", 0 left" not in capsys.readouterr().out
    runs = tree(uri)
    assert {name: run.info.status for name, run in runs.items()} == {  # type: ignore[attr-defined]
        "pair": "KILLED",
        "high": "FINISHED",
        "low": "KILLED",
    }
    ended = runs["low"].info.end_time / 1000  # type: ignore[attr-defined]
    assert died - 1 < ended < died + 120  # when it died, not when it was replayed
    assert points(uri, runs["low"]) == [(step, 1 / step) for step in range(1, 41)]
    assert runs["pair"].data.params == {"rank": "4"}  # type: ignore[attr-defined]
    assert runs["pair"].data.tags["device"] == "cpu"  # type: ignore[attr-defined]
    assert main(["track", "replay"]) == 0
    assert "no spool" in capsys.readouterr().out


def test_what_was_sent_but_not_acknowledged_is_not_doubled(uri: str, tmp_path: Path) -> None:
    """Death between the answer of the store and our note of it, at the worst moment: nothing was noted at all."""
    dead_run(uri)
    (found,) = look(tmp_path)
    copy = tmp_path / "copy" / found.path.name
    shutil.copytree(found.path, copy)
    assert replay(found).left == 0
    before = {name: points(uri, run) for name, run in tree(uri).items()}
    (copy / "delivered.json").write_text('{"offset": 0, "runs": {}}')
    (again,) = look(copy)
    assert replay(again).left == 0
    assert {name: points(uri, run) for name, run in tree(uri).items()} == before


def test_nothing_is_doubled_in_a_store_that_keeps_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's file store appends whatever comes."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "files").as_uri()
    client = MlflowClient(uri)
    run = client.create_run("0").info.run_id
    for _ in range(2):
        client.log_metric(run, "loss", 1.0, timestamp=5, step=5)
    assert len(client.get_metric_history(run, "loss")) == 2
    spool = offline_spool(tmp_path)
    for _ in range(2):
        shutil.copytree(spool, tmp_path / "again", dirs_exist_ok=True)
        held = Spool.open(tmp_path / "again")
        assert held is not None
        held.runs.clear()
        Drain(held, client, uri).run()
        held.release()
    (found,) = client.search_runs([client.get_experiment_by_name("musubi-ext").experiment_id])
    assert [point.step for point in client.get_metric_history(found.info.run_id, "loss")] == list(range(10))


def offline_spool(folder: Path, port: int = 9) -> Path:
    """Ten steps of a run whose store was never there."""
    with PairTracking(f"http://127.0.0.1:{port}", spool_directory=folder / "kept", close_timeout=1) as tracking:
        for step in range(10):
            tracking.log_metrics({"loss": float(step)}, step)
    return tracking.spool_path


def test_a_resumed_run_goes_on_in_its_runs_though_both_began_offline(uri: str, tmp_path: Path, free_port: int) -> None:
    away = f"http://127.0.0.1:{free_port}"
    with PairTracking(away, close_timeout=1) as first:
        high = first.expert("high")
        for step in range(1, 8):
            high.log_metrics({"loss": float(step)}, step)
        first.close("KILLED")
    with PairTracking(away, run_id=first.run_id, resumed=True, close_timeout=1) as second:
        assert second.run_id == first.run_id
        again = second.expert("high")
        for step in range(5, 11):  # from the state at step 4
            again.log_metrics({"loss": float(step)}, step)
    (found,) = look(tmp_path)
    assert replay(found, uri).left == 0
    runs = tree(uri)
    assert resolve_run_id(MlflowClient(uri), first.run_id) == runs["pair"].info.run_id  # type: ignore[attr-defined]
    assert points(uri, runs["high"]) == [(step, float(step)) for step in range(1, 11)]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}  # type: ignore[attr-defined]
    with PairTracking(uri, run_id=first.run_id) as third:  # the offline id stays good
        assert third.run_id == runs["pair"].info.run_id  # type: ignore[attr-defined]


def test_a_resumed_run_is_running_again_and_open_experts_are_killed(uri: str, tmp_path: Path) -> None:
    dead_run(uri)
    (found,) = look(tmp_path)
    with PairTracking(uri, run_id=found.run_id, resumed=True) as tracking:
        high = tracking.expert("high")
        high.flush()
        time.sleep(1.5)  # the sender's pause
        runs = tree(uri)
        assert {name: run.info.status for name, run in runs.items()} == {  # type: ignore[attr-defined]
            "pair": "RUNNING",
            "high": "RUNNING",
            "low": "KILLED",
        }
    assert tree(uri)["pair"].info.status == "FINISHED"  # type: ignore[attr-defined]
    assert not (tmp_path / "mlflow_spool").exists()


def test_a_run_that_goes_on_beside_its_dead_spool_is_not_killed(uri: str, tmp_path: Path) -> None:
    """A child of the dead process may still hold the folder when the run is resumed: the next name is taken then."""
    dead_run(uri)
    (found,) = look(tmp_path)
    held = Spool.open(found.path)
    assert held is not None
    with PairTracking(uri, run_id=found.run_id, resumed=True) as tracking:
        assert tracking.spool_path.name == f"{found.key}-2"
        held.release()
        low = tracking.expert("low")
        for step in range(31, 51):
            low.log_metrics({"loss": 1 / step}, step)
        assert replay(look(found.path)[0]).reason == "another process goes on with the run"
    (found,) = look(tmp_path)
    assert replay(found).left == 0
    runs = tree(uri)
    assert {name: run.info.status for name, run in runs.items()} == {  # type: ignore[attr-defined]
        "pair": "FINISHED",
        "high": "FINISHED",
        "low": "FINISHED",
    }
    assert sorted(points(uri, runs["low"])) == [(step, 1 / step) for step in range(1, 51)]


def test_a_running_spool_is_left_alone(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with PairTracking(uri) as tracking:
        tracking.log_metrics({"loss": 1.0}, 1)
        assert main(["track", "replay"]) in (0, 1)
        assert main(["track", "status"]) in (0, 1)
        said = capsys.readouterr().out
        assert "running, process " in said
    assert points(uri, tree(uri)["pair"]) == [(1, 1.0)]


def test_another_store_than_the_run_began_in_is_refused(
    uri: str, migrated_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead_run(uri)
    shutil.copy(migrated_store, tmp_path / "other.db")
    assert main(["track", "replay", "--mlflow_tracking_uri", f"sqlite:///{tmp_path}/other.db"]) == 2
    assert "give the --mlflow_tracking_uri it began in" in capsys.readouterr().err
    with pytest.raises(UserError, match="expected a spool"):
        look(tmp_path / "nowhere")


def test_what_was_refused_is_tried_again(uri: str, tmp_path: Path) -> None:
    with PairTracking(uri) as tracking:
        tracking.log_artifact(tmp_path / "later.png")
        tracking.log_params({"rank": 4})
    (found,) = look(tmp_path)
    assert (found.unsent, found.refused) == (1, 1)
    assert replay(found).left == 1
    (tmp_path / "later.png").write_bytes(b"picture")
    assert replay(look(tmp_path)[0]).left == 0
    assert [item.path for item in MlflowClient(uri).list_artifacts(tracking.run_id)] == ["later.png"]


def test_a_param_that_changes_in_a_resumed_run_is_a_tag(uri: str) -> None:
    with PairTracking(uri) as first:
        first.log_params({"rank": 4, "parallel": False})
    with PairTracking(uri, run_id=first.run_id, resumed=True) as second:
        second.log_params({"rank": 4, "parallel": True, "more": 1})
    assert second.unsent == 0
    data = MlflowClient(uri).get_run(first.run_id).data
    assert data.params == {"rank": "4", "parallel": "False", "more": "1"}
    assert data.tags["changed_param.parallel"] == "True"


def test_no_password_is_kept(uri: str, tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    with PairTracking(f"http://me:secret@127.0.0.1:{free_port}", close_timeout=1) as tracking:
        tracking.log_metrics({"loss": 1.0}, 1)
    assert main(["track", "replay"]) == 2
    assert "--mlflow_tracking_uri" in capsys.readouterr().err
    events = [json.loads(line) for line in (tracking.spool_path / "events.jsonl").read_text().splitlines()]
    assert events[0]["content"]["uri"] == f"http://me:***@127.0.0.1:{free_port}"
    assert main(["track", "replay", str(tracking.spool_path), "--mlflow_tracking_uri", uri]) == 0
    assert points(uri, tree(uri)["pair"]) == [(1, 1.0)]
