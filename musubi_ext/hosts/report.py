"""What `--dry_run` prints: the resolved configuration of every phase and the files that would be written."""

from __future__ import annotations

import json
import math

from musubi_ext.errors import UserError
from musubi_ext.hosts.jobs import Job, Plan
from musubi_ext.orbits.dataset import OrbitDataset


def describe(plan: Plan) -> str:
    """JSON: task, data, per phase expert, weights, range, steps and file, then every argument."""
    batches = _batches(plan)
    report = {
        "task": plan.task.name,
        "train_base": plan.task.train_base,
        "serve_base": plan.task.serve_base,
        "pipeline": str(plan.pipeline),
        "dataset": {
            "config": str(plan.data.path),
            "caches": [str(dataset.cache_directory) for dataset in plan.data.datasets],
            "batches_per_epoch": batches if batches is not None else "known once the clips are cached",
            "batch_size": [dataset.batch_size for dataset in plan.data.datasets],
            "condition": plan.data.orbit.condition,
            "holdout": plan.data.orbit.holdout,
        },
        "phases": [_phase(job, batches) for job in plan.jobs],
        "together": bool(plan.args.parallel_experts and len(plan.jobs) > 1),
        "pair": str(plan.args.output_dir / f"{plan.name}.pair.json") if len(plan.jobs) == 2 else None,
        "arguments": vars(plan.args),
    }
    return json.dumps(report, indent=2, default=str, ensure_ascii=False)


def _phase(job: Job, batches: int | None) -> dict[str, object]:
    steps = job.phase.steps
    if steps is None and batches is not None and job.phase.epochs is not None:
        steps = job.phase.epochs * math.ceil(batches / job.args.gradient_accumulation_steps)
    return {
        "expert": job.expert.value,
        "dit": job.args.dit,
        "timesteps": [round(1000 * job.phase.low, 6), round(1000 * job.phase.high, 6)],
        "boundary": job.phase.boundary,
        "steps": steps if steps is not None else f"{job.phase.epochs} epochs",
        "file": str(job.path),
    }


def _batches(plan: Plan) -> int | None:
    try:
        return len(OrbitDataset(plan.data))
    except UserError:  # not cached yet: a plan is made without writing anything
        return None
