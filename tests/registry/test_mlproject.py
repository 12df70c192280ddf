"""The MLflow project: its commands are ones that our own parsers accept, run where the folders they name are."""

from __future__ import annotations

import shlex
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "mlflow_projects"


def command(entry: str, folder: Path, **parameters: str) -> list[str]:
    """What MLflow would run for an entry point, without the step to the repository's root that each begins with."""
    from mlflow.projects._project_spec import load_project

    words = shlex.split(load_project(str(PROJECT)).get_entry_point(entry).compute_command(parameters, str(folder)))
    assert words[:3] == ["cd", "..", "&&"]
    return words[3:]


def test_train_is_a_command_that_the_trainer_accepts(tmp_path: Path) -> None:
    from musubi_ext.hosts.arguments import build_parser

    words = command("train", tmp_path, network_dim="8")
    assert words[:3] == ["python", "-m", "musubi_ext.wan_train_network"]
    args = build_parser().parse_args(words[3:])
    assert (args.network_dim, args.max_train_epochs, args.seed) == (8, 1, 42)
    assert (PROJECT.parent / args.dataset_config).is_file()


def test_demo_is_a_command_that_the_command_line_accepts(tmp_path: Path) -> None:
    from musubi_ext.cli import build_parser

    words = command("demo", tmp_path)
    assert words[0] == "musubi-ext"
    assert str(build_parser().parse_args(words[1:]).out) == "runs/demo"
