"""One thing to tell MLflow about a run, how it is delivered, and the local file that keeps what could not be."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

Kind = Literal["run", "metrics", "params", "tags", "artifact", "text", "dataset", "status"]
OFFLINE = "offline-"  # run ids that we made up because the store was away when the run began
METRICS_PER_CALL = 1000  # mlflow.utils.validation.MAX_METRICS_PER_BATCH
KEYS_PER_CALL = 100  # mlflow.utils.validation.MAX_PARAMS_TAGS_PER_BATCH


@dataclass(frozen=True)
class Event:
    """`content` is a flat JSON object whose meaning depends on `kind`; `time` is Unix time in milliseconds.

    The time is taken when the event happens: MLflow drops a second copy of (key, step, time, value), so a point that
    was stored by a call whose answer got lost is not doubled when it is sent again.
    """

    run_id: str
    kind: Kind
    content: dict[str, Any]
    step: int = 0
    time: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def parts(self) -> list[Event]:
        """The same event as one event per key, so that a refused key does not take its neighbours with it."""
        if self.kind not in ("metrics", "params", "tags"):
            return [self]
        return [Event(self.run_id, self.kind, {k: v}, self.step, self.time) for k, v in self.content.items()]


def groups(events: Iterable[Event]) -> list[list[Event]]:
    """Order kept; neighbouring metrics of one run are put together, up to what one call to MLflow may carry."""
    grouped: list[list[Event]] = []
    room = 0
    for event in events:
        last = grouped[-1][-1] if grouped else None
        joins = last is not None and last.kind == event.kind == "metrics" and last.run_id == event.run_id
        if joins and len(event.content) <= room:
            grouped[-1].append(event)
            room -= len(event.content)
        else:
            grouped.append([event])
            room = METRICS_PER_CALL - len(event.content)
    return grouped


def deliver(client: MlflowClient, group: Sequence[Event]) -> None:
    """Send one group from `groups` in one call (more only where a call's key limit asks for it)."""
    event = group[0]
    run, content = event.run_id, event.content
    if event.kind == "metrics":
        points = [Metric(k, v, e.time, e.step) for e in group for k, v in e.content.items()]
        for start in range(0, len(points), METRICS_PER_CALL):
            client.log_batch(run, metrics=points[start : start + METRICS_PER_CALL])
    elif event.kind in ("params", "tags"):
        for part in _chunks(content):
            _log_strings(client, run, event.kind, part)
    elif event.kind == "artifact":
        log = client.log_artifacts if os.path.isdir(content["path"]) else client.log_artifact
        log(run, content["path"], content["folder"])
    elif event.kind == "text":
        client.log_text(run, content["text"], content["file"])
    elif event.kind == "dataset":
        client.log_inputs(run, [DatasetInput(Dataset(**content))])
    elif event.kind == "status":
        client.set_terminated(run, content["status"], end_time=event.time)
    else:
        raise ValueError(f"an event of kind {event.kind!r} is only ever kept, never sent")


class Spool:
    """A JSON-lines file, created by the first event that has to be kept; one event a line, fsynced per batch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.reason = ""

    def keep(self, events: Sequence[Event], reason: str) -> None:
        """Append `events` with the reason they were not sent. Raises OSError when the disk refuses."""
        if not events:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(_line(event, reason) for event in events)
            file.flush()
            os.fsync(file.fileno())
        self.count += len(events)
        self.reason = self.reason or reason


def _line(event: Event, reason: str) -> str:
    content = {key: _finite(value) for key, value in event.content.items()}
    record = {"run_id": event.run_id, "kind": event.kind, "step": event.step, "time": event.time, "content": content}
    return json.dumps({**record, "reason": reason}, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they are kept as the text that float() reads back."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _chunks(content: dict[str, Any]) -> list[dict[str, Any]]:
    items = list(content.items())
    return [dict(items[start : start + KEYS_PER_CALL]) for start in range(0, len(items), KEYS_PER_CALL)]


def _log_strings(client: MlflowClient, run_id: str, kind: Kind, content: dict[str, str]) -> None:
    if kind == "params":
        client.log_batch(run_id, params=[Param(k, v) for k, v in content.items()])
    else:
        client.log_batch(run_id, tags=[RunTag(k, v) for k, v in content.items()])
