"""The training command in a process of its own, its run in MLflow below the step's."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from musubi_ext.errors import UserError

GRACE = 20.0  # seconds that an interrupted training has to remove temporary files and close its runs
INTERRUPTED = 130  # status with which musubi_ext.wan_train_network says so
PROGRAM = "musubi_ext.wan_train_network"
_PR_SET_PDEATHSIG = 1


def train(words: Sequence[str], folder: Path, name: str, uri: str, runs: Any) -> None:
    """Run the trainer with `words`, which write the pair `name` to `folder` and track it in `uri`.

    Its run lies below the step that is under way in `runs`; a training that was broken off goes on in its own. Raises
    UserError when it could not be finished, KeyboardInterrupt when it was interrupted.
    """
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_RUN_ID"}
    going_on = _broken_off(folder / f"{name}.run.json")
    new = runs.below(name) if going_on is None else None
    if going_on is not None:
        runs.adopt(going_on)
    if new is not None:
        environment |= {"MLFLOW_RUN_ID": new, "MLFLOW_TRACKING_URI": uri}
    failed: BaseException | None = None
    try:
        _run([sys.executable, "-m", PROGRAM, *words], environment)
    except BaseException as error:
        failed = error
        raise
    finally:
        if new is not None and failed is None and trained_in(folder / f"{name}.pair.json") != new:
            runs.drop(new)  # everything was trained before
        elif (opened := new or going_on) is not None:
            runs.settle(opened, failed)


def trained_in(manifest: Path) -> str | None:
    """The MLflow run that a pair's manifest names."""
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))["training"]["mlflow_run"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return None if found is None else str(found)


def _broken_off(file: Path) -> str | None:
    """The run that a broken-off training will go on in; None where there is none, or no store knows it yet."""
    try:
        found = str(json.loads(file.read_text(encoding="utf-8"))["run_id"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return found


def _run(words: Sequence[str], environment: Mapping[str, str]) -> None:
    # In a session of its own Ctrl-C reaches it once, through us, and cannot break into its cleaning up.
    process = subprocess.Popen(words, env=dict(environment), start_new_session=True, preexec_fn=_end_with_parent)
    try:
        status = process.wait()
    finally:
        _end(process)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise UserError(f"training ended with status {status}: its own message is above")


def _end_with_parent() -> None:
    """In the child: SIGTERM when we are killed, where the system can do that. The folder is free for the next try."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a training that still runs to stop, as Ctrl-C would, and see it out."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
