"""`--log_tracker_config`, as accelerate's MLflow tracker reads its `[mlflow]` table, for our own runs in MLflow.

    [mlflow]
    run_name = "orbit, rank 16"
    description = "second recipe"
    tags = { team = "motion" }

accelerate takes the experiment from `--log_tracker_name`; so do we with `--log_with mlflow`. `experiment_name` and
`tracking_uri`, which it takes from the environment, may stand in the table as well. The command line wins.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from musubi_ext.errors import Problems
from musubi_ext.hosts.own_flags import nearest

DESCRIPTION_TAG = "mlflow.note.content"
_TYPES: dict[str, tuple[type, ...]] = {
    "experiment_name": (str,),
    "run_name": (str,),
    "run_id": (str,),
    "tracking_uri": (str,),
    "description": (str,),
    "tags": (dict, str),  # a table, or JSON in a string
    "logging_dir": (str,),  # where a new experiment keeps its artifacts
    "nested_run": (bool,),  # the experts' runs are nested below the pair's in any case
}
_FLAGS = {
    "experiment_name": "mlflow_experiment",
    "run_name": "mlflow_run_name",
    "tracking_uri": "mlflow_tracking_uri",
}


def apply_tracker_config(args: Namespace, default: Callable[[str], Any], problems: Problems) -> None:
    """Fill in what the command line left to the table, and `args.mlflow_options` for what has no flag.

    `default`: a flag's value where it is not given. Records a problem for every key that is unknown or of another type.
    """
    table = _table(args.log_tracker_config, problems)
    if args.log_with == "mlflow" and args.log_tracker_name:
        table.setdefault("experiment_name", args.log_tracker_name)
    for key, flag in _FLAGS.items():
        if key in table and getattr(args, flag) == default(flag):
            setattr(args, flag, table[key])
    options = {key: table[key] for key in ("run_id",) if key in table}
    if "logging_dir" in table:
        place = table["logging_dir"]
        options["artifacts"] = place if "://" in place else Path(place).absolute().as_uri()
    tags = {**table.get("tags", {}), **({DESCRIPTION_TAG: table["description"]} if "description" in table else {})}
    if tags:
        options["tags"] = tags
    if options:
        args.mlflow_options = options


def _table(path: str | None, problems: Problems) -> dict[str, Any]:
    """The `[mlflow]` table; empty where there is none, or something is wrong with it."""
    if path is None:
        return {}
    import toml

    flag = f"--log_tracker_config {path}"
    try:
        table = toml.loads(Path(path).read_text(encoding="utf-8")).get("mlflow", {})
    except OSError as error:
        problems.add(flag, f"expected a TOML file: {error.strerror}")
        return {}
    except (ValueError, IndexError) as error:  # toml 0.10 lets an IndexError out of some malformed lines
        problems.add(flag, f"not valid TOML: {error}")
        return {}
    return _checked(dict(table), flag, problems)


def _checked(table: dict[str, Any], where: str, problems: Problems) -> dict[str, Any]:
    if isinstance(table.get("tags"), str):
        table["tags"] = _json(table["tags"])
    good: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _TYPES:
            problems.add(f"{where} mlflow.{key}", "unknown key", nearest(key, _TYPES))
        elif not isinstance(value, _TYPES[key]) or (key == "tags" and isinstance(value, str)):
            problems.add(f"{where} mlflow.{key}", f"expected {_TYPES[key][0].__name__}, found {value!r}")
        else:
            good[key] = value
    return good


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
