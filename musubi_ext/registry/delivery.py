"""Events of a spool as calls to MLflow, each of which may be made twice and counts once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from musubi_ext.registry.events import Event
from musubi_ext.registry.history import History
from musubi_ext.registry.runs import EXPERT_TAG, KEY_TAG, PARENT_TAG, find_child, find_pair
from musubi_ext.registry.store import STORE_ERRORS, experiment_id, first_line

Refuse = Callable[[Event, str], None]
METRICS_PER_CALL = 1000  # mlflow.utils.validation.MAX_METRICS_PER_BATCH
KEYS_PER_CALL = 100  # mlflow.utils.validation.MAX_PARAMS_TAGS_PER_BATCH
CHANGED_PARAM = "changed_param."  # tag: a param as the resumed run has it, where MLflow keeps the first value
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
_LOCAL_FAULTS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class Delivery:
    """Sends events to one store. `runs`: our keys → its ids, to which created runs are added.

    What the store will not have goes to `refuse`; that it does not answer is raised (store.STORE_ERRORS, UserError).
    """

    def __init__(self, client: MlflowClient, uri: str, runs: dict[str, str], refuse: Refuse) -> None:
        self.history = History(client)
        self._client, self._uri, self._runs, self._refuse = client, uri, runs, refuse

    def send_metrics(self, events: Sequence[Event], *, sent_before: bool, resumed: bool) -> None:
        """All points of `events`, run by run. See History for what is left out when they may be there already."""
        by_run: dict[str, list[Metric]] = {}
        for event in events:
            points = by_run.setdefault(event.run, [])
            points += [Metric(key, float(value), event.time, event.step) for key, value in event.content.items()]
        for key, points in by_run.items():
            run = self._id(key)
            if sent_before or resumed:
                points = self.history.missing(run, points, by_step=resumed)
            for start in range(0, len(points), METRICS_PER_CALL):
                self._points(key, run, points[start : start + METRICS_PER_CALL])

    def send(self, event: Event) -> None:
        """One event that is no metrics."""
        if event.kind == "run":
            self._runs[event.run] = self._find_or_create(event)
            return
        run = self._id(event.run)
        try:
            self._send(run, event)
        except STORE_ERRORS as error:
            if not is_refusal(error):
                raise
            self.refuse(event, first_line(error))

    def refuse(self, event: Event, reason: str) -> None:
        """Give `event` up, or, of several keys, those that are refused one by one."""
        if len(event.content) < 2 or event.kind not in ("params", "tags"):
            if event.kind != "params" or not self._note_changed(event):
                self._refuse(event, reason)
            return
        for key, value in event.content.items():
            self.send(Event(event.run, event.kind, {key: value}, event.step, event.time))

    def _id(self, key: str) -> str:
        try:
            return self._runs[key]
        except KeyError:
            raise MlflowException(f"run {key} is not in the store yet") from None

    def _send(self, run: str, event: Event) -> None:
        client, content = self._client, event.content
        if event.kind == "params":
            for part in _chunks(content):
                client.log_batch(run, params=[Param(key, value) for key, value in part], synchronous=True)
        elif event.kind == "tags":
            for part in _chunks(content):
                client.log_batch(run, tags=[RunTag(key, value) for key, value in part], synchronous=True)
        elif event.kind == "artifact":
            log = client.log_artifacts if os.path.isdir(content["path"]) else client.log_artifact
            log(run, content["path"], content["folder"])
        elif event.kind == "text":
            client.log_text(run, content["text"], content["file"])
        elif event.kind == "dataset":
            context = InputTag("mlflow.data.context", "training")
            client.log_inputs(run, [DatasetInput(Dataset(**content), [context])])
        elif event.kind == "status" and content["status"] == "RUNNING":
            client.update_run(run, status="RUNNING")
        elif event.kind == "status" and not (content.get("if_running") and self._ended(run)):
            client.set_terminated(run, content["status"], end_time=event.time)
        elif event.kind == "finished":
            self._finish(run, content["expert"], event.time)

    def _ended(self, run: str) -> bool:
        return bool(self._client.get_run(run).info.status != "RUNNING")

    def _find_or_create(self, event: Event) -> str:
        """The id of a run that begins: of the one that an earlier attempt created, whose answer got lost, or anew."""
        content = event.content
        tags, name = dict(content["tags"]), content["name"]
        if "expert" in content:
            parent = self._id(content["parent"])
            experiment = str(self._client.get_run(parent).info.experiment_id)
            found = find_child(self._client, experiment, parent, content["expert"])
            tags |= {PARENT_TAG: parent, EXPERT_TAG: content["expert"]}
        else:
            experiment = experiment_id(self._client, content["experiment"], self._uri, content.get("artifacts"))
            found = find_pair(self._client, [experiment], content["key"])
            tags |= {KEY_TAG: content["key"]}
        if found is None and not content.get("create", True):
            raise MlflowException(f"run {content['key']} is not in the store yet")
        if found is None:
            found = self._client.create_run(experiment, start_time=event.time, tags=tags, run_name=name)
        elif content.get("create", True):
            self._client.update_run(found.info.run_id, status="RUNNING")
        return str(found.info.run_id)

    def _finish(self, parent: str, expert: str, time: int) -> None:
        experiment = str(self._client.get_run(parent).info.experiment_id)
        found = find_child(self._client, experiment, parent, expert)
        if found is not None and found.info.status != "FINISHED":
            self._client.set_terminated(found.info.run_id, "FINISHED", end_time=time)

    def _points(self, key: str, run: str, points: list[Metric]) -> None:
        """Send points of one run; of those that are refused together, halves, down to the one that is to blame."""
        try:
            if points:
                self._client.log_batch(run, metrics=points, synchronous=True)
        except STORE_ERRORS as error:
            if not is_refusal(error):
                raise
            if len(points) == 1 or self._gone(run):
                for point in points:
                    event = Event(key, "metrics", {point.key: point.value}, point.step, point.timestamp)
                    self._refuse(event, first_line(error))
                return
            half = len(points) // 2
            self._points(key, run, points[:half])
            self._points(key, run, points[half:])

    def _gone(self, run: str) -> bool:
        """Whether somebody deleted the run."""
        try:
            return bool(self._client.get_run(run).info.lifecycle_stage != "active")
        except STORE_ERRORS as error:
            if not is_refusal(error):
                raise
            return True

    def _note_changed(self, event: Event) -> bool:
        """Tag the new value of a param that the run has with another value; False when that is not the reason."""
        ((key, value),) = event.content.items()
        run = self._id(event.run)
        if self._gone(run) or self._client.get_run(run).data.params.get(key, value) == value:
            return False
        self._client.set_tag(run, CHANGED_PARAM + key, value, synchronous=True)
        return True


def is_refusal(error: BaseException) -> bool:
    """True when sending the same again cannot help: a bad key, a run that is gone, a file that is not there."""
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    return isinstance(error, _LOCAL_FAULTS)


def _chunks(content: dict[str, Any]) -> list[list[tuple[str, Any]]]:
    items = list(content.items())
    return [items[start : start + KEYS_PER_CALL] for start in range(0, len(items), KEYS_PER_CALL)]
