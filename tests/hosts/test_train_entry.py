"""The entry point: one command, one verified pair; started again, nothing twice; wrong input, status 2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from musubi_ext import __version__
from musubi_ext.adapters.files import read_lora
from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.schedule.experts import Expert
from musubi_ext.wan_train_network import main

Arguments = Callable[..., list[str]]


def test_both_phases_make_a_pair_and_are_not_repeated(
    argv: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv("--training_comment", "trial")) == 0
    pair = AdapterPair.load(tmp_path / "out")
    manifest = pair.manifest
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "orbit_h.safetensors",
        "orbit_l.safetensors",
        "orbit.pair.json",
    }
    assert (manifest["task"], manifest["boundary"], manifest["name"]) == ("pocket-i2v", 0.9, "orbit")
    assert [manifest["experts"][name]["timestep_range"] for name in ("high", "low")] == [[0.9, 1.0], [0.0, 0.9]]
    assert [manifest["experts"][name]["steps"] for name in ("high", "low")] == [3, 3]
    assert (manifest["inference"]["shift"], manifest["inference"]["frames"]) == (5.0, 5)
    assert manifest["training"]["arguments"]["training_comment"] == "trial"
    assert [step for step, _ in manifest["training"]["validation"]["low"]] == [0, 3]
    assert any(pair.state_dict(Expert.HIGH)[key].any() for key in pair.state_dict(Expert.HIGH) if "lora_up" in key)
    metadata = read_lora(pair.files()["low"]).metadata
    assert (metadata["ss_expert"], metadata["ss_network_dim"]) == ("low", "4")

    before = {path: path.stat().st_mtime_ns for path in pair.files().values()}
    capsys.readouterr()
    assert main(argv("--training_comment", "trial")) == 0
    assert {path: path.stat().st_mtime_ns for path in pair.files().values()} == before
    assert capsys.readouterr().err.count("finished, kept as it is") == 2

    assert main(argv("--training_comment", "trial", "--learning_rate", "1e-3")) == 2
    message = capsys.readouterr().err
    assert "learning_rate 0.002 → 0.001" in message
    assert "--overwrite" in message
    assert main(argv("--learning_rate", "1e-3", "--overwrite")) == 0
    assert AdapterPair.load(tmp_path / "out").manifest["experts"] != manifest["experts"]


def test_one_expert_then_the_other(argv: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv("--experts", "high")) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["orbit_h.safetensors"]
    assert "no pair yet" in capsys.readouterr().err
    assert main(argv("--experts", "low")) == 0
    AdapterPair.load(tmp_path / "out")


def test_a_dry_run_says_everything_and_writes_nothing(
    argv: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv("--dry_run", "--full_range", "--max_train_epochs", "5")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(phase["expert"], phase["timesteps"], phase["steps"]) for phase in plan["phases"]] == [
        ("high", [0.0, 1000.0], 5),
        ("low", [0.0, 1000.0], 5),
    ]
    assert plan["arguments"]["network_dim"] == 4
    assert not (tmp_path / "out").exists()


def test_missing_caches_are_made_and_the_pair_has_its_own_name(argv: Arguments, workshop: Path, tmp_path: Path) -> None:
    text = (workshop / "data.toml").read_text().replace(str(workshop / "cache"), str(tmp_path / "cache"))
    (tmp_path / "fresh.toml").write_text(text)
    assert (
        main(argv("--dataset_config", str(tmp_path / "fresh.toml"), "--max_train_steps", "1", "--pair_name", "circle"))
        == 0
    )
    assert len(list((tmp_path / "cache").iterdir())) == 10
    assert AdapterPair.load(tmp_path / "out").path.name == "circle.pair.json"


def test_mistakes_are_all_reported_with_status_2(
    argv: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = argv("--dataset_config", str(tmp_path / "none.toml"), "--network_dim", "0", "--optimizer_type", "adamw8bit")
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (2 if torch.cuda.is_available() else 3)
    assert all(line.startswith("error: ") for line in lines)
    assert not (tmp_path / "out").exists()


def test_runs_are_tracked(argv: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    (tmp_path / "run.toml").write_text("learning_rate = 1e-3\n")
    flags = ("--mlflow_run_name", "trial", "--mlflow_experiment", "e", "--config_file", str(tmp_path / "run.toml"))
    words = [word for word in argv(*flags) if word != "--no_mlflow"]
    assert main(words) == 0
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("e")
    runs = {run.data.tags.get("expert", "pair"): run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"pair", "high", "low"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    high = runs["high"]
    assert {"loss", "lr", "step_seconds", "val/loss", "val/loss_t950"} <= high.data.metrics.keys()
    assert high.data.metrics["gradient_norm"] > 0
    assert high.data.metrics["seconds_per_clip"] == high.data.metrics["step_seconds"] / 4  # clips of a batch
    assert [point.step for point in client.get_metric_history(high.info.run_id, "loss")] == [1, 2, 3]
    assert [point.step for point in client.get_metric_history(high.info.run_id, "val/loss")] == [0, 3]
    assert (high.data.params["timestep_low"], high.data.params["rank"]) == ("0.9", "4")
    pair = AdapterPair.load(tmp_path / "out")
    assert pair.manifest["training"]["mlflow_run"] == runs["pair"].info.run_id
    params, tags = runs["pair"].data.params, runs["pair"].data.tags
    assert (params["max_train_steps"], params["learning_rate"]) == ("3", "0.001")
    assert (tags["musubi_ext.version"], tags["host"]) == (__version__, "pocket")
    assert tags["device"].startswith("cpu" if not torch.cuda.is_available() else "1 ×")
    assert {"mlflow.user", "mlflow.source.name"} <= tags.keys()
    (used,) = runs["pair"].inputs.dataset_inputs
    assert used.dataset.digest == pair.manifest["dataset_fingerprint"][:36]
    for folder, name in (("config", "run.toml"), ("dataset", "data.toml")):
        assert [item.path for item in client.list_artifacts(runs["pair"].info.run_id, folder)] == [f"{folder}/{name}"]
    assert runs["pair"].data.tags["dataset.fingerprint"] == pair.manifest["dataset_fingerprint"]
    stored = {item.path for item in client.list_artifacts(runs["pair"].info.run_id, "pair")}
    assert stored == {f"pair/{path.name}" for path in pair.files().values()}


def test_accelerate_launches_it(argv: Arguments) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    words = [*launcher, "-m", "musubi_ext.wan_train_network", *argv("--dry_run")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["task"] == "pocket-i2v"


def test_termination_ends_with_130_and_leaves_only_whole_files(argv: Arguments, tmp_path: Path) -> None:
    words = argv("--max_train_steps", "100000", "--save_every_n_steps", "1", "--experts", "low")
    process = subprocess.Popen(
        [sys.executable, "-m", "musubi_ext.wan_train_network", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    out, deadline = tmp_path / "out", time.monotonic() + 300
    while not (out.is_dir() and any(out.glob("orbit_l-step*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    message = process.communicate(timeout=300)[1]
    assert process.returncode == 130, message
    assert "Traceback" not in message
    for path in out.iterdir():
        assert not path.name.startswith(".")
        read_lora(path)
    assert not (out / "orbit_l.safetensors").exists()
