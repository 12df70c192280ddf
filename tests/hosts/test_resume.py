"""A training that is broken off anywhere and started again ends as the uninterrupted one, to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from musubi_ext.adapters.files import read_lora
from musubi_ext.adapters.tensors import read_tensors
from musubi_ext.errors import UserError
from musubi_ext.hosts.arguments import parse
from musubi_ext.hosts.checkpoints import VALIDATION
from musubi_ext.hosts.jobs import Job
from musubi_ext.hosts.pocket import PocketTrainer
from musubi_ext.hosts.resolve import resolve
from musubi_ext.hosts.seam import NoTracking
from musubi_ext.hosts.state_policy import StatePolicy
from musubi_ext.hosts.states import read_state
from musubi_ext.wan_train_network import main

Arguments = Callable[..., list[str]]
# Five clips, one held out: one batch of four clips would be an epoch; batches of one make four.
LENGTH = ("--max_train_steps", "10", "--lr_scheduler", "cosine", "--validate_every_n_steps", "3")


class Killed(BaseException):
    """What nothing catches."""


class Mortal(PocketTrainer):
    """Dies after a number of batches."""

    batches = 10**9

    def batch_done(self, *args: Any, **kwargs: Any) -> None:
        super().batch_done(*args, **kwargs)
        self.batches -= 1
        if self.batches == 0:
            raise Killed


class Steps(NoTracking):
    """Remembers which step each number was told for."""

    def __init__(self) -> None:
        self.told: list[tuple[int, tuple[str, ...]]] = []

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.told.append((step, tuple(sorted(metrics))))


@pytest.fixture
def job(workshop: Path, words_of: Callable[..., list[str]], tmp_path: Path) -> Callable[..., Job]:
    """The high expert's job on batches of one clip, into a folder of `tmp_path`."""
    config = tmp_path / "ones.toml"
    config.write_text((workshop / "data.toml").read_text().replace("batch_size = 4", "batch_size = 1"))

    def build(folder: str, *words: str) -> Job:
        own = ("--dataset_config", str(config), "--experts", "high", *LENGTH, "--resume", "auto")
        return resolve(parse(words_of(tmp_path / folder, *own, *words))).jobs[0]

    return build


def mortal(job: Job, args: Namespace | None = None, steps: Steps | None = None) -> Mortal:
    """A trainer that goes on where the last one died."""
    return Mortal(job.phase, job.data, steps, policy=StatePolicy(args or Namespace(**vars(job.args)), job.settings))


def train(job: Job, batches: int | None = None) -> Steps:
    """Train, or die after so many batches."""
    args, steps = Namespace(**vars(job.args)), Steps()
    trainer = mortal(job, args, steps)
    trainer.batches = batches or 10**9
    random.seed(time.time_ns())  # nothing may hang on what the process did before
    torch.seed()
    try:
        trainer.train(args)
    except Killed:
        assert batches
    return steps


@pytest.mark.parametrize("words", [(), ("--gradient_accumulation_steps", "3", "--save_state_every_n_steps", "1")])
def test_killed_twice_anywhere_is_the_uninterrupted_run(job: Callable[..., Job], words: tuple[str, ...]) -> None:
    whole = job("whole", *words)
    steps = train(whole)
    expected = whole.path.read_bytes()
    for first, second in ((1, 2), (5, 3), (7, 6)):
        again = job(f"killed-{first}", *words)
        train(again, first)
        train(again, second)
        rest = train(again)
        assert again.path.read_bytes() == expected, (first, second)
        assert rest.told == steps.told[-len(rest.told) :]
        assert not list(again.path.parent.glob("*-state"))  # an expert that is done needs none


def test_killed_between_the_last_update_and_the_end_of_its_epoch(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--save_state_every_n_steps", "1")
    whole, again = job("whole", *words), job("again", *words)
    train(whole)

    def die(self: Mortal, args: Namespace, run: Any) -> None:
        if run.position.step == 10:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Mortal, "epoch_done", die)
        with pytest.raises(Killed):
            mortal(again).train(Namespace(**vars(again.args)))
    train(again)
    assert again.path.read_bytes() == whole.path.read_bytes()


def test_the_checkpoints_and_validations_are_those_of_the_uninterrupted_run(job: Callable[..., Job]) -> None:
    words = ("--save_every_n_steps", "2", "--save_state", "--save_every_n_epochs", "1")
    whole, again = job("whole", *words), job("again", *words)
    train(whole)
    train(again, 6)
    train(again)
    files = {path.name: path.read_bytes() for path in whole.path.parent.glob("*.safetensors")}
    assert {path.name: path.read_bytes() for path in again.path.parent.glob("*.safetensors")} == files
    assert len([name for name in files if "step" in name]) == 5
    history = json.loads(read_lora(again.path).metadata[VALIDATION])
    assert [step for step, _ in history] == [0, 3, 6, 9, 10]
    states = {path.name for path in again.path.parent.glob("*-state")}
    assert states == {path.name for path in whole.path.parent.glob("*-state")}


def test_a_half_written_state_is_skipped_for_the_one_before(job: Callable[..., Job]) -> None:
    whole, again = job("whole"), job("again", "--save_state_every_n_steps", "2")
    train(whole)
    train(again, 7)
    newest = again.path.parent / "orbit_h-step00000006-state"
    content = (newest / "adapter.safetensors").read_bytes()
    (newest / "adapter.safetensors").write_bytes(content[:-1])
    said: list[str] = []
    state = StatePolicy(again.args, again.settings, said.append).start()
    assert state is not None
    assert state.position.step == 4
    assert "orbit_h-step00000006-state/adapter.safetensors: damaged" in said[0]
    train(again)
    assert again.path.read_bytes() == whole.path.read_bytes()


def test_only_the_last_two_states_are_kept_and_each_is_whole(job: Callable[..., Job]) -> None:
    again = job("again", "--save_state_every_n_steps", "1")
    train(again, 9)
    states = sorted(again.path.parent.glob("*-state"))  # it died before the ninth
    assert [path.name for path in states] == ["orbit_h-step00000007-state", "orbit_h-step00000008-state"]
    assert [read_state(path).position.step for path in states] == [7, 8]


def test_what_a_killed_process_left_half_done_is_swept(job: Callable[..., Job]) -> None:
    again = job("again", "--save_state_every_n_steps", "2")
    train(again, 5)
    folder = again.path.parent
    for name in (".orbit_h-step00000002-state.replaced", ".orbit_h-step00000006-state.partial"):
        (folder / name).mkdir()
        (folder / name / "adapter.safetensors").write_bytes(b"half")
    (folder / ".orbit_h-best.51a415a9.safetensors").write_bytes(b"half")
    train(again)
    assert {path.name for path in folder.iterdir()} <= {"orbit_h.safetensors", "orbit_h-best.safetensors"}


def test_other_settings_are_refused_with_every_difference(job: Callable[..., Job]) -> None:
    train(job("again"), 6)
    other = job("again", "--learning_rate", "1e-4", "--network_dim", "8")
    with pytest.raises(UserError) as error:
        train(other)
    assert "learning_rate 0.002 → 0.0001" in str(error.value)
    assert "network_dim 4 → 8" in str(error.value)


def test_a_folder_that_is_no_state_is_refused(job: Callable[..., Job], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found neither"):
        train(job("out", "--resume", str(tmp_path / "none")))
    (tmp_path / "upstream-state").mkdir()
    with pytest.raises(UserError, match="not a state of musubi-ext"):
        train(job("out", "--resume", str(tmp_path / "upstream-state")))


def test_patience_ends_an_expert_early_and_the_best_is_marked(job: Callable[..., Job]) -> None:
    words = ("--learning_rate", "5", "--validate_every_n_steps", "1", "--early_stop_patience", "2")
    early = job("early", *words)  # so large a rate soon makes every validation worse than the one before
    train(early)
    metadata = read_lora(early.path).metadata
    best_step = json.loads(metadata["ss_best_validation"])[0]
    assert int(metadata["ss_steps"]) == best_step + 2 < 10
    losses = dict(json.loads(metadata[VALIDATION]))
    assert min(losses, key=losses.__getitem__) == best_step
    train(job("slow", "--learning_rate", "1e-3", "--validate_every_n_steps", "3"))
    best = read_lora(early.path.parent.parent / "slow" / "orbit_h-best.safetensors").metadata
    assert int(best["ss_steps"]) == json.loads(best["ss_best_validation"])[0]


def test_sigkill_at_random_moments_over_both_experts(argv: Arguments, tmp_path: Path) -> None:
    words = argv("--max_train_steps", "40", "--resume", "auto", "--save_state_every_n_steps", "5")
    assert _start(words).wait(120) == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.safetensors")}
    words[words.index("--output_dir") + 1] = str(tmp_path / "killed")
    rng = random.Random(0)
    for _ in range(2):
        _kill_after_a_while(words, tmp_path / "killed", rng.uniform(0.0, 0.6))
    assert _start(words).wait(120) == 0
    for name, content in expected.items():
        _assert_same(tmp_path / "killed" / name, tmp_path / "out" / name)
        assert (tmp_path / "killed" / name).read_bytes() == content
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == sorted([*expected, "orbit.pair.json"])


def test_a_killed_run_goes_on_in_mlflow_without_gap_or_double(
    words_of: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    length = ("--max_train_steps", "30", "--validate_every_n_steps", "7", "--resume", "auto")
    words = [word for word in words_of(tmp_path / "out", *length) if word != "--no_mlflow"]
    words += ["--save_state_every_n_steps", "10"]
    _kill_after_a_while(words, tmp_path / "out", 0.0, wait_for="*-state")
    killed = json.loads((tmp_path / "out" / "orbit.run.json").read_text())["run_id"]
    assert main(words) == 0
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("musubi-ext")
    runs = {run.data.tags.get("expert", "pair"): run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"pair", "high", "low"}
    assert runs["pair"].info.run_id == killed
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for expert in ("high", "low"):
        history = client.get_metric_history(runs[expert].info.run_id, "loss")
        assert [point.step for point in history] == list(range(1, 31))
        validations = client.get_metric_history(runs[expert].info.run_id, "val/loss")
        assert [point.step for point in validations] == [0, 7, 14, 21, 28, 30]
    assert not (tmp_path / "out" / "orbit.run.json").exists()


def _assert_same(found: Path, expected: Path) -> None:
    """Says which entry or tensor differs, where comparing bytes would say only that one does."""
    (tensors, metadata), (wanted, said) = read_tensors(found), read_tensors(expected)
    assert metadata == said
    assert tensors.keys() == wanted.keys()
    differing = {name: float((tensors[name] - wanted[name]).abs().max()) for name in wanted}
    assert not {name: most for name, most in differing.items() if most}


def _start(words: list[str]) -> subprocess.Popen[bytes]:
    """A training in a process of its own: what other tests did to this one does not reach it."""
    command = [sys.executable, "-m", "musubi_ext.wan_train_network", *words]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _kill_after_a_while(words: list[str], folder: Path, seconds: float, wait_for: str = "*") -> None:
    """SIGKILL so long after the first new state or adapter has appeared."""
    before = set(folder.glob(wait_for)) if folder.is_dir() else set()
    process = _start(words)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if folder.is_dir() and set(folder.glob(wait_for)) - before:
            time.sleep(seconds)
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
