"""What is asked of a store before a run's first event, and what a run is called before any store was asked."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.registry.runs import OFFLINE, key_of, resolve_run_id
from musubi_ext.registry.spool import SPOOLS
from musubi_ext.registry.store import (
    STORE_ERRORS,
    StoreAway,
    connect,
    experiment_id,
    first_line,
    no_answer,
    tracking_uri,
    without_password,
)


@dataclass(frozen=True)
class Start:
    """What the store says before the first event: nothing, with `away` saying why, where it does not answer."""

    client: MlflowClient | None = None
    run: Any | None = None
    experiment: str | None = None
    away: str | None = None


def ask(uri: str, known: str | None, experiment: str, artifacts: str | None) -> Start:
    """Whether the store is there, and knows the run and the experiment. Raises UserError for what it refuses."""
    if known is not None:
        key_of(known)
    try:
        client = connect(uri)
        run = _existing(client, known, uri) if known is not None else None
        if run is not None:
            return Start(client, run, str(run.info.experiment_id))
        return Start(client, None, _experiment(client, experiment, uri, artifacts))
    except StoreAway as error:
        return Start(away=str(error))


def new_run_id(uri: str) -> str:
    """The id for a run that is to begin in `uri`: of the one that `mlflow run` opened, else a new one, to be given as
    `run_id`. Whoever notes it first can continue the run even if it is killed before any store knows it."""
    return launched(uri) or OFFLINE + uuid.uuid4().hex


def spool_root() -> Path:
    """Where spools are unless said otherwise."""
    return Path(SPOOLS).absolute()


def launched(uri: str) -> str | None:
    """The run that `mlflow run` opened for this process, unless we were told to write to another store than its own."""
    return os.environ.get("MLFLOW_RUN_ID") if uri == tracking_uri() else None


def _existing(client: MlflowClient, known: str, uri: str) -> Any | None:
    """The run; None for one that began offline and is not in the store yet."""
    try:
        run_id = resolve_run_id(client, known)
        return client.get_run(run_id) if run_id is not None else None
    except STORE_ERRORS as error:
        kind = StoreAway if no_answer(error) else UserError
        raise kind(f"run {known} in {without_password(uri)}: {first_line(error)}") from error


def _experiment(client: MlflowClient, name: str, uri: str, artifacts: str | None) -> str:
    try:
        return experiment_id(client, name, uri, artifacts)
    except STORE_ERRORS as error:
        kind = StoreAway if no_answer(error) else UserError
        raise kind(f"experiment {name!r} in {without_password(uri)}: {first_line(error)}") from error
