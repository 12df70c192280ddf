"""The runs of a pipeline in MLflow: a parent, a child for each step, and the training's own run below its step.

A store that goes away costs what it was to be told, never a step. What a killed process left open is closed by the
next one in the same folder.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from musubi_ext.errors import UserError
from musubi_ext.pipeline.open_runs import OpenRuns

KEPT = "runs.json"  # in the folder of stamps: the runs that are open
STEP_TAG, STATE_TAG, KEY_TAG, EARLIER_TAG = "step", "step.state", "step.key", "step.run"
ENDED_TAG = "ended"  # "interrupted"
_LONGEST = 6000  # characters of a param; mlflow.utils.validation.MAX_PARAM_VAL_LENGTH
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Unrecorded:
    """Nobody is told."""

    current: str | None = None

    @contextmanager
    def step(self, name: str, key: str, inputs: Mapping[str, Any]) -> Iterator[str | None]:
        """Around a stage."""
        yield None

    def skipped(self, name: str, key: str, stamp: Mapping[str, Any]) -> None:
        """A stage was done before."""

    def below(self, name: str) -> str | None:
        """No run."""
        return None

    def adopt(self, run_id: str) -> None:
        """Nothing to put anywhere."""

    def settle(self, run_id: str, error: BaseException | None) -> None:
        """Nothing to close."""


class StepRuns:
    """The runs of one pipeline, as a context manager. Nothing is opened before a step runs.

    uri: of the store; the parent is the run that `mlflow run` opened in it, otherwise a new one called `name`.
    state: the folder that remembers which runs are open. A launched run has its steps recorded even where all of them
    are skipped.
    """

    def __init__(self, uri: str, state: Path, *, name: str, experiment: str) -> None:
        self.uri, self.experiment = uri, experiment
        self.current: str | None = None  # the run of the step under way
        self._name, self._opened = name, OpenRuns(state / KEPT, _shown(uri))
        self._launched = launched_in(uri)
        self._parent: str | None = None
        self._experiment_id = ""
        self._waiting: list[tuple[str, str, Mapping[str, Any]]] = []
        self._client: Any = None

    def __enter__(self) -> StepRuns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._launched is not None:
            with suppress(UserError) if error is not None else nullcontext():  # what went wrong first is said
                self._open()
        if self._parent is None:
            return
        self._end(self._parent, error)
        if self._launched is not None and _killed(error):  # `mlflow run` makes it FAILED behind us: see _close_left
            self._opened.add(self._parent)

    @contextmanager
    def step(self, name: str, key: str, inputs: Mapping[str, Any]) -> Iterator[str | None]:
        """A child run around a step: its inputs as params, its seconds, and how it ended. Raises UserError at the first
        step when the store does not answer."""
        self._open()
        self.current = self._child(name, {STATE_TAG: "ran", KEY_TAG: key}, inputs)
        began, failed = time.perf_counter(), None
        try:
            yield self.current
        except BaseException as error:
            failed = error
            raise
        finally:
            if self.current is not None:
                self.metrics({"seconds": time.perf_counter() - began})
                self._end(self.current, failed)
            self.current = None

    def skipped(self, name: str, key: str, stamp: Mapping[str, Any]) -> None:
        """A child that says which earlier run did this step; made when the parent is there."""
        self._waiting.append((name, key, stamp))
        if self._parent is not None:
            self._tell_skipped()

    def below(self, name: str) -> str | None:
        """A new run below the step under way, for another process to continue; None where the store took none."""
        if self.current is None:
            return None
        from musubi_ext.registry.run_facts import version_tags

        return self._create(name, self.current, version_tags("pair"))

    def adopt(self, run_id: str) -> None:
        """Put a run that an earlier pipeline began, and this one continues, below the step under way."""
        from musubi_ext.registry.runs import PARENT_TAG

        if self.current is not None and _in_store(run_id):
            self._told(lambda: self._client.set_tag(run_id, PARENT_TAG, self.current))
            self._opened.add(run_id)

    def settle(self, run_id: str, error: BaseException | None) -> None:
        """The process that continued `run_id` has ended: close the run if that has not."""
        if _in_store(run_id) and self._told(lambda: self._client.get_run(run_id).info.status) == "RUNNING":
            self._end(run_id, error)
        else:
            self._opened.drop(run_id)

    def drop(self, run_id: str) -> None:
        """A run of `below` that nobody used."""
        self._end(run_id, None)
        self._told(lambda: self._client.delete_run(run_id))

    def tags(self, tags: Mapping[str, str], *, above: bool = False) -> None:
        """Set tags of the step's run, and with `above` of the pipeline's as well."""
        for run_id in [self.current, *([self._parent] if above else [])]:
            for key, value in tags.items():
                if run_id is not None:
                    self._told(lambda r=run_id, k=key, v=value: self._client.set_tag(r, k, v))  # type: ignore[misc]

    def metrics(self, metrics: Mapping[str, float]) -> None:
        """Numbers of the step's run."""
        for key, value in metrics.items():
            self._told(lambda k=key, v=value: self._client.log_metric(self.current, k, v))  # type: ignore[misc]

    def artifacts(self, folder: Path, target: str) -> None:
        """Keep a folder with the step's run."""
        if self.current is not None:
            self._told(lambda: self._client.log_artifacts(self.current, str(folder), target))

    def _open(self) -> None:
        if self._parent is not None:
            return
        from musubi_ext.registry.run_facts import run_tags, version_tags
        from musubi_ext.registry.store import connect, experiment_id

        self._client = connect(self.uri)
        self._close_left()
        tags = version_tags("pipeline")
        if self._launched is not None:
            run = self._client.get_run(self._launched)
            for key, value in tags.items():
                self._client.set_tag(self._launched, key, value)
        else:
            where = experiment_id(self._client, self.experiment, self.uri)
            run = self._client.create_run(where, run_name=self._name, tags={**run_tags(), **tags})
        self._parent, self._experiment_id = str(run.info.run_id), str(run.info.experiment_id)
        if self._launched is not None:
            self.experiment = str(self._client.get_experiment(self._experiment_id).name)
        self._opened.add(self._parent)
        self._tell_skipped()

    def _tell_skipped(self) -> None:
        for name, key, stamp in self._waiting:
            earlier = {EARLIER_TAG: str(stamp["run"])} if "run" in stamp else {}
            run_id = self._child(name, {STATE_TAG: "skipped", KEY_TAG: key, **earlier}, {})
            if run_id is not None:
                self._end(run_id, None)
        self._waiting.clear()

    def _child(self, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str | None:
        from musubi_ext.registry.run_facts import version_tags

        assert self._parent is not None
        run_id = self._create(name, self._parent, {**version_tags("step"), STEP_TAG: name, **tags})
        if run_id is not None:
            for key, value in params.items():
                text = value if isinstance(value, str) else json.dumps(value)
                self._told(lambda k=key, t=text: self._client.log_param(run_id, k, t[:_LONGEST]))  # type: ignore[misc]
        return run_id

    def _create(self, name: str, parent: str, tags: Mapping[str, str]) -> str | None:
        from musubi_ext.registry.runs import PARENT_TAG

        run = self._told(
            lambda: self._client.create_run(self._experiment_id, run_name=name, tags={**tags, PARENT_TAG: parent})
        )
        if run is None:
            return None
        self._opened.add(str(run.info.run_id))
        return str(run.info.run_id)

    def _end(self, run_id: str, error: BaseException | None) -> None:
        from musubi_ext.registry.termination import status_of

        if _killed(error):
            self._told(lambda: self._client.set_tag(run_id, ENDED_TAG, "interrupted"))
        if self._told(lambda: self._client.set_terminated(run_id, status_of(error)) or True):
            self._opened.drop(run_id)

    def _close_left(self) -> None:
        """Those of a process that was killed or interrupted, or whose store was away when they ended.

        `mlflow run` calls its own run FAILED whatever ended it (MLflow 3.17 takes no terminated status for one).
        """
        for run_id in self._opened.left():
            status = self._told(lambda r=run_id: self._client.get_run(r).info.status)  # type: ignore[misc]
            if status in ("RUNNING", "FAILED"):
                self._told(lambda r=run_id: self._client.set_terminated(r, "KILLED"))  # type: ignore[misc]
        self._opened.clear()

    def _told(self, call: Callable[[], T]) -> T | None:
        """What the store answers; None, with a warning, where it does not."""
        from musubi_ext.registry.store import STORE_ERRORS, first_line

        try:
            return call()
        except STORE_ERRORS as error:
            _log.warning("MLflow was not told of the pipeline: %s", first_line(error))
            return None


def launched_in(uri: str) -> str | None:
    """The run that `mlflow run` opened for this process, if it is in the store `uri`."""
    from musubi_ext.registry.names import check_run_id
    from musubi_ext.registry.store import tracking_uri

    run_id = os.environ.get("MLFLOW_RUN_ID")
    return check_run_id(run_id) if run_id and uri == tracking_uri() else None


def _killed(error: BaseException | None) -> bool:
    from musubi_ext.registry.termination import status_of

    return status_of(error) == "KILLED"


def _in_store(run_id: str) -> bool:
    """Not one that began while the store was away, and may still not be there."""
    from musubi_ext.registry.runs import OFFLINE

    return not run_id.startswith(OFFLINE)


def _shown(uri: str) -> str:
    from musubi_ext.registry.store import without_password

    return without_password(uri)
