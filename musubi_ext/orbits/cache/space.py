"""Whether the disk holds what is to be written, and one sentence when it is full after all."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from musubi_ext.errors import Problems, UserError
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.cache.entries import ClipPlan
from musubi_ext.orbits.clips import probe
from musubi_ext.orbits.conditioning import TEMPORAL
from musubi_ext.orbits.windows import Window, windows

CHANNELS = 16 + 20  # of a cached latent pixel: latents, mask and image latents
SPATIAL = 8  # pixels a side in a latent pixel
HEADER = 2048  # bytes of metadata and tensor names in a file
PROBE_FRAMES = 5


class DiskFullError(UserError):
    """The run stops: no other clip would fit either."""


def windows_of(plan: ClipPlan) -> list[Window]:
    """The windows a clip will have by its header; none where it cannot be read, which decoding then reports."""
    dataset = plan.dataset
    if dataset.frame_extraction in ("head", "uniform"):
        return windows(dataset, max(dataset.target_frames))
    try:
        return windows(dataset, probe(plan.clip.path).frames)
    except UserError:
        return []


def bytes_needed(plans: Sequence[ClipPlan], itemsize: int) -> dict[Path, int]:
    """Bytes of latents to write by cache folder, from above: a bucket never has more pixels than the resolution."""
    needed: dict[Path, int] = {}
    for plan in plans:
        width, height = plan.dataset.resolution
        area = (width // SPATIAL) * (height // SPATIAL)
        frames = sum((count - 1) // TEMPORAL + 1 for _, count in windows_of(plan))
        size = frames * area * CHANNELS * itemsize + HEADER * len(windows_of(plan))
        entries = sum(not entry.finished for entry in plan.entries)
        needed[plan.dataset.cache_directory] = needed.get(plan.dataset.cache_directory, 0) + size * entries
    return needed


def check_room(needed: dict[Path, int]) -> None:
    """Raises UserError naming every folder whose disk has too little room; folders of one disk count together."""
    problems, disks = Problems(), dict[int, tuple[Path, int]]()
    for folder, size in needed.items():
        existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
        device = existing.stat().st_dev
        disks[device] = (existing, disks.get(device, (existing, 0))[1] + size)
    for folder, size in disks.values():
        free = shutil.disk_usage(folder).free
        if size > free:
            fix = "free some, or give another cache_directory"
            problems.add(folder, f"expected {size / 1e6:.0f} MB free for the caches, found {free / 1e6:.0f} MB", fix)
    problems.raise_if_any()


def seconds_needed(plans: Sequence[ClipPlan], encoders: Encoders) -> float:
    """Estimated from five grey frames at the largest resolution: encoding only, decoding goes on beside it."""
    if not plans:
        return 0.0
    width, height = max((plan.dataset.resolution for plan in plans), key=lambda side: side[0] * side[1])
    grey = np.full((PROBE_FRAMES, height // 16 * 16, width // 16 * 16, 3), 128, np.uint8)
    started = time.perf_counter()
    encoders.encode_windows([grey], last=False)
    per_pixel = (time.perf_counter() - started) / grey.size
    pixels = 0
    for plan in plans:
        area = plan.dataset.resolution[0] * plan.dataset.resolution[1]
        unfinished = sum(not entry.finished for entry in plan.entries)
        pixels += sum(3 * count * area for _, count in windows_of(plan)) * unfinished
    return pixels * per_pixel


@contextmanager
def disk_room(folder: Path) -> Iterator[None]:
    """A write that finds the disk full raises DiskFullError; what was written stays and is not made again."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        if not full:
            raise
        raise DiskFullError(f"{folder}: the disk is full (free some and run again: finished clips are kept)") from error
