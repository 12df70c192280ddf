"""Whether the disk takes what is to be written, and one sentence when it does not after all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from musubi_ext.errors import Problems, UserError
from musubi_ext.orbits.cache.decoding import decoders
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.cache.entries import ClipPlan
from musubi_ext.orbits.conditioning import TEMPORAL
from musubi_ext.orbits.decode.pool import DecodePool
from musubi_ext.orbits.windows import Window, windows

CHANNELS = 16 + 20  # of a cached latent pixel: latents, mask and image latents
SPATIAL = 8  # pixels a side in a latent pixel
HEADER = 2048  # bytes of metadata and tensor names in a file
PROBE_FRAMES = 5


class CannotWriteError(UserError):
    """The run stops: no other clip could be written either."""


@dataclass(frozen=True)
class Workload:
    """A clip that is to be encoded and the windows it will have by its header; none where that cannot be read."""

    plan: ClipPlan
    windows: list[Window]

    @property
    def entries(self) -> int:
        """How many times the windows are encoded: once, or for the mirror image too."""
        return sum(not entry.finished for entry in self.plan.entries)


def workloads(plans: Sequence[ClipPlan]) -> list[Workload]:
    """What is to be encoded, by the clips' headers where length decides. What cannot be read, decoding reports."""
    with decoders() as (pool, threads):
        return list(threads.map(lambda plan: Workload(plan, _windows(plan, pool)), plans))


def _windows(plan: ClipPlan, pool: DecodePool) -> list[Window]:
    dataset = plan.dataset
    if dataset.frame_extraction in ("head", "uniform"):
        return windows(dataset, max(dataset.target_frames))
    try:
        return windows(dataset, pool.probe(plan.clip.path).frames)
    except UserError:
        return []


def bytes_needed(work: Sequence[Workload], itemsize: int) -> dict[Path, int]:
    """Bytes of latents to write by cache folder, from above: a bucket never has more pixels than the resolution."""
    needed: dict[Path, int] = {}
    for one in work:
        folder, (width, height) = one.plan.dataset.cache_directory, one.plan.dataset.resolution
        area = (width // SPATIAL) * (height // SPATIAL)
        frames = sum((count - 1) // TEMPORAL + 1 for _, count in one.windows)
        size = frames * area * CHANNELS * itemsize + HEADER * len(one.windows)
        needed[folder] = needed.get(folder, 0) + size * one.entries
    return needed


def check_room(needed: dict[Path, int]) -> None:
    """Raises UserError naming every folder that cannot be written to, or whose disk has too little room; folders of one
    disk count together."""
    problems, disks = Problems(), dict[int, tuple[Path, int]]()
    for folder, size in needed.items():
        existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
        if not os.access(existing, os.W_OK | os.X_OK):
            problems.add(folder, "expected a folder to write to, found one that is read-only", "give another")
        device = existing.stat().st_dev
        disks[device] = (existing, disks.get(device, (existing, 0))[1] + size)
    for folder, size in disks.values():
        free = shutil.disk_usage(folder).free
        if size > free:
            fix = "free some, or give another cache_directory"
            problems.add(folder, f"expected {size / 1e6:.0f} MB free for the caches, found {free / 1e6:.0f} MB", fix)
    problems.raise_if_any()


def seconds_needed(work: Sequence[Workload], encoders: Encoders) -> float | None:
    """Estimated from five grey frames at the largest resolution: encoding only, decoding goes on beside it.

    None where not even they fit the device's memory, which is then said of each clip.
    """
    if not work:
        return 0.0
    width, height = max((one.plan.dataset.resolution for one in work), key=lambda side: side[0] * side[1])
    grey = np.full((PROBE_FRAMES, height // 16 * 16, width // 16 * 16, 3), 128, np.uint8)
    started = time.perf_counter()
    try:
        encoders.encode_windows([grey], last=False)
    except torch.OutOfMemoryError:
        return None
    per_pixel = (time.perf_counter() - started) / grey.size
    pixels = 0
    for one in work:
        area = one.plan.dataset.resolution[0] * one.plan.dataset.resolution[1]
        pixels += sum(3 * count * area for _, count in one.windows) * one.entries
    return pixels * per_pixel


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A write that the disk refuses, full or read-only, raises CannotWriteError; what was written before it stays."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        found = re.search(r"os error (\d+)", str(error))  # safetensors writes by itself, and says it so
        number = getattr(error, "errno", None) or (int(found[1]) if found else None)
        if number is None:
            raise
        full = number in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full (free some" if full else f"cannot be written to: {os.strerror(number)} (change that"
        raise CannotWriteError(f"{folder}: {reason} and run again: finished clips are kept)") from error
