"""One job at a time on this process's engine: from the row that says what to do to the row that says how it ended.

The engine leaves each finished stage in the job's folder and starts from what it finds there, so a job that comes back
repeats no stage. Only the machine's faults are tried again; a request's own mistake, and a defect of ours, end the job.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from musubi_ext.errors import UserError
from serving.making.stages import STAGES, StageStore
from serving.queue.job_settings import JobSettings
from serving.queue.store import CANCELLED, COMPLETED, FAILED
from serving.queue.transitions import LostJobError, Transitions, error

MACHINE = (OSError, MemoryError)  # faults of the machine: worth another attempt
_FRESH = 0.05  # seconds that an answer of the database holds: short steps do not each ask, and each tell, anew
_PAUSE = 0.5  # seconds; doubled with every fault in a row, and between two questions to a silent database
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Engine(Protocol):
    """What a worker drives; serving.engine.Engine is the real one."""

    def run(self, job: Any, *, version: Any, on_step: Any, cancelled: Any, stage_store: Any) -> Any:
        """Make the job's video in the folder of `stage_store`."""


class Control:
    """What the engine is given to report to and to ask whether it should stop; `why` says what stopped it."""

    def __init__(self, transitions: Transitions, row: Any, run_within: float) -> None:
        self.transitions, self.job_id, self.attempt = transitions, row.id, row.attempt
        self.deadline = time.time() + run_within
        self.furthest = row.furthest
        self.why: str | None = None
        self._asked_at, self._told = 0.0, ("", "")

    def stop(self, why: str) -> None:
        """Ask the engine to end at its next step."""
        self.why = self.why or why

    def on_step(self, progress: Any) -> None:
        """Store where the job is, every step of a long one, else at least every stage and preview.

        A database that does not answer costs a line of progress, never the job.
        """
        news = progress.stage, getattr(progress, "preview", "")
        if news == self._told and self._lately():
            return
        self._told = news
        values = {
            "stage": progress.stage,
            "step": progress.step,
            "steps": progress.steps,
            "progress": round(100 * progress.fraction),
        }
        if news[1]:
            values["files"] = {"preview": news[1]}
        entered = progress.candidate * len(STAGES) + STAGES.index(progress.stage)
        if entered > self.furthest:  # a stage was finished: what interrupts from here on is counted anew
            values |= {"furthest": entered, "faults": 0}
            self.furthest = entered
        self._ask(lambda: self.transitions.advance(self.job_id, self.attempt, values))

    def cancelled(self) -> bool:
        """Whether the engine is to stop now."""
        if self.why is None and time.time() > self.deadline:
            self.stop("timeout")
        if self.why is None and not self._lately():
            self._ask(lambda: self.transitions.to_be_cancelled(self.job_id, self.attempt))
        return self.why is not None

    def pause(self, seconds: float) -> None:
        """Wait, but not when the job is to stop."""
        until = time.time() + seconds
        while time.time() < until and not self.cancelled():
            time.sleep(0.1)

    def _lately(self) -> bool:
        return time.monotonic() < self._asked_at + _FRESH

    def _ask(self, question: Callable[[], bool]) -> None:
        try:
            if question():
                self.stop("cancelled")
        except LostJobError:
            self.stop("lost")
        except sa.exc.OperationalError as trouble:
            _log.warning("%s: the database does not answer: %s", self.job_id, type(trouble).__name__)
        self._asked_at = time.monotonic()


class Runner:
    """Runs jobs under the name `executor`. All methods may be called from any thread; jobs run one by one."""

    def __init__(self, settings: JobSettings, engine: Engine, transitions: Transitions, executor: str) -> None:
        self.settings, self.engine, self.transitions, self.executor = settings, engine, transitions, executor
        self._changed = threading.Condition()
        self._gpu = threading.Lock()
        self._control: Control | None = None
        self._draining = False
        self.after: Callable[[], None] = lambda: None  # called when a job has ended

    def run(self, job_id: str) -> None:
        """Make the video of a job and settle how it ended. Does not return once the process is to end."""
        with self._gpu:
            self._run(job_id)
        self.after()

    def _run(self, job_id: str) -> None:
        with self._changed:
            draining = self._draining
        if draining:
            _forever()
        row = persistently(lambda: self.transitions.start(job_id, self.executor, self.settings.retries))
        if row is None:
            return
        control = Control(self.transitions, row, self.settings.run_within)
        with self._changed:
            self._control = control
            if self._draining:
                control.stop("drain")
        try:
            self._settle(row, control, *self._attempts(row, control))
        finally:
            with self._changed:
                self._control = None
                self._changed.notify_all()

    def drain(self, grace: float, last: float) -> None:
        """Begin nothing new; let a running job end within `grace` seconds, then stop it at a step within `last`."""
        with self._changed:
            self._draining = True
            if not self._changed.wait_for(lambda: self._control is None, grace):
                assert self._control is not None
                self._control.stop("drain")
                self._changed.wait_for(lambda: self._control is None, last)

    def _attempts(self, row: Any, control: Control) -> tuple[str, dict[str, Any]]:
        """The last state and its columns; tries again after the machine's faults."""
        while True:
            try:
                return COMPLETED, self._attempt(row, control)
            except UserError as mistake:
                return FAILED, {"error": error("invalid_request", "; ".join(mistake.problems))}
            except Exception as trouble:
                if control.why is not None:  # the engine ended as it was asked to
                    return CANCELLED, {}
                if not isinstance(trouble, MACHINE):
                    _log.exception("%s failed", row.id)
                    return FAILED, {"error": error("internal")}
                _log.warning("%s: %s, attempt %d", row.id, type(trouble).__name__, row.attempt, exc_info=trouble)
                faults = self._count(row, trouble)
                if faults > self.settings.retries:
                    return FAILED, {"error": error("infrastructure")}
                control.pause(_PAUSE * 2.0**faults)

    def _attempt(self, row: Any, control: Control) -> dict[str, Any]:
        from serving.adapters_live import VersionRef
        from serving.making.request import JobRequest

        folder = self.settings.job_folder(row.id)
        finished = self.engine.run(
            JobRequest.load(folder, row.request),
            version=VersionRef(**(row.version or {})),
            on_step=control.on_step,
            cancelled=control.cancelled,
            stage_store=StageStore(folder),
        )
        return {**_columns(finished, folder), "progress": 100}

    def _count(self, row: Any, trouble: BaseException) -> int:
        try:
            return persistently(lambda: self.transitions.fault(row.id, row.attempt, type(trouble).__name__))
        except LostJobError:
            return self.settings.retries + 1  # `finish` will find that it is no longer ours

    def _settle(self, row: Any, control: Control, state: str, values: dict[str, Any]) -> None:
        if state == CANCELLED and control.why == "drain":
            persistently(lambda: self.transitions.requeue(row.id, row.attempt, fault=False, why="the service stops"))
            with self._changed:
                self._control = None
                self._changed.notify_all()
            _forever()
        if state == CANCELLED and control.why == "timeout":
            state = FAILED
        if state != COMPLETED and not values:
            values = {"error": error(str(control.why) if control.why == "timeout" else "cancelled")}
        if not persistently(lambda: self.transitions.finish(row.id, row.attempt, state, **values)):
            _log.warning("%s: attempt %d no longer has this job; its result is dropped", row.id, row.attempt)
            return
        for picture in self.settings.job_folder(row.id).glob("*_frame.bmp"):  # nobody needs them any more
            picture.unlink(missing_ok=True)


def persistently(action: Callable[[], T]) -> T:
    """What `action` returns; while the database does not answer, again and again: the job waits, it is not lost."""
    while True:
        try:
            return action()
        except sa.exc.OperationalError as trouble:
            _log.warning("the database does not answer: %s", type(trouble).__name__)
            time.sleep(_PAUSE)


def _columns(finished: Any, folder: Path) -> dict[str, Any]:
    """What the engine returned, as columns of `jobs`: files by their names in the job's folder, the rest as JSON."""
    files = {variant: Path(path).relative_to(folder).name for variant, path in finished.files.items()}
    return {"files": files, "result": json.loads(json.dumps(finished.record(), allow_nan=False))}


def _forever() -> None:
    """Hold the workflow open until the process ends, so that it stays unfinished and is run again."""
    threading.Event().wait()
