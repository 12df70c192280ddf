"""Measure every clip of a data set in a pool of processes: one bad clip, or one dead worker, never stops the rest.

Memory does not grow with the number of clips beyond their numbers: a few clips per worker are under way, each gives
back some 10 kB, and filmstrips stay on disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from musubi_ext.orbits.checks.clip import Measured, measure_clip, settings_key
from musubi_ext.orbits.checks.sources import Listed, list_clips
from musubi_ext.orbits.checks.store import CheckStore, clip_key
from musubi_ext.orbits.checks.thresholds import Thresholds
from musubi_ext.orbits.checks.verdicts import Verdict, judge
from musubi_ext.orbits.config import DatasetConfig, VideoDataset
from musubi_ext.storage import sha256
from musubi_ext.worker_pool import outlive

DIED = "the process that measured it died (killed, or out of memory)"


@dataclass(frozen=True)
class Job:
    """A clip to be measured; `key` names the result."""

    key: str
    path: Path
    dataset: VideoDataset


Engine = Callable[[Sequence[Job]], Iterator[tuple[str, Measured]]]  # results in any order


def check_dataset(
    config: DatasetConfig,
    limits: Thresholds,
    store: CheckStore,
    engine: Engine,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Verdict, ...]:
    """The verdict on every clip, measuring those that `store` does not hold. Raises UserError for the data set itself.

    `progress` is told how many of the clips are done, and of how many.
    """
    clips = list_clips(config)
    digests = [digest or "" for digest in _hashed(clips)]
    keys = [
        clip_key(digest, settings_key(config.datasets[clip.dataset]))
        for clip, digest in zip(clips, digests, strict=True)
    ]
    jobs = {
        key: Job(key, clip.path, config.datasets[clip.dataset])
        for clip, digest, key in zip(clips, digests, keys, strict=True)
        if digest and not _finished(store.get(key))
    }
    done = len(clips) - len(jobs)
    progress(done, len(clips))
    for key, measured in engine(list(jobs.values())):
        store.put(key, measured)
        done += 1
        progress(done, len(clips))
    found = [_result(clip, digest, store.get(key)) for clip, digest, key in zip(clips, digests, keys, strict=True)]
    return judge(config, limits, clips, digests, found)


def local_engine(workers: int) -> Engine:
    """Clips over `workers` processes of this machine."""
    return lambda jobs: (result for _, result in outlive(jobs, _measure_job, workers, died=_died))


def _finished(measured: Measured | None) -> bool:
    """A clip whose process died is tried again: the machine may have been at fault."""
    return measured is not None and measured.unreadable != DIED


def _hashed(clips: Iterable[Listed]) -> Iterator[str | None]:
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda clip: None if clip.problem else _digest(clip.path), clips)


def _digest(path: Path) -> str | None:
    try:
        return sha256(path)
    except OSError:
        return None


def _result(clip: Listed, digest: str, measured: Measured | None) -> Measured:
    if measured is not None and digest:
        return measured
    return Measured(unreadable=clip.problem or _why_unread(clip.path))


def _why_unread(path: Path) -> str:
    """What stands against reading a file that could not be hashed."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "could not be read while the others were"


def _died(job: Job) -> tuple[str, Measured]:
    return job.key, Measured(unreadable=DIED)


def _measure_job(job: Job) -> tuple[str, Measured]:
    return job.key, measure_clip(job.path, job.dataset)
