"""Which caches may be trained on: those of these very clips and settings, and why others may not.

musubi-tuner's trainer takes every file of the folder, also those of clips and settings that are gone. Its own files
carry no key; they are taken for the clips whose names they bear, as long as their frames and size fit the settings.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.orbits.buckets import bucket_sizes
from musubi_ext.orbits.cache.entries import Entry, Recognition, Variant
from musubi_ext.orbits.cache.files import LatentFile, latent_files, read_metadata, text_path
from musubi_ext.orbits.cache.index import CacheIndex
from musubi_ext.orbits.config import DatasetConfig, VideoDataset
from musubi_ext.orbits.schema import STEP
from musubi_ext.orbits.sources import Clip

NAMED = 8  # clips named for each reason; the rest are counted
CHANGED = "the clip itself"  # in a reason: its file is another one than was cached


@dataclass(frozen=True)
class Trainable:
    """The cached windows of one variant of a clip. `source`: SHA-256 of the clip; models are "" when unknown."""

    dataset: int  # index of its [[datasets]] table
    variant: Variant
    files: tuple[LatentFile, ...]
    text: Path
    source: str
    vae: str = ""
    text_encoder: str = ""


@dataclass
class Faults:
    """Clips of one folder by what is wrong with their caches: a line for each reason, not for each clip."""

    folder: Path
    clips: defaultdict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def report(self, problems: Problems, again: str) -> None:
        """Record a line for each reason; `again` is the remedy."""
        for reason, paths in self.clips.items():
            paths = list(dict.fromkeys(paths))
            names = ", ".join(shown(path) for path in paths[:NAMED])
            more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
            what = f"{len(paths)} clips are" if len(paths) > 1 else "1 clip is"
            problems.add(self.folder, f"{what} {reason}: {names}{more}", again)


def trainable(config: DatasetConfig, problems: Problems) -> list[Trainable]:
    """Of every clip that has caches, the variants that may be trained on; clips without any cache are left out.

    Recorded in `problems`: clips that have stale caches only, that lack a variant, whose caption has changed, and
    models that differ between clips. Hashes of clips come from the index beside the folder as long as they stand there.
    """
    again = f"cache again: musubi-ext data cache --dataset_config {config.path}, with the models as before"
    found: list[Trainable] = []
    for index, dataset in enumerate(config.datasets):
        known = Recognition(config.orbit, CacheIndex(dataset.cache_directory), latent_files(dataset.cache_directory))
        faults = Faults(dataset.cache_directory)
        for clip in dataset.find_clips(problems):
            try:
                found += _of_clip(index, dataset, clip, known, faults)
            except UserError as error:
                problems.found += error.problems
        known.index.save()
        faults.report(problems, again)
    _check_one(config, "VAE", [one.vae for one in found], problems)
    _check_one(config, "text encoder", [one.text_encoder for one in found], problems)
    return found


def usable_files(entry: Entry, dataset: VideoDataset, known: Recognition) -> list[LatentFile]:
    """An entry's finished files; where there are none, those of musubi-tuner that fit.

    It makes no others than those of the clip as it is, given the first frame.
    """
    files = known.existing.get(entry.variant.stem, [])
    if entry.finished or entry.variant.mirrored or entry.metadata["condition"] != "first":
        return [file for file in files if file.path in entry.files]
    return [file for file in files if _fits(file, dataset) and known.foreign(file.path)]


def _of_clip(index: int, dataset: VideoDataset, clip: Clip, known: Recognition, faults: Faults) -> Iterator[Trainable]:
    entries = known.plan(dataset, clip, None).entries
    files = [usable_files(entry, dataset, known) for entry in entries]
    cached = any(known.existing.get(entry.variant.stem) for entry in entries)
    for entry, usable in zip(entries, files, strict=True):
        if usable:
            yield from _with_text(index, dataset, clip, entry, usable, known, faults)
        elif stale := known.existing.get(entry.variant.stem):
            faults.clips[_why_stale(entry, dataset, stale)].append(clip.path)
        elif cached:
            form = "mirrored" if entry.variant.mirrored else "as it is"
            faults.clips[f"cached, but not {form}"].append(clip.path)


def _with_text(
    index: int,
    dataset: VideoDataset,
    clip: Clip,
    entry: Entry,
    files: Sequence[LatentFile],
    known: Recognition,
    faults: Faults,
) -> Iterator[Trainable]:
    text = text_path(dataset.cache_directory, entry.variant.stem)
    metadata = known.metadata(text)
    if not text.is_file():
        faults.clips["without its caption's cache"].append(clip.path)
    elif "caption1" not in metadata:
        faults.clips["cached with a damaged caption"].append(clip.path)
    elif metadata["caption1"].strip() != entry.variant.caption:
        faults.clips["cached for other settings: the caption"].append(clip.path)
    else:
        vae = entry.metadata["vae"] if entry.finished else ""
        source = entry.metadata["source_sha256"]
        yield Trainable(index, entry.variant, tuple(files), text, source, vae, metadata.get("text_encoder", ""))


def _why_stale(entry: Entry, dataset: VideoDataset, files: Sequence[LatentFile]) -> str:
    """What the least different of an entry's stale files was made for."""
    reasons = [_differences(entry, dataset, file) for file in files]
    fewest = min(reasons, key=len)
    if not fewest:
        return "not cached to the end"
    return "cached with damaged files" if fewest == ["damage"] else "cached for other settings: " + ", ".join(fewest)


def _differences(entry: Entry, dataset: VideoDataset, file: LatentFile) -> list[str]:
    """Names of what a file was made for and the settings do not ask for; none for a window of an unfinished entry."""
    found = read_metadata(file.path)
    if not found:
        return ["damage"]
    if found.get("entry") == entry.metadata["entry"]:
        return []
    changed = found.get("source_sha256", entry.metadata["source_sha256"]) != entry.metadata["source_sha256"]
    names = [CHANGED] if changed else []
    if not changed and found.get("condition", "first") != entry.metadata["condition"]:  # "mixed" goes by the clip
        names.append("condition")
    was, now = json.loads(found.get("settings", "{}")), json.loads(entry.metadata["settings"])
    names += [key for key in was if was[key] != now.get(key)]
    if not was:  # a file of musubi-tuner's, or of our first version
        names += [] if _fits_size(file, dataset) else ["resolution"]
        names += [] if _fits_window(file, dataset) else ["target_frames"]
    return names or ["settings that the files do not name"]


def _fits(file: LatentFile, dataset: VideoDataset) -> bool:
    return _fits_size(file, dataset) and _fits_window(file, dataset)


def _fits_window(file: LatentFile, dataset: VideoDataset) -> bool:
    full = dataset.frame_extraction == "full"
    return file.window[1] <= dataset.max_frames if full else file.window[1] in dataset.target_frames


def _fits_size(file: LatentFile, dataset: VideoDataset) -> bool:
    """Whether clips of the data set are resized to the file's size."""
    if not dataset.enable_bucket:
        return file.size == dataset.resolution
    small = file.size[0] * file.size[1] <= dataset.resolution[0] * dataset.resolution[1]
    unscaled = dataset.bucket_no_upscale and small and not any(side % STEP for side in file.size)
    return unscaled or file.size in bucket_sizes(dataset.resolution)


def _check_one(config: DatasetConfig, model: str, used: Sequence[str], problems: Problems) -> None:
    counts = Counter(one for one in used if one)
    if len(counts) > 1:
        each = ", ".join(f"{count} of {name[:8]}" for name, count in counts.most_common())
        problems.add(config.path, f"expected caches of one {model}, found {each}", "cache again with one")
