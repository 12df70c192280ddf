"""The memory that a job is going to need, from the headers of its weights and the sizes of its caches."""

from __future__ import annotations

from pathlib import Path

from musubi_ext.errors import Problems
from musubi_ext.hosts.jobs import Job
from musubi_ext.hosts.memory import estimate
from musubi_ext.hosts.musubi.checks import check_weights
from musubi_ext.hosts.musubi.importing import import_host
from musubi_ext.orbits.dataset import Item, OrbitDataset


def memory_of(job: Job, data: OrbitDataset) -> list[str]:
    """The lines of an estimate for the largest batch of `data`."""
    config = import_host().WAN_CONFIGS[job.args.task]
    found = check_weights(Path(job.args.dit), job.expert, config, job.args, Problems())
    assert found is not None  # it was checked before
    largest = max(data.items, key=lambda item: _cells(item) * _batch(data, item))
    needed = estimate(found.shape, latent(largest), job.args, batch=_batch(data, largest), file_type=found.file_type)
    return needed.lines()


def latent(item: Item) -> tuple[int, int, int]:
    """Frames, height and width of an item's latents: 4 frames and 8 pixels to a cell, the first frame by itself."""
    width, height = item.size
    return (item.frames - 1) // 4 + 1, height // 8, width // 8


def _cells(item: Item) -> int:
    frames, height, width = latent(item)
    return frames * height * width


def _batch(data: OrbitDataset, item: Item) -> int:
    return data.config.datasets[item.dataset].batch_size
