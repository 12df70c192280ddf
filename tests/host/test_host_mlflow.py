"""`--log_with mlflow --log_tracker_config`: through accelerate by upstream's own trainer, and by ours, the same run."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from host_data import make_data, train_words
from mlflow import MlflowClient

from musubi_ext.schedule.experts import Expert
from musubi_ext.wan_train_network import main

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
    "ignore::ResourceWarning",  # MLflow's fluent interface leaves its SQLite connection open
)
TABLE = """
[mlflow]
run_name = "rank 4"
description = "second recipe"
tags = { team = "motion" }
"""


@pytest.fixture
def data(host: ModuleType, tiny_pipeline: Path, tmp_path: Path, process_left_alone: None) -> Path:
    return make_data(tmp_path / "set", tiny_pipeline)


@pytest.mark.parametrize("extension", ["off", "on"])
def test_the_table_makes_the_same_run(
    extension: str,
    host: ModuleType,
    data: Path,
    pocket_files: dict[Expert, Path],
    tiny_pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "tracker.toml").write_text(TABLE)
    # Upstream's parser refuses mlflow on the command line; a config file gets past its choices.
    (tmp_path / "run.toml").write_text(
        f'log_with = "mlflow"\nlog_tracker_name = "orbits"\nlog_tracker_config = "{tmp_path}/tracker.toml"\n'
    )
    more = ("--config_file", str(tmp_path / "run.toml"), "--extension", extension, "--max_train_steps", "2")
    words = train_words(data, tiny_pipeline, tmp_path / "out", *more)
    words.remove("--no_mlflow")
    if extension == "off":  # upstream trains on files in its own layouts
        for flag, path in (("--dit", pocket_files[Expert.LOW]), ("--dataset_config", data / "plain.toml")):
            words[words.index(flag) + 1] = str(path)
        host.WAN_CONFIGS.pop("pocket-i2v", None)  # as in a process of its own
    assert main(words) == 0
    run = pair_run(MlflowClient(uri))
    assert run.info.run_name == "rank 4"
    assert run.data.tags["team"] == "motion"
    assert run.data.tags["mlflow.note.content"] == "second recipe"
    if extension == "on":  # upstream records arguments with --log_config alone
        assert run.data.params["network_dim"] == "4"
    assert run.info.status == "FINISHED"


def pair_run(client: MlflowClient) -> Any:
    (experiment,) = client.search_experiments(filter_string="name = 'orbits'")
    (run,) = [run for run in client.search_runs([experiment.experiment_id]) if "expert" not in run.data.tags]
    return run
