"""Real trainings whose MLflow server, or who themselves, are killed: the adapter is the untracked one, nothing is lost.

MUSUBI_EXT_TORTURE=10 kills the trainer ten times; two times otherwise.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_server import Server

from musubi_ext.hosts.pocket import PocketTrainer
from musubi_ext.registry.replay import look, replay
from musubi_ext.wan_train_network import main

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)
Arguments = Callable[..., list[str]]
STEPS = 300
KILLS = int(os.environ.get("MUSUBI_EXT_TORTURE", "2"))


@pytest.fixture
def words(words_of: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arguments:
    """The command of a training that is tracked; runs in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def build(out: str, *more: str) -> list[str]:
        return [word for word in words_of(tmp_path / out) if word != "--no_mlflow"] + list(more)

    return build


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Not started."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    made = Server(tmp_path, port)
    yield made
    made.kill()


def told(uri: str, name: str) -> dict[str, dict[str, list[int]]]:
    """expert → metric → steps, in order; one run of each in the experiment `name`."""
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string=f"name = '{name}'")
    runs = client.search_runs([experiment.experiment_id])
    found: dict[str, dict[str, list[int]]] = {}
    for run in runs:
        expert = run.data.tags.get("expert", "pair")
        assert expert not in found
        assert run.info.status == "FINISHED", expert
        history = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        found[expert] = {key: sorted(point.step for point in points) for key, points in history.items()}
    return found


def check(steps: dict[str, list[int]], last: int) -> None:
    """Every number of every step exactly once."""
    every = ["loss", "lr", "gradient_norm", "step_seconds", "seconds_per_clip", "timestep/mean"]
    for key in [*every, *(key for key in steps if key.startswith("band/"))]:
        assert steps[key] == list(range(1, last + 1)), key
    assert any(key.startswith("band/") for key in steps)
    assert steps["val/loss"] == sorted({0, *range(200, last, 200), last})
    for key, found in steps.items():
        assert len(found) == len(set(found)), key


def test_a_server_that_is_absent_or_dies_changes_nothing_and_misses_nothing(
    words: Arguments, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not there from the start to the end of 300 steps; then SIGKILLed for the middle third of 300 others."""
    length = ("--experts", "low", "--max_train_steps", str(STEPS))
    tracked = (*length, "--mlflow_tracking_uri", server.uri)
    assert main(words("untracked", *length, "--no_mlflow")) == 0
    assert main(words("absent", *tracked, "--mlflow_experiment", "absent")) == 0
    (found,) = look(tmp_path)
    assert found.contents.delivered == 0

    server.start()
    done, original = 0, PocketTrainer.batch_done

    def watched(self: PocketTrainer, *args: Any) -> None:
        nonlocal done
        original(self, *args)
        done += 1
        if done == STEPS // 3:
            server.kill()
        elif done == 2 * STEPS // 3:
            server.start()

    monkeypatch.setattr(PocketTrainer, "batch_done", watched)
    assert main(words("dies", *tracked, "--mlflow_experiment", "dies")) == 0
    assert done == STEPS
    for found in look(tmp_path):
        assert replay(found).left == 0
    for name in ("absent", "dies"):
        assert adapters(tmp_path / name) == adapters(tmp_path / "untracked")
        runs = told(server.uri, name)
        assert runs.keys() == {"pair", "low"}
        check(runs["low"], STEPS)


def train(words: list[str], log: str) -> None:
    """In a child: the command line, its output in a file."""
    with open(log, "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    raise SystemExit(main(words))


def test_a_killed_trainer_goes_on_in_its_runs(words: Arguments, tmp_path: Path) -> None:
    """SIGKILL at random moments of both phases, one after another; then to the end."""
    steps = 30 + 9 * KILLS
    length = ("--max_train_steps", str(steps), "--save_state_every_n_steps", "5", "--resume", "auto")
    assert main(words("whole", *length, "--no_mlflow")) == 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["musubi_ext.hosts.pocket", "musubi_ext.registry.tracking", "peft", "accelerate"])
    log, rng, killed, place = tmp_path / "log.txt", random.Random(0), 0, tmp_path / "out"
    for trial in range(KILLS):
        child = context.Process(target=train, args=(words("out", *length), str(log)))
        before, deadline = files(place), time.monotonic() + 240
        child.start()
        # Every other one as soon as the run file is there: while the runs are begun, or what was left is sent.
        begun = {"orbit.run.json"} if trial % 2 else set()
        while child.is_alive() and not files(place) - (before - begun) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.2 if trial % 2 else 0.8))
        if child.is_alive() and child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        killed += child.exitcode == -signal.SIGKILL
    print(f"{killed} of {KILLS} were killed before they were done")
    assert killed, log.read_text()
    assert main(words("out", *length)) == 0
    assert adapters(place) == adapters(tmp_path / "whole")
    runs = told(f"sqlite:///{tmp_path}/mlflow.db", "musubi-ext")
    assert runs.keys() == {"pair", "high", "low"}
    for expert in ("high", "low"):
        check(runs[expert], steps)
    assert look(tmp_path) == []


def files(folder: Path) -> set[str]:
    """What training has written whole: adapters, states, the run file."""
    return {path.name for path in folder.glob("[!.]*")}


def adapters(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
