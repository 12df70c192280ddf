"""The same measurements on a Ray cluster, for data sets that one machine is too slow for. Not measured at scale.

Clips are named by path, so every node must see them under the same one (a shared file system).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

from musubi_ext.errors import UserError
from musubi_ext.orbits.checks.clip import Measured, measure_clip
from musubi_ext.orbits.checks.run import Engine, Job


def ray_engine(address: str | None) -> Engine:
    """Clips over Ray Data: a cluster at `address`, or a local one. Raises UserError when Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UserError('--engine ray: Ray is not installed (pip install "musubi-ext[ray]", or use --engine local)')
    return lambda jobs: _measure(jobs, address)


def _measure(jobs: Sequence[Job], address: str | None) -> Iterator[tuple[str, Measured]]:
    if not jobs:
        return
    ray, data = importlib.import_module("ray"), importlib.import_module("ray.data")
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False)
    try:
        by_index = ray.put(list(jobs))  # paths may hold bytes that Arrow's strings cannot
        rows = data.range(len(jobs)).map(_measure_row, fn_kwargs={"jobs": by_index})
        for row in rows.iter_rows():
            yield jobs[row["id"]].key, Measured.from_json(row["measured"])
    finally:
        if started:
            ray.shutdown()


def _measure_row(row: dict[str, Any], jobs: Any) -> dict[str, Any]:
    """One clip, on whichever node; the result travels as JSON."""
    job: Job = importlib.import_module("ray").get(jobs)[row["id"]]
    return {"id": row["id"], "measured": measure_clip(job.path, job.dataset).to_json()}
