"""What `--dry_run` prints: the resolved configuration of every phase and the files that would be written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from musubi_ext.errors import UserError
from musubi_ext.hosts.checkpoints import best_name
from musubi_ext.hosts.jobs import MUSUBI, Job, Plan
from musubi_ext.hosts.state_policy import AUTO
from musubi_ext.orbits.dataset import OrbitDataset


def describe(plan: Plan) -> str:
    """JSON: task, host, data, per phase expert, weights, range, steps, memory and files, then every argument."""
    data = _data(plan)
    report = {
        "task": plan.task.name,
        "host": plan.host if plan.host_version is None else f"musubi-tuner {plan.host_version}",
        "train_base": plan.task.train_base,
        "serve_base": plan.task.serve_base,
        "pipeline": str(plan.pipeline) if plan.pipeline is not None else None,
        "dataset": {
            "config": str(plan.data.path),
            "caches": [str(dataset.cache_directory) for dataset in plan.data.datasets],
            "batches_per_epoch": len(data) if data is not None else "known once the clips are cached",
            "batch_size": [dataset.batch_size for dataset in plan.data.datasets],
            "condition": plan.data.orbit.condition,
            "holdout": plan.data.orbit.holdout,
        },
        "phases": [_phase(job, data) for job in plan.jobs],
        "together": bool(plan.args.parallel_experts and len(plan.jobs) > 1),
        "effective_batch": _effective_batch(plan),
        "pair": str(plan.args.output_dir / f"{plan.name}.pair.json") if len(plan.jobs) == 2 else None,
        "arguments": vars(plan.args),
    }
    return json.dumps(report, indent=2, default=str, ensure_ascii=False)


def _phase(job: Job, data: OrbitDataset | None) -> dict[str, Any]:
    steps = job.phase.steps
    if steps is None and data is not None and job.phase.epochs is not None:
        updates = math.ceil(len(data) / job.processes / job.args.gradient_accumulation_steps)
        steps = job.phase.epochs * updates
    return {
        "expert": job.expert.value,
        "dit": job.args.dit,
        "timesteps": [round(1000 * job.phase.low, 6), round(1000 * job.phase.high, 6)],
        "boundary": job.phase.boundary,
        "steps": steps if steps is not None else f"{job.phase.epochs} epochs",
        "processes": job.processes,
        "memory_estimate": _memory(job, data),
        "file": str(job.path),
        "also": _further_files(job),
    }


def _further_files(job: Job) -> list[str]:
    """Patterns of what is written beside the adapter."""
    args, name = job.args, job.phase.output_name
    patterns = [best_name(name)] if job.data.orbit.holdout else []
    patterns += [f"{name}-step????????.safetensors"] if args.save_every_n_steps else []
    patterns += [f"{name}-??????.safetensors"] if args.save_every_n_epochs else []
    states = args.resume == AUTO or args.save_state or args.save_state_every_n_steps or args.save_state_on_train_end
    patterns += [f"{name}-*-state"] if states else []
    return [str(Path(args.output_dir) / pattern) for pattern in patterns]


def _memory(job: Job, data: OrbitDataset | None) -> list[str] | str:
    """An estimate for the largest batch, part by part; for the pocket host none is worth making."""
    if job.host != MUSUBI:
        return "a few hundred MB: the pocket model is small"
    if data is None:
        return "known once the clips are cached"
    from musubi_ext.hosts.musubi.estimates import memory_of

    return memory_of(job, data)


def _effective_batch(plan: Plan) -> int:
    """Clips of one update: of a batch, times the batches accumulated, times the processes."""
    batch = max(dataset.batch_size for dataset in plan.data.datasets)
    return batch * int(plan.args.gradient_accumulation_steps) * plan.jobs[0].processes


def _data(plan: Plan) -> OrbitDataset | None:
    try:
        return OrbitDataset(plan.data, i2v=plan.task.i2v)
    except UserError:  # not cached yet: a plan is made without writing anything
        return None
