"""Whether a data set's caches are what the training wants, from names and headers: a day's caching, checked in seconds.

musubi-tuner trains on whatever files lie in the folder: caches of another VAE or size, or without the text, which it
leaves out with a warning.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from musubi_ext.adapters.updates import listed
from musubi_ext.errors import Problems
from musubi_ext.orbits.buckets import Size, bucket_sizes
from musubi_ext.orbits.cache.entries import variants
from musubi_ext.orbits.cache.files import LatentFile, latent_files, text_path
from musubi_ext.orbits.conditioning import clip_condition
from musubi_ext.orbits.config import DatasetConfig, VideoDataset
from musubi_ext.orbits.schema import STEP

CHANNELS, CONDITION_CHANNELS = 16, 20  # of Wan's latents, and of them with the mask before them
SPATIAL, TEMPORAL = 8, 4  # pixels and frames to a latent
AGAIN = "cache the data set again"
_SHOWN = 3  # files named for each fault


@dataclass
class Caches:
    """What a data set's latent caches say of themselves."""

    files: int = 0
    vaes: Counter[str] = field(default_factory=Counter)  # SHA-256 of the encoder, for caches of ours
    unknown: int = 0  # caches that name no VAE, as musubi-tuner's do

    def describe(self) -> str:
        """ "8 caches of one VAE", or how many of them do not say."""
        vaes = ", ".join(f"{count} of VAE {vae[:8]}" for vae, count in self.vaes.most_common())
        unknown = f"{self.unknown} of an unknown VAE" if self.unknown else ""
        return f"{self.files} caches: " + ", ".join(part for part in (vaes, unknown) if part)


def check_caches(data: DatasetConfig, problems: Problems, *, i2v: bool = True) -> Caches:
    """Record what is wrong with the latent caches that `data` refers to, a line per fault and folder.

    Those of its clips; without an `[orbit]` table every file of the folder, as musubi-tuner reads them. Expected are
    sizes of the data set's resolution, latents (16, F, H/8, W/8), for `i2v` their conditioning (20, …) made as
    `[orbit]` says, a caption's cache for each clip, and one VAE for all. A cache that names no VAE is counted only.
    """
    found, before = Caches(), len(problems.found)
    for dataset in data.datasets:
        faults: defaultdict[tuple[str, str], list[Path]] = defaultdict(list)
        for file in _files(data, dataset, problems):
            found.files += 1
            for fault in _faults(file, data, dataset, found, i2v=i2v):
                faults[fault].append(file.path)
        for (message, fix), paths in faults.items():
            names = listed(path.name for path in paths[:_SHOWN]) + (", …" if len(paths) > _SHOWN else "")
            problems.add(dataset.cache_directory, f"{len(paths)} caches {message}: {names}", fix)
    if len(found.vaes) > 1:
        problems.add(data.path, f"expected caches of one VAE, found {found.describe()}", AGAIN)
    if not found.files and len(problems.found) == before:
        problems.add(data.path, "expected cached clips, found none", "cache the data set first")
    return found


def _files(data: DatasetConfig, dataset: VideoDataset, problems: Problems) -> Iterator[LatentFile]:
    files = latent_files(dataset.cache_directory)
    if not data.orbit_given:
        yield from (file for group in files.values() for file in group)
        return
    wanted = [variant.stem for clip in dataset.find_clips(problems) for variant in variants(clip, data.orbit.mirror)]
    for stem in wanted:
        yield from files.get(stem, [])
    missing = [stem for stem in wanted if stem not in files]
    if 0 < len(missing) < len(wanted):
        names = listed(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        fix = "cache them (musubi-tuner leaves out what is too short, and mirrors nothing), or remove the clips"
        problems.add(dataset.cache_directory, f"{len(missing)} clips have no cache: {names}", fix)


def _faults(
    file: LatentFile, data: DatasetConfig, dataset: VideoDataset, found: Caches, *, i2v: bool
) -> Iterator[tuple[str, str]]:
    """(message, fix) of everything that is wrong with one file; its VAE is counted in `found`."""
    try:
        shapes, metadata = _header(file.path)
    except SafetensorError:
        yield "are damaged", "delete them and " + AGAIN
        return
    if vae := metadata.get("vae"):
        found.vaes[vae] += 1
    else:
        found.unknown += 1
    if not _is_bucket(file.size, dataset):
        yield f"are not of resolution {list(dataset.resolution)}", AGAIN
    if shapes.get("latents") != _expected(file, CHANNELS):
        yield "hold latents of another size than their name says", AGAIN
    if i2v:
        yield from _conditioning(file, data, shapes, metadata)
    if not text_path(dataset.cache_directory, file.stem).is_file():
        yield "have no caption's cache beside them", "cache the captions"


def _conditioning(
    file: LatentFile, data: DatasetConfig, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]
) -> Iterator[tuple[str, str]]:
    if "latents_image" not in shapes:
        yield "hold no image conditioning", "cache again for image-to-video (musubi-tuner: --i2v)"
        return
    if shapes["latents_image"] != _expected(file, CONDITION_CHANNELS):
        yield "hold image conditioning of another size than their name says", AGAIN
    option = data.orbit.condition
    made, source = metadata.get("condition", "first"), metadata.get("source_sha256", "")  # upstream makes no other
    wanted = clip_condition(option, source) if source or option != "mixed" else "mixed"
    if made != wanted:
        yield f'are made for condition "{made}", [orbit] says "{option}"', "cache again by musubi-ext data cache"


def _header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes of latents and conditioning by name, and the metadata."""
    with safe_open(path, "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
        metadata = dict(file.metadata() or {})
    names = {key: "latents_image" if key.startswith("latents_image_") else key.partition("_")[0] for key in shapes}
    return {names[key]: shape for key, shape in shapes.items()}, metadata


def _expected(file: LatentFile, channels: int) -> tuple[int, ...]:
    width, height = file.size
    return channels, (file.window[1] - 1) // TEMPORAL + 1, height // SPATIAL, width // SPATIAL


def _is_bucket(size: Size, dataset: VideoDataset) -> bool:
    """Whether clips of the data set are resized to `size` (width, height)."""
    if not dataset.enable_bucket:
        return size == dataset.resolution
    small = size[0] * size[1] <= dataset.resolution[0] * dataset.resolution[1] and not any(s % STEP for s in size)
    return size in bucket_sizes(dataset.resolution) or (dataset.bucket_no_upscale and small)
