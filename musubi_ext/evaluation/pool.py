"""Many clips, measured by processes of one thread each: one bad or crashing clip never stops the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from musubi_ext import __version__
from musubi_ext.errors import UserError, shown
from musubi_ext.evaluation.features import ModelSource
from musubi_ext.evaluation.flow import cores
from musubi_ext.evaluation.journal import Journal
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.metrics.registry import NUMPY, OPENCV
from musubi_ext.evaluation.profile import Profile
from musubi_ext.evaluation.result import VERSION
from musubi_ext.evaluation.suite import Inputs, Measured, measure_file, select, unavailable
from musubi_ext.evaluation.truth import Truth
from musubi_ext.storage import sha256
from musubi_ext.worker_pool import outlive

if TYPE_CHECKING:
    from musubi_ext.evaluation.asked import Asked

DIED = "the process that measured it died (killed, or out of memory)"


@dataclass(frozen=True)
class Settings:
    """How clips are measured: metrics by name, who finds the subject, the profile, where learned weights are."""

    metrics: tuple[str, ...]
    masks: MaskSource = MaskSource.COLOR
    profile: Profile = Profile.EXACT
    models: ModelSource | None = None
    threads: int = 1  # in each process


@dataclass(frozen=True)
class Job:
    """A clip and what belongs to it: its truth (.npz), what it was asked to show (.json), its caption."""

    name: str
    path: Path
    settings: Settings
    truth: Path | None = None
    asked: Path | None = None
    caption: str = ""


Engine = Callable[[Sequence[Job]], Iterator[tuple[Job, Measured]]]  # results in any order


def local_engine(workers: int) -> Engine:
    """Clips over `workers` processes of this machine; a few clips share its cores."""

    def run(jobs: Sequence[Job]) -> Iterator[tuple[Job, Measured]]:
        if not jobs:
            return
        processes = min(workers, len(jobs))
        threads = max(1, cores() // processes) if workers > 1 else 1
        shared = [replace(job, settings=replace(job.settings, threads=threads)) for job in jobs]
        by_name = {job.name: job for job in jobs}
        for job, measured in outlive(shared, measure_job, processes, died=died):
            yield by_name[job.name], measured

    return run


def measure_all(
    jobs: Sequence[Job],
    engine: Engine,
    journal: Journal,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Measured]:
    """Every clip by name, in the order of `jobs`; clips that `journal` holds are not measured again.

    `progress` is told how many clips are done, and of how many. A clip with problems is not put in the journal.
    """
    keys = dict(zip((job.name for job in jobs), _keys(jobs), strict=True))
    found = {name: measured for name, key in keys.items() if (measured := journal.get(key)) is not None}
    progress(len(found), len(jobs))
    for job, measured in engine([job for job in jobs if job.name not in found]):
        found[job.name] = measured
        if keys[job.name] and not measured.problems:
            journal.put(keys[job.name], measured)
        progress(len(found), len(jobs))
    return {job.name: found[job.name] for job in jobs}


def measure_job(job: Job) -> Measured:
    """One clip. Whatever goes wrong costs this clip, or one metric of it, and is said in its results."""
    settings = job.settings
    metrics = select(settings.metrics)
    try:
        inputs = Inputs(
            truth=Truth.load(job.truth) if job.truth else None,
            masks=settings.masks,
            asked=_asked(job.asked, job.caption) if job.asked else None,
            models=settings.models,
            caption=job.caption,
            profile=settings.profile,
            threads=settings.threads,
        )
    except UserError as error:
        return Measured(unavailable(metrics, str(error)), error.problems)
    measured = measure_file(job.path, metrics, inputs, contain=(Exception,))
    return replace(measured, problems=tuple(_with_name(job, problem) for problem in measured.problems))


def died(job: Job) -> Measured:
    """What is known of a clip whose process died."""
    return Measured(unavailable(select(job.settings.metrics), DIED), (_with_name(job, DIED),))


def _with_name(job: Job, problem: str) -> str:
    return problem if shown(job.path) in problem else f"{shown(job.path)}: {problem}"


def _asked(path: Path, caption: str) -> Asked:
    from musubi_ext.evaluation.asked import Asked

    return Asked.load(path, caption=caption)


def _keys(jobs: Sequence[Job]) -> list[str]:
    """Names each clip's results by the bytes and settings they come from; "" for a clip that cannot be read."""
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(_key, jobs))


def _key(job: Job) -> str:
    try:
        digests = [sha256(path) if path else "" for path in (job.path, job.truth, job.asked)]
    except OSError:
        return ""
    settings = {**asdict(job.settings), "threads": 0}  # equal for all thread counts
    made_by = [__version__, VERSION, OPENCV, NUMPY]
    return hashlib.sha256(json.dumps([digests, job.caption, settings, made_by], default=str).encode()).hexdigest()
