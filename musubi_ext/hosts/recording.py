"""What a run tells its tracker: settings and data at the start, the files at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from musubi_ext import __version__
from musubi_ext.errors import UserError
from musubi_ext.hosts.jobs import Job, Plan
from musubi_ext.hosts.seam import NoTracking, Tracker
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import write_json

_NOT_SETTINGS = {"mlflow_tracking_uri", "mlflow_run_name", "mlflow_experiment", "no_mlflow", "dry_run", "config_file"}


class Recording:
    """The pair's run and, through `expert`, a run per expert. `tracking`: a PairTracking, or None."""

    def __init__(self, tracking: Any | None) -> None:
        self._tracking = tracking
        self._parent: Tracker = tracking or NoTracking()
        self._plan: Plan | None = None

    @property
    def run_id(self) -> str | None:
        """The MLflow run of the pair."""
        return str(self._tracking.run_id) if self._tracking is not None else None

    def start(self, plan: Plan, finished: Sequence[Job]) -> None:
        """Record the arguments, the data set and what the pair is for; close the runs of `finished` experts."""
        self._plan = plan
        if self._tracking is not None:
            for job in finished:
                self._tracking.finished(job.expert.value)
        self._parent.log_params({key: value for key, value in vars(plan.args).items() if key not in _NOT_SETTINGS})
        phase = plan.jobs[0].phase
        self._parent.set_tags(
            {
                "pair": plan.name,
                "task": plan.task.name,
                "boundary": phase.boundary,
                "version": __version__,
                "host": plan.host if plan.host_version is None else f"musubi-tuner {plan.host_version}",
            }
        )
        if self._tracking is not None:
            data = str(plan.jobs[0].settings["data"])
            self._tracking.log_dataset(plan.data.path.stem, data, plan.data.path)
            self._parent.log_artifact(plan.data.path, "dataset")

    def expert(self, expert: Expert) -> Tracker:
        """The run of one expert, with its phase recorded."""
        tracker: Tracker = self._tracking.expert(expert.value) if self._tracking is not None else NoTracking()
        job = next(job for job in self._plan.jobs if job.expert is expert) if self._plan else None
        if job is not None:
            phase = job.phase
            tracker.log_params(
                {
                    "expert": expert.value,
                    "timestep_low": phase.low,
                    "timestep_high": phase.high,
                    "boundary": phase.boundary,
                    "dit": job.args.dit,
                    "rank": job.args.network_dim,
                    "alpha": job.args.network_alpha,
                }
            )
        return tracker

    def finish(self, files: list[Path]) -> None:
        """Keep the pair's files with its run."""
        for file in files:
            self._parent.log_artifact(file, "pair")

    def previewed(self, files: Sequence[Path], folder: str) -> None:
        """Keep videos and filmstrips of the pair as it stands, under previews/`folder`."""
        for file in files:
            self._parent.log_artifact(file, f"previews/{folder}")


class RunFile:
    """NAME.run.json beside the adapters: which MLflow run a training is, while it is not done."""

    def __init__(self, plan: Plan) -> None:
        self.path = Path(plan.args.output_dir) / f"{plan.name}.run.json"

    def read(self) -> str | None:
        """The run's id, None where nothing was broken off. Raises UserError for a file that is none of ours."""
        if not self.path.is_file():
            return None
        try:
            return str(json.loads(self.path.read_text(encoding="utf-8"))["run_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path}: expected a run's id, found none (delete the file to start a new run)"
            ) from error

    def write(self, uri: str, run_id: str) -> None:
        """Remember the run."""
        write_json(self.path, {"tracking_uri": without_secret(uri), "run_id": run_id})

    def remove(self) -> None:
        """The training is done."""
        self.path.unlink(missing_ok=True)


def without_secret(uri: str) -> str:
    """The URI without a password that may stand in it."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
