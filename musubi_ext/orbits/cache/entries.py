"""One clip's cache entries: what they are made from, which are finished, and the frames of those that are not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from musubi_ext.errors import UserError, shown
from musubi_ext.orbits.cache.files import LatentFile, entry_key, latent_path, read_metadata, text_path
from musubi_ext.orbits.cache.index import CacheIndex, stamp_of
from musubi_ext.orbits.captions import mirror_caption
from musubi_ext.orbits.conditioning import clip_condition
from musubi_ext.orbits.config import OrbitOptions, VideoDataset
from musubi_ext.orbits.sources import Clip
from musubi_ext.orbits.windows import windows
from musubi_ext.storage import sha256
from musubi_ext.video import Frames

SETTINGS = ("resolution", "enable_bucket", "bucket_no_upscale", "frame_extraction", "target_frames", "frame_stride",
            "frame_sample", "max_frames", "source_fps")  # fmt: skip # keys of the TOML that shape latents
RECORDED = ("entry", "windows", "vae", "caption1", "text_encoder", "tokens")  # of a cache's metadata, in the index


@dataclass(frozen=True)
class Variant:
    """A clip as it is or mirrored: what one set of cache files is made of."""

    stem: str
    caption: str
    mirrored: bool


def variants(clip: Clip, mirror: bool) -> list[Variant]:
    """The clip, and with `mirror` its left-right reflection with the caption's directions swapped."""
    plain = Variant(clip.stem, clip.caption, False)
    return [plain, Variant(clip.mirrored_stem, mirror_caption(clip.caption), True)] if mirror else [plain]


@dataclass
class Entry:
    """A variant's latents: the metadata they must carry, the finished files, and those written since."""

    variant: Variant
    metadata: dict[str, str]
    files: set[Path]

    @property
    def finished(self) -> bool:
        """Whether nothing has to be encoded."""
        return bool(self.files)


@dataclass
class ClipPlan:
    """One clip under one configuration: its entries, and why it was left out if it was."""

    dataset: VideoDataset
    clip: Clip
    entries: list[Entry]
    foreign: bool = False  # not finished, but musubi-tuner's own files are there
    problem: str = ""
    pending: int = 0  # windows that are not on disk yet
    written: list[Path] = field(default_factory=list)  # by this run

    @property
    def finished(self) -> bool:
        """Whether the clip need not be decoded."""
        return all(entry.finished for entry in self.entries)

    def text_files(self) -> list[Path]:
        """Where the captions' embeddings belong."""
        return [text_path(self.dataset.cache_directory, entry.variant.stem) for entry in self.entries]


@dataclass
class Recognition:
    """Finds finished entries: by the index where files are unchanged, else by hashing clips and reading headers."""

    orbit: OrbitOptions
    index: CacheIndex
    existing: Mapping[str, list[LatentFile]] = field(default_factory=dict)

    def plan(self, dataset: VideoDataset, clip: Clip, vae: str | None) -> ClipPlan:
        """What is finished of a clip; with `vae` None, whichever VAE made its files. Raises UserError if unreadable."""
        source = self._source(clip.path)
        return ClipPlan(
            dataset, clip, [self._entry(dataset, one, source, vae) for one in variants(clip, self.orbit.mirror)]
        )

    def _entry(self, dataset: VideoDataset, variant: Variant, source: str, vae: str | None) -> Entry:
        found = {file.path: self.metadata(file.path) for file in self.existing.get(variant.stem, [])}
        vaes = (
            [vae] if vae is not None else list(dict.fromkeys(data["vae"] for data in found.values() if "vae" in data))
        )
        entries = []
        for made_by in vaes or [""]:
            metadata = entry_metadata(self.orbit, dataset, variant, source, made_by)
            entries.append(Entry(variant, metadata, _complete(found, metadata["entry"])))
        return next((entry for entry in entries if entry.finished), entries[0])

    def foreign(self, path: Path) -> bool:
        """Whether a cache is a readable one of musubi-tuner's, without our key."""
        return "entry" not in self.metadata(path) and "architecture" in read_metadata(path)

    def metadata(self, path: Path) -> dict[str, str]:
        """A cache file's metadata as far as it decides anything; empty when it is absent or damaged. UserError."""
        stamp = stamp_of(path)
        known = self.index.get("file", path.name, stamp)
        if known is None:
            metadata = read_metadata(path)
            known = {key: metadata[key] for key in RECORDED if key in metadata}
            self.index.put("file", path.name, stamp, known)
        return dict(known)

    def _source(self, path: Path) -> str:
        try:
            stamp = stamp_of(path)
            known = self.index.get("source", str(path), stamp)
            if known is None:
                known = sha256(path)
                self.index.put("source", str(path), stamp, known)
        except OSError as error:
            raise UserError(f"{shown(path)}: cannot be read: {error.strerror} (check its permissions)") from error
        return str(known)


def entry_metadata(
    orbit: OrbitOptions, dataset: VideoDataset, variant: Variant, source: str, vae: str
) -> dict[str, str]:
    """What an entry is made from; "entry" is the hash of it all and of every setting that shapes it, "settings" those
    settings as JSON, so that a stale entry can say which of them it was made for."""
    made_from = {"source_sha256": source, "condition": clip_condition(orbit.condition, source), "vae": vae}
    keyed = {
        "resolution": [*dataset.resolution, dataset.enable_bucket, dataset.bucket_no_upscale],
        "windows": [dataset.frame_extraction, dataset.target_frames, dataset.frame_stride, dataset.frame_sample],
        "max_frames": dataset.max_frames,
        "source_fps": dataset.source_fps,
        "mirrored": variant.mirrored,
    }
    settings = {key: getattr(dataset, key) for key in SETTINGS}
    return {**made_from, "entry": entry_key({**made_from, **keyed}), "settings": json.dumps(settings)}


def _complete(found: Mapping[Path, Mapping[str, str]], entry: str) -> set[Path]:
    """The files of this very entry if all its windows are there, else none."""
    files = {path: int(data["windows"]) for path, data in found.items() if data.get("entry") == entry}
    return set(files) if files and len(files) == max(files.values()) else set()


@dataclass(frozen=True)
class Window:
    """One cache file to write: its frames (F, H, W, 3), and what it belongs to."""

    plan: ClipPlan
    entry: Entry
    file: LatentFile
    frames: Frames
    count: int  # windows of the entry

    @property
    def shape(self) -> tuple[object, ...]:
        """Windows of one shape and condition are encoded together."""
        return (*self.frames.shape, self.entry.metadata["condition"])


def missing_windows(plan: ClipPlan, frames: Frames) -> Iterable[Window]:
    """Every window of the entries that are not finished."""
    size = frames.shape[2], frames.shape[1]
    spans = windows(plan.dataset, len(frames))
    unfinished = [entry for entry in plan.entries if not entry.finished]
    plan.pending = len(spans) * len(unfinished)
    for entry in unfinished:
        picture = frames[:, :, ::-1] if entry.variant.mirrored else frames
        for span in spans:
            path = latent_path(plan.dataset.cache_directory, entry.variant.stem, span, size)
            window = picture[span[0] : sum(span)].copy()  # torch takes no negative strides
            yield Window(plan, entry, LatentFile(path, entry.variant.stem, span, size), window, len(spans))
