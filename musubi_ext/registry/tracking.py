"""A parent run per pair and a child run per expert in MLflow, written off the training thread."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

from musubi_ext import __version__
from musubi_ext.registry.events import Event
from musubi_ext.registry.run_facts import version_tags
from musubi_ext.registry.run_tracker import RunTracker, Status
from musubi_ext.registry.runs import EXPERT_TAG, OFFLINE, PARENT_TAG, key_of
from musubi_ext.registry.sender import PAUSE_SECONDS, Sender
from musubi_ext.registry.spool import Spool, find
from musubi_ext.registry.start import ask, launched, new_run_id, spool_root
from musubi_ext.registry.store import (
    EXPERIMENT,
    STORE_ERRORS,
    tracking_uri,
    without_password,
)
from musubi_ext.registry.system_metrics import SystemMetrics
from musubi_ext.registry.termination import status_of
from musubi_ext.registry.writer import Writer

__all__ = ["EXPERT_TAG", "PARENT_TAG", "PairTracking", "RunTracker", "Status"]
BEGIN_SECONDS = 20.0  # how long a store that answers may take to create a run
_log = logging.getLogger(__name__)


class PairTracking(RunTracker):
    """The parent run of a pair; `expert` gives the child runs. Use as a context manager: leaving it sends what is left.

    Everything goes to a local spool first, and from there to the store, now or by `musubi-ext track replay`: a store
    that is away, at the start too, costs nothing but the delay. Normal end closes every open run FINISHED, an
    exception FAILED, Ctrl-C or a SIGTERM turned into an exit (`musubi_ext.termination.terminable`) KILLED. What a
    killed process left in its spool is sent by the next one that continues the run.

    uri: a tracking URI, see `registry.store.tracking_uri`.
    run_id: continue this run, also one that began offline; without it $MLFLOW_RUN_ID, which `mlflow run` sets, if
        `uri` is the store it is of; without that a new run.
    resumed: `run_id` is a training that was broken off and goes on from an earlier state: the steps it repeats, which
        give the same numbers, are not recorded again.
    parent_run_id: another process's parent run, when this process trains one expert of a pair: children are put
        under it, and it is left open at the end.
    spool_directory: where the spools are; default `mlflow_spool` in the working directory.
    tags, artifacts: of a new run; where a new experiment keeps its artifacts.
    system_metrics: seconds between samples of processor, memory and GPUs; None for none.
    close_timeout: seconds that closing may spend on sending; retry_seconds: how long a store that failed is left alone.

    Raises UserError for a run, an experiment or a URI that is wrong, as far as the store can be asked.
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
        tags: Mapping[str, Any] | None = None,
        artifacts: str | None = None,
        system_metrics: float | None = None,
        close_timeout: float = 30.0,
        retry_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self.uri = tracking_uri(uri)
        self._attached, self._close_timeout = parent_run_id is not None, close_timeout
        known = parent_run_id or run_id or launched(self.uri)
        start = ask(self.uri, known, experiment, artifacts)
        self._experiment_id = start.experiment
        self.name = str(start.run.info.run_name) if start.run is not None else run_name or "pair"
        self.spool_directory = Path(spool_directory).absolute() if spool_directory is not None else spool_root()
        known = known or new_run_id(self.uri)
        key = find(self.spool_directory, known) or key_of(known)
        spool = Spool.create(self.spool_directory, key)
        store_id = str(start.run.info.run_id) if start.run is not None else known
        if not store_id.startswith(OFFLINE):
            spool.runs.setdefault(key, store_id)
        spool.remember()
        super().__init__(key, spool, Writer(spool))
        self._experts: dict[str, RunTracker] = {}
        self._sender = Sender(spool, self.uri, start.client, retry_seconds)
        session = {"key": key, "name": self.name, "uri": without_password(self.uri), "experiment": experiment}
        self._open(session | {"resumed": resumed, "attached": self._attached}, artifacts, tags or {})
        self._sender.start()
        if start.away is not None:
            self._sender.away(start.away)
        elif key not in spool.runs:
            self.flush()
            self._sender.settle(key, BEGIN_SECONDS)
        self._system: SystemMetrics | None = None
        if system_metrics is not None and not self._attached:
            began = start.run.info.start_time if start.run is not None else spool.contents.first_time
            self._system = SystemMetrics(self.log_metrics, began / 1000 if began else time.time(), system_metrics)

    @property
    def experiment_id(self) -> str | None:
        """Of the run; None while no store knows it."""
        client = self._sender.client
        if self._experiment_id is None and client is not None and self._key in self._spool.runs:
            with suppress(*STORE_ERRORS):
                self._experiment_id = str(client.get_run(self.run_id).info.experiment_id)
        return self._experiment_id

    def expert(self, expert: str) -> RunTracker:
        """The child run of `expert` ("high" or "low"): the one this parent already has, or a new one."""
        name = str(expert.value) if isinstance(expert, Enum) else expert
        key = f"{self._key}.{name}"
        tracker = RunTracker(key, self._spool, self._writer)
        content = {"parent": self._key, "expert": name, "name": f"{self.name}-{name}", "tags": version_tags("expert")}
        tracker._put("run", content)
        if self._sender.reason is None:
            self.flush()
            self._sender.settle(key, BEGIN_SECONDS)
        self._experts[name] = tracker
        return tracker

    def finished(self, expert: str) -> None:
        """An expert was trained before this process: its run, if it has one and was broken off, is closed."""
        self._put("finished", {"expert": str(expert)})

    @property
    def unsent(self) -> int:
        """Events that MLflow has not taken so far."""
        return self._spool.unsent

    @property
    def spool_path(self) -> Path:
        """The folder that keeps unsent events; it goes away when there are none at the end."""
        return self._spool.path

    def where(self) -> str:
        """How to look at this run, in one line."""
        if self.experiment_id is None:
            return f"not in {without_password(self.uri)} yet: musubi-ext track replay {self.spool_path}"
        page, shown = f"#/experiments/{self.experiment_id}/runs/{self.run_id}", without_password(self.uri)
        if self.uri.startswith("http"):
            return f"{shown.rstrip('/')}/{page}"
        return f"mlflow ui --backend-store-uri {shown}   # then http://127.0.0.1:5000/{page}"

    def close(self, status: Status = "FINISHED") -> None:
        """End every open run with `status`, send what is left, and say how much could not be sent and where it lies."""
        if self.closed:
            return
        if self._system is not None:
            self._system.close()
        for tracker in self._experts.values():
            tracker.close(status)
        if self._attached:
            self.closed = True
        else:
            super().close(status)
        self._writer.put(Event(self._key, "end", {}))
        self._writer.close()
        self._sender.close(self._close_timeout)
        if self.unsent:
            reason = self._sender.reason or self._spool.why_refused() or "there was no time left to send them"
            text = "MLflow: %d events were not sent (%s); they are in %s (musubi-ext track replay %s)"
            _log.warning(text, self.unsent, reason, self.spool_path, self.spool_path)
        self._spool.close()

    def __enter__(self) -> PairTracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(status_of(error))

    def _open(self, session: dict[str, Any], artifacts: str | None, tags: Mapping[str, Any]) -> None:
        """Say how the process before this one left the runs, that this one begins, and that the pair's run is on."""
        before = self._spool.contents
        for event in before.deaths():
            if event.run != self._key:  # it is running again
                self._writer.put(event)
        self._put("session", {**session, "pid": os.getpid(), "host": socket.gethostname(), "version": __version__})
        if self._key not in self._spool.runs:
            content = {"key": self._key, "name": self.name, "tags": version_tags("pair"), "create": not self._attached}
            self._put("run", content | {"experiment": session["experiment"], "artifacts": artifacts})
        elif not self._attached:
            self._put("status", {"status": "RUNNING"})
        self.set_tags(tags)
