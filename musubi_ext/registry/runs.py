"""How a pair's runs are found again in a store: by tags that they were made with, never by what we remember."""

from __future__ import annotations

import re
from typing import Any

from mlflow import MlflowClient

from musubi_ext.registry.names import check_run_id

OFFLINE = "offline-"  # begins the id of a run that no store knows yet; our key of the run follows
PARENT_TAG = "mlflow.parentRunId"
EXPERT_TAG = "expert"
KEY_TAG = "musubi_ext.key"
_KEY = re.compile(r"[0-9a-f]{32}")


def resolve_run_id(client: MlflowClient, run_id: str) -> str | None:
    """The store's id of a run that began while the store was away (`offline-…`), None while it is not there.

    Any other id is returned as it is. Raises UserError for what is no run id, and MLflow's errors.
    """
    key = key_of(run_id)
    if not run_id.startswith(OFFLINE):
        return run_id
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    run = find_pair(client, experiments, key)
    return str(run.info.run_id) if run is not None else None


def key_of(run_id: str) -> str:
    """The key in an id of ours or the store's: its 32 hexadecimal digits. Raises UserError for another form."""
    return check_run_id(run_id.removeprefix(OFFLINE))


def find_pair(client: MlflowClient, experiments: list[str], key: str) -> Any | None:
    """The run that was created for `key`."""
    assert _KEY.fullmatch(key), key  # it goes into a query
    found = client.search_runs(experiments, f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    return found[0] if found else None


def find_child(client: MlflowClient, experiment: str, parent: str, expert: str) -> Any | None:
    """The run of `expert` ("high", "low") below the run `parent`; both are ids or words of ours."""
    query = f"tags.`{PARENT_TAG}` = '{check_run_id(parent)}' and tags.{EXPERT_TAG} = '{expert}'"
    found = client.search_runs([experiment], query, max_results=1)
    return found[0] if found else None
