"""From two finished experts to one pair on disk, with everything the manifest records."""

from __future__ import annotations

import json
import platform
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from musubi_ext import __version__
from musubi_ext.adapters.files import read_lora
from musubi_ext.adapters.manifest import SUFFIX, transformer_shape
from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.hosts.checkpoints import VALIDATION, is_finished, run_settings
from musubi_ext.hosts.pocket_model import weights_fingerprint
from musubi_ext.hosts.resolve import Job, Plan, resolve
from musubi_ext.schedule.experts import Expert

INFERENCE = {"shift": 5.0, "steps": 12, "cfg": 1.0, "strength_high": 1.0, "strength_low": 1.0}  # of the pocket model
_LIBRARIES = ("diffusers", "transformers", "peft", "accelerate")


def settings_of(job: Job) -> dict[str, Any]:
    """All that the job's adapter depends on."""
    return run_settings(job.args, job.phase, job.data, weights_fingerprint(Path(job.args.dit)))


def both_halves(plan: Plan) -> tuple[Sequence[Job], str]:
    """The jobs of both experts if both are finished; else none of them, and why. Call after `plan` was carried out.

    With `--experts high` the low expert may be there from an earlier command.
    """
    if len(plan.jobs) == len(Expert):
        return plan.jobs, ""
    try:
        jobs = resolve(Namespace(**{**vars(plan.args), "experts": "high,low"})).jobs
        missing = [job.path for job in jobs if not is_finished(job.path, settings_of(job))]
    except UserError as error:
        return (), str(error)
    return ((), f"{missing[0]} is not there yet") if missing else (jobs, "")


def existing(plan: Plan) -> AdapterPair | None:
    """The pair that is there already, its files verified; None where there is no manifest."""
    path = Path(plan.args.output_dir) / f"{plan.name}{SUFFIX}"
    return AdapterPair.load(path) if path.is_file() else None


def assemble(plan: Plan, jobs: Sequence[Job], run_id: str | None) -> AdapterPair:
    """Write the pair of two finished jobs to the output directory; `run_id` is the MLflow run that made it."""
    loras = {job.expert: read_lora(job.path) for job in jobs}
    metadata = {expert: lora.metadata for expert, lora in loras.items()}
    own = {job.expert: settings_of(job) for job in jobs}
    phase, shape = jobs[0].phase, json.loads((Path(jobs[0].args.dit) / "config.json").read_text(encoding="utf-8"))
    return AdapterPair.save(
        plan.args.output_dir,
        plan.name,
        loras[Expert.HIGH].tensors,
        loras[Expert.LOW].tensors,
        task=plan.task.name,
        boundary=phase.boundary,
        train_base=plan.task.train_base,
        serve_base=plan.task.serve_base,
        transformer=transformer_shape(shape),
        steps={expert: int(found["ss_steps"]) for expert, found in metadata.items()},
        timestep_ranges={job.expert: (job.phase.low, job.phase.high) for job in jobs},
        inference={**INFERENCE, **_clip_shape(plan)},
        dataset_fingerprint=str(own[jobs[0].expert]["data"]),
        training={
            "arguments": {key: value for key, value in own[jobs[0].expert].items() if key in vars(plan.args)},
            "base_sha256": {expert.value: settings["base"] for expert, settings in own.items()},
            "validation": {expert.value: json.loads(found[VALIDATION]) for expert, found in metadata.items()},
            "effective_batch": _effective_batch(plan),
            "versions": versions(),
            "mlflow_run": run_id,
        },
        metadata=metadata,
    )


def versions() -> dict[str, str]:
    """What made the pair."""
    own = {"musubi-ext": __version__, "python": platform.python_version(), "torch": torch.__version__}
    return {**own, **{name: version(name) for name in _LIBRARIES}}


def _clip_shape(plan: Plan) -> dict[str, Any]:
    """Frames and size of the clips trained on; no size where buckets made several."""
    dataset = plan.data.datasets[0]
    shape: dict[str, Any] = {} if dataset.enable_bucket else {"size": list(dataset.resolution)}
    return {**shape, "frames": dataset.target_frames[-1]} if dataset.frame_extraction != "full" else shape


def _effective_batch(plan: Plan) -> int:
    return max(dataset.batch_size for dataset in plan.data.datasets) * int(plan.args.gradient_accumulation_steps)
