"""An engine for the queue's tests: the real stages' names, no model. The prompt says how it behaves.

Its words are NAME=VALUE: steps, seconds (of a step), hang (seconds in the first); os_faults, mistake, defect, dies: how
it fails. Every stage computed is a line in journal.txt beside the jobs' folders: JOB STAGE PROCESS.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musubi_ext.errors import UserError
from musubi_ext.storage import write_text
from serving.making.stages import STAGES


@dataclass(frozen=True)
class Progress:
    stage: str
    step: int
    steps: int
    candidate: int = 0

    @property
    def fraction(self) -> float:
        return self.step / self.steps


@dataclass(frozen=True)
class Finished:
    video: Path
    said: dict[str, Any]

    @property
    def files(self) -> dict[str, Path]:
        return {"video": self.video}

    def record(self) -> dict[str, Any]:
        return self.said


class CancelledError(Exception):
    pass


class FakeEngine:
    def __init__(self, config: Any) -> None:
        self.config = config

    def run(self, job: Any, *, version: Any, on_step: Any, cancelled: Any, stage_store: Any) -> Finished:
        folder = Path(stage_store.folder)
        asked = dict(word.split("=") for word in job.prompt.split() if "=" in word)
        steps, seconds = int(asked.get("steps", 4)), float(asked.get("seconds", 0.0))
        self._fail(asked, folder)
        time.sleep(float(asked.get("hang", 0)))
        done = 0
        for stage in STAGES:
            moves = {"high": steps // 2, "low": steps - steps // 2}.get(stage, 0)
            mark = folder / "stages" / stage
            if not mark.exists():
                self._tell(on_step, cancelled, Progress(stage, done, steps))
                for move in range(moves):
                    time.sleep(seconds)
                    self._tell(on_step, cancelled, Progress(stage, done + move + 1, steps))
                write_text(mark, stage)
                with open(folder.parents[1] / "journal.txt", "a") as journal:
                    journal.write(f"{folder.name} {stage} {os.getpid()}\n")
            done += moves
        write_text(folder / "video.mp4", f"{job.prompt} by {version}")
        return Finished(folder / "video.mp4", {"pid": os.getpid(), "results": {}})

    def _tell(self, on_step: Any, cancelled: Any, progress: Progress) -> None:
        on_step(progress)
        if cancelled():
            raise CancelledError

    def _fail(self, asked: dict[str, str], folder: Path) -> None:
        if "mistake" in asked:
            raise UserError("size: does not divide by 16")
        if "defect" in asked:
            raise ZeroDivisionError("in /some/secret/place.py")
        if "dies" in asked:
            os.kill(os.getpid(), signal.SIGKILL)
        tried = folder / "tried"
        count = len(tried.read_text()) if tried.exists() else 0
        if count < int(asked.get("os_faults", 0)):
            tried.write_text("x" * (count + 1))
            raise OSError("no space left on device")
