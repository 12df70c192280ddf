"""`--log_tracker_config`: accelerate's `[mlflow]` table for our own runs, read without the host."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from musubi_ext.errors import Problems
from musubi_ext.hosts.musubi.tracker_config import apply_tracker_config

TABLE = """
[wandb]
name = "elsewhere"
[mlflow]
experiment_name = "orbits"
run_name = "rank 16"
tracking_uri = "http://tracking:5000"
description = "second recipe"
tags = { team = "motion" }
nested_run = true
logging_dir = "{folder}"
"""
DEFAULTS = {"mlflow_experiment": "musubi-ext", "mlflow_run_name": None, "mlflow_tracking_uri": None}


def applied(path: Path | None, **given: object) -> tuple[Namespace, list[str]]:
    args = Namespace(log_tracker_config=path and str(path), log_with="mlflow", log_tracker_name=None, **DEFAULTS)
    vars(args).update(given)
    problems = Problems()
    apply_tracker_config(args, DEFAULTS.__getitem__, problems)
    return args, problems.found


def test_the_table_fills_in_what_no_flag_says(tmp_path: Path) -> None:
    path = tmp_path / "tracker.toml"
    path.write_text(TABLE.replace("{folder}", str(tmp_path / "artifacts")))
    args, problems = applied(path, mlflow_run_name="given", log_tracker_name="named")
    assert problems == []
    assert (args.mlflow_experiment, args.mlflow_run_name) == ("orbits", "given")
    assert args.mlflow_tracking_uri == "http://tracking:5000"
    assert args.mlflow_options == {
        "artifacts": (tmp_path / "artifacts").as_uri(),
        "tags": {"team": "motion", "mlflow.note.content": "second recipe"},
    }


def test_without_a_table_the_tracker_s_name_is_the_experiment(tmp_path: Path) -> None:
    args, problems = applied(None, log_tracker_name="named")
    assert (args.mlflow_experiment, problems) == ("named", [])
    assert not hasattr(args, "mlflow_options")
    args, _ = applied(None, log_tracker_name="named", log_with="wandb")  # the name is wandb's project then
    assert args.mlflow_experiment == "musubi-ext"


def test_tags_may_be_json_and_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tracker.toml"
    path.write_text('[mlflow]\ntags = \'{"team": "motion"}\'\nrun_nme = "x"\nrun_id = 7\n')
    args, problems = applied(path)
    assert args.mlflow_options == {"tags": {"team": "motion"}}
    where = f"--log_tracker_config {path} mlflow"
    assert problems == [
        f"{where}.run_nme: unknown key (did you mean run_name?)",
        f"{where}.run_id: expected str, found 7",
    ]
    path.write_text("[mlflow\n")
    assert "not valid TOML" in applied(path)[1][0]
    assert "expected a TOML file" in applied(tmp_path / "none.toml")[1][0]
