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

_OF_TRACKING = {"mlflow_tracking_uri", "mlflow_run_name", "mlflow_experiment", "mlflow_options", "no_mlflow"}
_SECRETS = {"huggingface_token", "wandb_api_key"}


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
        hidden = _OF_TRACKING | _SECRETS | {"dry_run"}
        self._parent.log_params({key: value for key, value in vars(plan.args).items() if key not in hidden})
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
            orbit = plan.data.orbit
            profile = {"sets": len(plan.data.datasets), "condition": orbit.condition, "holdout": orbit.holdout}
            self._tracking.log_dataset(plan.data.path.stem, data, plan.data.path, profile)
            self._parent.log_artifact(plan.data.path, "dataset")
            for name in ("config_file", "sample_prompts"):
                if path := _given(getattr(plan.args, name, None)):
                    self._parent.log_artifact(path, "config")

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

    def read(self) -> dict[str, str] | None:
        """`run_id` and, since it is kept, `spool_directory`; None where nothing was broken off.

        Raises UserError for a file that is none of ours.
        """
        if not self.path.is_file():
            return None
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            return {"run_id": str(kept["run_id"]), **{key: kept[key] for key in ("spool_directory",) if key in kept}}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path}: expected a run's id, found none (delete the file to start a new run)"
            ) from error

    def write(self, uri: str, run_id: str, spool_directory: str) -> None:
        """Remember the run, and where what it says is kept until MLflow has it."""
        kept = {"tracking_uri": without_secret(uri), "run_id": run_id, "spool_directory": spool_directory}
        write_json(self.path, kept)

    def remove(self) -> None:
        """The training is done."""
        self.path.unlink(missing_ok=True)


def _given(path: str | Path | None) -> Path | None:
    """The file that a flag names; upstream lets ".toml" be left out."""
    places = [] if path is None else [Path(path), Path(f"{path}.toml")]
    return next((place for place in places if place.is_file()), None)


def without_secret(uri: str) -> str:
    """The URI without a password that may stand in it."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
