"""The run tree in a real store: what went in comes back once, and every run ends with a true status."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow.data
import pytest
from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.registry.replay import look, replay
from musubi_ext.registry.tracking import PairTracking

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)


def children(client: MlflowClient, parent: PairTracking) -> dict[str, object]:
    runs = client.search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    return {run.data.tags["expert"]: run for run in runs}


def test_run_tree_params_metrics_and_artifacts(uri: str, tmp_path: Path) -> None:
    strip = tmp_path / "strip.png"
    strip.write_bytes(b"picture")
    with PairTracking(uri, run_name="orbit") as parent:
        parent.log_params({"network_dim": 16, "sizes": [64, 64]})
        parent.log_dataset("pocket", "f" * 64, tmp_path / "pocket.toml", {"clips": 20})
        parent.log_artifact(strip, "filmstrips")
        for name in ("high", "low"):
            expert = parent.expert(name)
            for step in range(1, 31):
                expert.log_metrics({"loss": 1 / step, "lr": 1e-3}, step)
            expert.close()
    client = MlflowClient(uri)
    run = client.get_run(parent.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"network_dim": "16", "sizes": "[64, 64]"}
    assert run.data.tags["dataset.fingerprint"] == "f" * 64
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.digest == "f" * 36
    assert json.loads(used.dataset.profile) == {"fingerprint": "f" * 64, "clips": 20}
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert mlflow.data.get_source(used).uri == str(tmp_path / "pocket.toml")
    assert (tmp_path / "mlartifacts" / parent.run_id / "artifacts/filmstrips/strip.png").read_bytes() == b"picture"
    tree = children(client, parent)
    assert sorted(tree) == ["high", "low"]
    for child in tree.values():
        assert child.info.status == "FINISHED"
        history = client.get_metric_history(child.info.run_id, "loss")
        assert [(point.step, point.value) for point in history] == [(step, 1 / step) for step in range(1, 31)]
    assert parent.unsent == 0
    assert not parent.spool_path.exists()


def test_more_than_one_call_carries_and_odd_numbers(uri: str) -> None:
    with PairTracking(uri) as parent:
        parent.log_params({f"p{index:03d}": index for index in range(230)})
        parent.log_metrics({f"m{index:04d}": index for index in range(1100)}, 1)
        parent.log_metrics({"loss": math.nan}, 2)
    data = MlflowClient(uri).get_run(parent.run_id).data
    assert len(data.params) == 230
    assert len(data.metrics) == 1101
    assert math.isnan(data.metrics["loss"])


def test_long_param_is_kept_whole_and_said(uri: str, tmp_path: Path) -> None:
    prompt = "circle " * 2000
    with PairTracking(uri) as parent:
        parent.log_params({"sample_prompts": prompt})
    client = MlflowClient(uri)
    said = client.get_run(parent.run_id).data.params["sample_prompts"]
    assert said == "14000 characters: see artifact long_params/sample_prompts.txt"
    assert Path(client.download_artifacts(parent.run_id, said.split()[-1], str(tmp_path))).read_text() == prompt


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("boom"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(0), "FINISHED"),
    ],
)
def test_status_tells_how_the_block_was_left(uri: str, error: BaseException, status: str) -> None:
    parent = PairTracking(uri)

    def train() -> None:
        with parent:
            parent.expert("high").close()
            parent.expert("low").log_metrics({"loss": 1.0}, 1)
            raise error

    with pytest.raises(type(error)):
        train()
    tree = children(MlflowClient(uri), parent)
    assert MlflowClient(uri).get_run(parent.run_id).info.status == status
    assert tree["high"].info.status == "FINISHED"  # it had ended before
    assert tree["low"].info.status == status


CHILD = """
import sys, time
from musubi_ext.termination import terminable
from musubi_ext.registry.tracking import PairTracking
with terminable(), PairTracking(sys.argv[1], parent_run_id=sys.argv[2]) as tracking:
    expert = tracking.expert("high")
    expert.log_metrics({"loss": 0.5}, 1)
    print(expert.run_id, flush=True)
    time.sleep(600)
"""


@contextmanager
def expert_process(uri: str, parent: PairTracking) -> Iterator[subprocess.Popen[str]]:
    """A process that trains one expert of `parent`; gone afterwards, however the test ends."""
    command = [sys.executable, "-c", CHILD, uri, parent.run_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_sigterm_in_a_child_process_leaves_killed_and_the_parent_open(uri: str) -> None:
    with PairTracking(uri) as parent, expert_process(uri, parent) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        # Seconds on an idle machine; a process of low priority on a busy one was seen to need minutes just to exit.
        assert process.wait(timeout=300) == -signal.SIGINT  # as a program that Ctrl-C ended
        run = MlflowClient(uri).get_run(run_id)
        assert run.info.status == "KILLED"
        assert run.data.metrics == {"loss": 0.5}
        assert run.data.tags["mlflow.parentRunId"] == parent.run_id
        assert MlflowClient(uri).get_run(parent.run_id).info.status == "RUNNING"
    assert MlflowClient(uri).get_run(parent.run_id).info.status == "FINISHED"


def test_continuing_a_run_keeps_its_children(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with PairTracking(uri) as first:
        child = first.expert("high")
        child.log_metrics({"loss": 1.0}, 1)
    monkeypatch.setenv("MLFLOW_RUN_ID", first.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # as `mlflow run` sets both
    with PairTracking(uri) as second:
        assert second.run_id == first.run_id
        again = second.expert("high")
        assert again.run_id == child.run_id
        again.log_metrics({"loss": 0.5}, 2)
    history = MlflowClient(uri).get_metric_history(child.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]


def test_a_launched_run_of_another_store_is_not_ours(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlflow run` names its run and its store; who writes elsewhere, as the demo does, opens a run there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with PairTracking(uri) as tracking:
        assert tracking.run_id != "0" * 32


def test_a_refused_event_is_kept_and_its_neighbours_arrive(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    with PairTracking(uri) as parent:
        parent.log_metrics({"loss": 1.0, "not=allowed": 2.0}, 1)
        parent.log_artifact("gone.png")
        parent.log_metrics({"loss": 0.5}, 2)
    assert parent.unsent == 2
    assert '2 events were not sent (MlflowException: Invalid value "not=allowed"' in caplog.text
    kept = [json.loads(line) for line in (parent.spool_path / "refused.jsonl").read_text().splitlines()]
    assert [(event["kind"], event["step"]) for event in kept] == [("metrics", 1), ("artifact", 0)]
    history = MlflowClient(uri).get_metric_history(parent.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]
    assert MlflowClient(uri).get_run(parent.run_id).info.status == "FINISHED"


def test_what_comes_after_the_end_is_kept(uri: str) -> None:
    with PairTracking(uri) as parent:
        high = parent.expert("high")
    assert not parent.spool_path.exists()
    high.log_metrics({"loss": 1.0}, 9)
    (found,) = look(parent.spool_path)
    assert (found.state, found.unsent) == ("ended", 1)
    assert replay(found).left == 0
    (point,) = MlflowClient(uri).get_metric_history(high.run_id, "loss")
    assert (point.step, point.value) == (9, 1.0)
    assert MlflowClient(uri).get_run(high.run_id).info.status == "FINISHED"


def test_an_unknown_run_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="run " + "0" * 32):
        PairTracking(uri, run_id="0" * 32)
    with pytest.raises(UserError, match="32 hexadecimal digits"):
        PairTracking(uri, run_id="../../etc")
    with pytest.raises(UserError, match="experiment 'xxx"):
        PairTracking(uri, experiment="x" * 1000)


def test_logging_costs_the_training_thread_little(uri: str) -> None:
    taken = []
    with PairTracking(uri) as parent:
        for step in range(1000):
            began = time.perf_counter()
            parent.log_metrics({"loss": 1.0}, step)
            taken.append(time.perf_counter() - began)
    # The median, so that other processes do not decide: about 3 µs, where a call that waits for the store takes 8 ms.
    assert statistics.median(taken) < 50e-6
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "5"
