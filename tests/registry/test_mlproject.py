"""The MLflow project: its commands are ones that our own parsers accept, run where the folders they name are."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from musubi_ext.pipeline.command import build_parser
from musubi_ext.pipeline.settings import STEPS, Settings

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "mlflow_projects"
ENTRIES = (*STEPS, "pipeline")


def command(entry: str, folder: Path, **parameters: str) -> list[str]:
    """What MLflow would run for an entry point, without the step to the repository's root that each begins with."""
    from mlflow.projects._project_spec import load_project

    words = shlex.split(load_project(str(PROJECT)).get_entry_point(entry).compute_command(parameters, str(folder)))
    assert words[:4] == ["cd", "..", "&&", "exec"]
    return words[4:]


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_point_without_parameters_is_the_pipelines_default(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = command(entry, tmp_path)
    assert words[:4] == ["python", "-m", "musubi_ext.pipeline", entry]
    args = build_parser().parse_args(words[3:])
    monkeypatch.chdir(ROOT)
    assert Settings.parse(args) == Settings()


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_setting_is_a_parameter_and_reaches_the_pipeline(entry: str, tmp_path: Path) -> None:
    declared = yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"][entry]["parameters"]
    assert set(declared) == {field.name for field in fields(Settings)} - {"workers"}
    given = {name: "11" if name in ("clips", "network_dim", "steps", "seed") else f"some {name}" for name in declared}
    given |= {"require_approval": "yes", "device": "cuda", "train_flags": "--preset 24gb --sdpa"}
    args = build_parser().parse_args(command(entry, tmp_path, **given, workers="3")[3:])
    assert {name: str(getattr(args, name)) for name in declared} == given
    assert args.workers == 3  # a parameter that is not declared is appended as a flag


def test_the_training_is_one_that_the_trainer_accepts(tmp_path: Path) -> None:
    from musubi_ext.hosts.arguments import parse
    from musubi_ext.pipeline.steps import training_words

    settings = Settings(output_dir=str(tmp_path), network_dim=8, train_flags="--learning_rate 1e-4 --no_bands")
    args = parse(training_words(settings, "sqlite:///x.db", "e"))
    assert (args.network_dim, args.network_alpha, args.max_train_steps, args.seed) == (8, 8, 450, 42)
    assert (args.learning_rate, args.no_bands, args.parallel_experts, args.resume) == (1e-4, True, True, "auto")


def test_demo_is_a_command_that_the_command_line_accepts(tmp_path: Path) -> None:
    from musubi_ext.cli import build_parser as of_command_line

    words = command("demo", tmp_path)
    assert words[0] == "musubi-ext"
    assert str(of_command_line().parse_args(words[1:]).out) == "runs/demo"


def test_the_environment_has_a_python_that_we_support() -> None:
    environment = yaml.safe_load((PROJECT / "python_env.yaml").read_text())
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert required == f">={environment['python']},<3.13"
    assert environment["dependencies"] == ["-e .."]


def test_mlflow_runs_it(migrated_store: Path, tmp_path: Path) -> None:
    """For real, as far as a step that has nothing to work on: it is FAILED, and so is the run that MLflow opened."""
    uri = f"sqlite:///{shutil.copy(migrated_store, tmp_path / 'mlflow.db')}"
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment |= {"MLFLOW_TRACKING_URI": uri, "PATH": path, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "mlflow", "run", "mlflow_projects", "-e", "promote", "--env-manager", "local"]
    words += ["--experiment-name", "project", "-P", f"output_dir={tmp_path / 'out'}"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "run the step train first" in done.stderr
    client = MlflowClient(tracking_uri=uri)
    step, parent = client.search_runs([client.get_experiment_by_name("project").experiment_id])
    assert step.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert {step.info.status, parent.info.status} == {"FAILED"}
    assert parent.data.params["name"] == "circle-rotate"
