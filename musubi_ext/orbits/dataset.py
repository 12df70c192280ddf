"""Cached clips as training batches, in the form of musubi-tuner's `BucketBatchManager` (`dataset/bucket.py`).

Each item of the data set is a whole batch: {"latents": (B, 16, F, h, w), "latents_image": (B, 20, F, h, w),
"t5": list of B tensors (L, D), "timesteps": None}. Unlike upstream, files are read once where memory allows, the order
depends on seed and epoch alone, and only caches of clips in the data set, made for its settings, are used.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Value
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from musubi_ext.errors import Problems, UserError
from musubi_ext.orbits.cache.files import read_metadata
from musubi_ext.orbits.cache.trainable import trainable
from musubi_ext.orbits.config import DatasetConfig
from musubi_ext.storage import sha256

IN_MEMORY = 2 << 30  # bytes of caches that are held in memory; more are read as they are needed
SPLITS = ("train", "holdout")
Batch = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One cached window of one clip."""

    dataset: int  # index of its [[datasets]] table, which sets the batch size
    latents: Path
    text: Path
    frames: int
    size: tuple[int, int]  # width, height in pixels
    source: str  # SHA-256 of the clip

    @property
    def bucket(self) -> tuple[int, int, int, int]:
        """Items of one bucket have tensors of one shape and can share a batch."""
        return self.dataset, *self.size, self.frames


class OrbitDataset(torch.utils.data.Dataset[Batch]):
    """Batches of one split of a cached data set.

    `train` is shuffled by seed + epoch (`set_epoch`); `holdout` keeps one order, so that validation losses compare.
    Raises UserError when nothing is cached, naming the clips whose caches are stale, incomplete or without a caption,
    and with `i2v` those without conditioning. A hold-out of 0 leaves `holdout` empty.
    """

    def __init__(
        self,
        config: DatasetConfig,
        *,
        split: str = "train",
        seed: int = 42,
        in_memory: int = IN_MEMORY,
        i2v: bool = True,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {SPLITS}, found {split!r}")
        self.config, self.split, self.seed = config, split, seed
        items = list(_cached_items(config, i2v))
        held_out = holdout_sources([item.source for item in items], config.orbit.holdout)
        self.items = [item for item in items if (item.source in held_out) == (split == "holdout")]
        self._loaded: dict[Path, dict[str, Tensor]] | None = {} if _bytes(self.items) <= in_memory else None
        self._epoch = Value("q", 0)  # shared with the workers of a loader, who may live longer than an epoch
        self._ordered = 0, self._order(0)

    @property
    def num_train_items(self) -> int:
        """Windows in an epoch, repeats included (musubi-tuner's name)."""
        return sum(self.config.datasets[item.dataset].num_repeats for item in self.items)

    @property
    def in_memory(self) -> bool:
        """Whether caches are read once and kept."""
        return self._loaded is not None

    def set_max_train_steps(self, max_train_steps: int) -> None:
        """musubi-tuner tells its data sets how long a training is; nothing here depends on it."""

    def metadata(self) -> list[dict[str, Any]]:
        """Every [[datasets]] table as musubi-tuner describes its own (`VideoDataset.get_metadata`)."""
        return [
            {
                "resolution": list(dataset.resolution),
                "caption_extension": dataset.caption_extension,
                "batch_size_per_device": dataset.batch_size,
                "num_repeats": dataset.num_repeats,
                "enable_bucket": dataset.enable_bucket,
                "bucket_no_upscale": dataset.bucket_no_upscale,
                "video_directory": dataset.video_directory.name if dataset.video_directory else None,
                "frame_extraction": dataset.frame_extraction,
                "target_frames": list(dataset.target_frames),
            }
            for dataset in self.config.datasets
        ]

    def set_epoch(self, epoch: int) -> None:
        """Order the batches of this epoch: a function of seed + epoch, not of the epochs before."""
        self._epoch.value = epoch

    @property
    def _batches(self) -> list[list[Item]]:
        epoch, batches = self._ordered
        if epoch != self._epoch.value:
            epoch = self._epoch.value
            batches = self._order(epoch)
            self._ordered = epoch, batches
        return batches

    def _order(self, epoch: int) -> list[list[Item]]:
        rng = random.Random(self.seed + epoch)
        buckets: defaultdict[tuple[int, ...], list[Item]] = defaultdict(list)
        for item in self.items:
            repeats = self.config.datasets[item.dataset].num_repeats if self.split == "train" else 1
            buckets[item.bucket] += [item] * repeats
        batches: list[list[Item]] = []
        for bucket in sorted(buckets):
            if self.split == "train":
                rng.shuffle(buckets[bucket])
            batches += _chunks(buckets[bucket], self.config.datasets[bucket[0]].batch_size)
        if self.split == "train":
            rng.shuffle(batches)
        return batches

    def __len__(self) -> int:
        """Batches in an epoch; the last of a bucket may be short, none is dropped."""
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        loaded = [{**self._load(item.latents), **self._load(item.text)} for item in self._batches[index]]
        keys = [key for key in ("latents", "latents_image") if key in loaded[0]]
        stacked: Batch = {key: torch.stack([tensors[key] for tensors in loaded]) for key in keys}
        return {**stacked, "t5": [tensors["t5"] for tensors in loaded], "timesteps": None}

    def batch_sources(self, index: int) -> list[Path]:
        """The latent files that batch `index` is made of, in order."""
        return [item.latents for item in self._batches[index]]

    def fingerprint(self) -> str:
        """SHA-256 of what the split holds: sources, conditioning, models and captions, whatever the folder's name."""
        digest = hashlib.sha256()
        for item in sorted(self.items, key=lambda item: (item.source, item.latents.name)):
            latents, text = read_metadata(item.latents), read_metadata(item.text)
            repeats = self.config.datasets[item.dataset].num_repeats
            entry = latents.get("entry") or sha256(item.latents)  # upstream's files name no entry
            encoder = text.get("text_encoder") or sha256(item.text)
            digest.update(f"{entry} {item.latents.name} {encoder} {text.get('caption1')!r} {repeats}\n".encode())
        return digest.hexdigest()

    def _load(self, path: Path) -> dict[str, Tensor]:
        if self._loaded is None:
            return read_tensors(path)
        if path not in self._loaded:
            self._loaded[path] = read_tensors(path)
        return self._loaded[path]


def folder_fingerprint(config: DatasetConfig) -> str:
    """SHA-256 of every cache in the folders of a data set without an `[orbit]` table: musubi-tuner reads them all."""
    digest = hashlib.sha256()
    for dataset in config.datasets:
        for path in sorted(dataset.cache_directory.glob("*_wan*.safetensors")):
            digest.update(f"{path.name} {sha256(path)} {dataset.num_repeats}\n".encode())
    return digest.hexdigest()


def holdout_sources(sources: Sequence[str], share: float) -> frozenset[str]:
    """Hashes of the clips kept from training: the smallest of them, a `share` of all, at least one when share > 0.

    Chosen by content: renaming or reordering clips changes nothing, adding one moves at most one other, and copies of a
    clip stay on one side. One clip alone is never held out.
    """
    unique = sorted(set(sources))
    if share <= 0 or len(unique) < 2:
        return frozenset()
    return frozenset(unique[: max(1, min(round(share * len(unique)), len(unique) - 1))])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A cache file's tensors under the names that training uses: latents, latents_image, t5."""
    with safe_open(path, "pt") as file:
        return {_content_key(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping


def _content_key(key: str) -> str:
    """latents_image_5x8x8_float32 → latents_image; varlen_t5_bfloat16 → t5 (no dtype trained in has a _)."""
    name = key.removeprefix("varlen_").rsplit("_", 1)[0]
    return name.rsplit("_", 1)[0] if name.startswith("latents_") else name


def _cached_items(config: DatasetConfig, i2v: bool) -> Iterator[Item]:
    problems = Problems()
    found = trainable(config, problems)
    if not found and not problems.found:
        raise UserError(f"{config.path}: expected cached clips, found none (cache the data set first)")
    for one in found:
        for file in one.files:
            if i2v and "latents_image" not in _tensor_names(file.path):
                fix = "cache again for image-to-video"
                problems.add(file.path, "expected image conditioning, found latents alone", fix)
            yield Item(one.dataset, file.path, one.text, file.window[1], file.size, one.source)
    problems.raise_if_any()


def _tensor_names(path: Path) -> set[str]:
    with safe_open(path, "pt") as tensors:
        return {_content_key(key) for key in tensors.keys()}  # noqa: SIM118 - no mapping


def _chunks(items: list[Item], size: int) -> list[list[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _bytes(items: Sequence[Item]) -> int:
    return sum(path.stat().st_size for path in {path for item in items for path in (item.latents, item.text)})
