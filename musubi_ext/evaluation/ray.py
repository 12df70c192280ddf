"""The same measurements on a Ray cluster, for more clips than one machine measures. Not measured at scale.

Clips are named by path, so every node must see them under the same one (a shared file system).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from musubi_ext.errors import UserError
from musubi_ext.evaluation.pool import Engine, Job, measure_job
from musubi_ext.evaluation.result import Result
from musubi_ext.evaluation.suite import Measured


def ray_engine() -> Engine:
    """Clips over Ray Data: the cluster that RAY_ADDRESS names, or a local one. Raises UserError without Ray."""
    if importlib.util.find_spec("ray") is None:
        raise UserError('--engine ray: Ray is not installed (pip install "musubi-ext[ray]", or use --engine local)')
    return _measure


def _measure(jobs: Sequence[Job]) -> Iterator[tuple[Job, Measured]]:
    if not jobs:
        return
    ray, data = importlib.import_module("ray"), importlib.import_module("ray.data")
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False)
    try:
        by_index = ray.put(list(jobs))  # paths may hold bytes that Arrow's strings cannot
        for row in data.range(len(jobs)).map(_measure_row, fn_kwargs={"jobs": by_index}).iter_rows():
            fields = json.loads(row["measured"])
            results = {name: Result(**of) for name, of in fields["results"].items()}
            yield jobs[row["id"]], Measured(results, tuple(fields["problems"]))
    finally:
        if started:
            ray.shutdown()


def _measure_row(row: dict[str, Any], jobs: Any) -> dict[str, Any]:
    """One clip, on whichever node; the result travels as JSON."""
    job: Job = importlib.import_module("ray").get(jobs)[row["id"]]
    return {"id": row["id"], "measured": json.dumps(asdict(measure_job(job)), allow_nan=False)}
