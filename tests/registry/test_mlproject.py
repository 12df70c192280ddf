"""The MLflow project: it parses, and what it runs exists."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "mlflow_projects"


def test_entry_points_give_whole_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.projects._project_spec import load_project

    monkeypatch.chdir(PROJECT.parent)  # a parameter of type path is looked up from where mlflow was started
    project = load_project(str(PROJECT))
    train = shlex.split(project.get_entry_point("train").compute_command({"network_dim": "8"}, str(tmp_path)))
    assert train[:3] == ["python", "-m", "musubi_ext.wan_train_network"]
    assert Path(train[train.index("--dataset_config") + 1]).is_file()
    assert train[train.index("--network_dim") + 1] == "8"
    demo = shlex.split(project.get_entry_point("demo").compute_command({}, str(tmp_path)))
    assert demo == ["musubi-ext", "demo", "--out", "../runs/demo"]
    assert (PROJECT / "python_env.yaml").is_file()
