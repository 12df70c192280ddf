"""A parent run per pair and a child run per expert in MLflow, written off the training thread."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from mlflow import MlflowClient

from musubi_ext import __version__
from musubi_ext.errors import UserError
from musubi_ext.registry.events import OFFLINE, Event, Kind, Spool
from musubi_ext.registry.names import check_run_id
from musubi_ext.registry.sender import Sender
from musubi_ext.registry.store import (
    EXPERIMENT,
    STORE_ERRORS,
    connect,
    experiment_id,
    first_line,
    tracking_uri,
    without_password,
)
from musubi_ext.registry.termination import status_of

Status = Literal["FINISHED", "FAILED", "KILLED"]
PARENT_TAG = "mlflow.parentRunId"
EXPERT_TAG = "expert"
PARAM_LIMIT = 6000  # characters; mlflow.utils.validation.MAX_PARAM_VAL_LENGTH
LONG_PARAMS = "long_params"
FLUSH_SECONDS = 10.0
_DIGEST_LIMIT = 36  # mlflow.utils.validation.MAX_DATASET_DIGEST_SIZE
_log = logging.getLogger(__name__)


class RunTracker:
    """One run. Every method returns at once; what it says reaches MLflow later, in order."""

    def __init__(self, run_id: str, sender: Sender, known: Mapping[str, int] | None = None) -> None:
        self.run_id = run_id
        self.closed = False
        self._known = known or {}  # metric → the last step that the run has of it
        self._sender = sender

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings as text. A value over 6000 characters goes whole into an artifact, which the param names."""
        texts = {key: _text(value) for key, value in params.items()}
        for key in [key for key, text in texts.items() if len(text) > PARAM_LIMIT]:
            file = f"{LONG_PARAMS}/{key}.txt"
            self._put("text", {"text": texts[key], "file": file})
            texts[key] = f"{len(texts[key])} characters: see artifact {file}"
        self._put("params", texts)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at `step`; NaN and infinity are kept as they are. A step that is known is not told twice."""
        new = {key: float(value) for key, value in metrics.items() if step > self._known.get(key, -1)}
        self._put("metrics", new, step)

    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Store a file or folder under `folder` of the run. It must stay in place until the run is closed."""
        self._put("artifact", {"path": str(Path(path).absolute()), "folder": folder})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set or replace tags."""
        self._put("tags", {key: _text(value) for key, value in tags.items()})

    def log_dataset(self, name: str, fingerprint: str, source: Path | str) -> None:
        """Name the data set that was used: an MLflow input, and its whole fingerprint as a tag."""
        content = {
            "name": name,
            "digest": fingerprint[:_DIGEST_LIMIT],
            "source_type": "local",
            "source": json.dumps({"uri": str(source)}),
        }
        self._put("dataset", content)
        self.set_tags({"dataset.name": name, "dataset.fingerprint": fingerprint})

    def flush(self) -> None:
        """Wait, for seconds at most, until what was said has left the process: before a state that relies on it."""
        self._sender.flush(FLUSH_SECONDS)

    def close(self, status: Status = "FINISHED") -> None:
        """End the run with `status`; closing twice keeps the first."""
        if not self.closed:
            self.closed = True
            self._put("status", {"status": status})

    def _put(self, kind: Kind, content: dict[str, Any], step: int = 0) -> None:
        if content:
            self._sender.put(Event(self.run_id, kind, content, step))


class PairTracking(RunTracker):
    """The parent run of a pair; `expert` gives the child runs. Use as a context manager: leaving it sends what is left.

    Normal end closes every open run FINISHED, an exception FAILED, Ctrl-C or a SIGTERM turned into an exit
    (`musubi_ext.termination.terminable`) KILLED.

    uri: a tracking URI, see `registry.store.tracking_uri`.
    run_id: continue this run; without it $MLFLOW_RUN_ID, which `mlflow run` sets, if `uri` is the store it is of;
        without that a new run.
    resumed: `run_id` is a training that was broken off and goes on from an earlier state: the steps it repeats, which
        give the same numbers, are not recorded again.
    parent_run_id: another process's parent run, when this process trains one expert of a pair: children are put
        under it, and it is left open at the end.
    spool_directory: where events are kept that MLflow did not take; default `mlflow_spool` in the working directory.
    close_timeout: seconds that closing may spend on sending.

    Raises UserError when the store does not answer at the start. Later failures never reach the training.
    """

    def __init__(
        self,
        uri: str | None = None,
        *,
        experiment: str = EXPERIMENT,
        run_name: str | None = None,
        run_id: str | None = None,
        resumed: bool = False,
        parent_run_id: str | None = None,
        spool_directory: Path | str | None = None,
        close_timeout: float = 30.0,
    ) -> None:
        self.uri = tracking_uri(uri)
        self._client = connect(self.uri)
        self._attached = parent_run_id is not None
        known = parent_run_id or run_id or _launched(self.uri)
        run = _existing(self._client, known, self.uri, reopen=not self._attached) if known else None
        if run is None:
            run = _new_run(self._client, experiment, run_name or "pair", self.uri)
        self.experiment_id = str(run.info.experiment_id)
        self.name = str(run.info.run_name)
        spool = Path(spool_directory or "mlflow_spool").absolute() / f"{run.info.run_id}-{os.getpid()}.jsonl"
        super().__init__(run.info.run_id, Sender(self._client, Spool(spool)))
        self._close_timeout, self._resumed = close_timeout, resumed
        self._experts: list[RunTracker] = []

    def expert(self, expert: str) -> RunTracker:
        """The child run of `expert` ("high" or "low"): the one this parent already has, or a new one.

        When the store has gone away since the start, the run's events are all kept locally, under a made-up id.
        """
        name = str(expert.value) if isinstance(expert, Enum) else expert
        try:
            run_id = self._child(name)
        except STORE_ERRORS as error:
            _log.warning("MLflow does not answer (%s): the %s expert's events are kept here.", first_line(error), name)
            run_id = f"{OFFLINE}{self.run_id}-{name}"
            content = {"experiment_id": self.experiment_id, "run_name": f"{self.name}-{name}", "tags": self._tags(name)}
            self._sender.put(Event(run_id, "run", content))
        tracker = RunTracker(run_id, self._sender, self._steps(run_id) if self._resumed else None)
        self._experts.append(tracker)
        return tracker

    def finished(self, expert: str) -> None:
        """An expert was trained before this process: its run, if it has one and was broken off, is closed."""
        try:
            for run in self._client.search_runs([self.experiment_id], self._query(str(expert))):
                self._client.set_terminated(run.info.run_id, "FINISHED")
        except STORE_ERRORS as error:
            _log.warning("MLflow does not answer (%s): the %s expert's run stays open.", first_line(error), expert)

    @property
    def unsent(self) -> int:
        """Events kept in `spool_path` so far because MLflow did not take them."""
        return self._sender.spool.count

    @property
    def spool_path(self) -> Path:
        """The JSON-lines file that keeps unsent events; it exists only when there are some."""
        return self._sender.spool.path

    def where(self) -> str:
        """How to look at this run, in one line."""
        page, shown = f"#/experiments/{self.experiment_id}/runs/{self.run_id}", without_password(self.uri)
        if self.uri.startswith("http"):
            return f"{shown.rstrip('/')}/{page}"
        return f"mlflow ui --backend-store-uri {shown}   # then http://127.0.0.1:5000/{page}"

    def close(self, status: Status = "FINISHED") -> None:
        """End every open run with `status`, send what is left, and say how much could not be sent and where it lies."""
        if self.closed:
            return
        for tracker in self._experts:
            tracker.close(status)
        if self._attached:
            self.closed = True
        else:
            super().close(status)
        self._sender.close(self._close_timeout)
        if self.unsent:
            reason = self._sender.spool.reason
            _log.warning("MLflow: %d events were not sent (%s); they are in %s", self.unsent, reason, self.spool_path)

    def __enter__(self) -> PairTracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(status_of(error))

    def _steps(self, run_id: str) -> dict[str, int]:
        """The last step of each metric that a run has; nothing of a run that the store does not know."""
        try:
            metrics = self._client.get_run(run_id).data.metrics
            return {key: max(point.step for point in self._client.get_metric_history(run_id, key)) for key in metrics}
        except STORE_ERRORS as error:
            _log.warning("MLflow does not answer (%s): repeated steps may be recorded twice.", first_line(error))
            return {}

    def _child(self, name: str) -> str:
        found = self._client.search_runs([self.experiment_id], self._query(name), max_results=1)
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        run = self._client.create_run(self.experiment_id, run_name=f"{self.name}-{name}", tags=self._tags(name))
        return str(run.info.run_id)

    def _query(self, name: str) -> str:
        return f"tags.`{PARENT_TAG}` = '{self.run_id}' and tags.{EXPERT_TAG} = '{name}'"

    def _tags(self, name: str) -> dict[str, str]:
        return {**_own_tags("expert"), PARENT_TAG: self.run_id, EXPERT_TAG: name}


def _launched(uri: str) -> str | None:
    """The run that `mlflow run` opened for this process, unless we were told to write to another store than its own."""
    return os.environ.get("MLFLOW_RUN_ID") if uri == tracking_uri() else None


def _new_run(client: MlflowClient, experiment: str, name: str, uri: str) -> Any:
    try:
        return client.create_run(experiment_id(client, experiment, uri), run_name=name, tags=_own_tags("pair"))
    except STORE_ERRORS as error:
        raise UserError(f"experiment {experiment!r} in {without_password(uri)}: {first_line(error)}") from error


def _existing(client: MlflowClient, run_id: str, uri: str, *, reopen: bool) -> Any:
    try:
        run = client.get_run(check_run_id(run_id))
        if reopen:
            client.update_run(run_id, status="RUNNING")
    except STORE_ERRORS as error:
        raise UserError(f"run {run_id} in {without_password(uri)}: {first_line(error)}") from error
    return run


def _own_tags(kind: str) -> dict[str, str]:
    return {"musubi_ext.kind": kind, "musubi_ext.version": __version__}


def _text(value: Any) -> str:
    """Containers as JSON so that they can be read back; everything else as str() shows it."""
    return json.dumps(value, default=str) if isinstance(value, (dict, list, tuple)) else str(value)
