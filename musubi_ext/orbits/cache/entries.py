"""One clip's cache entries: what they are made from, which are finished, and the frames of those that are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from musubi_ext.errors import UserError
from musubi_ext.orbits.buckets import choose_bucket
from musubi_ext.orbits.cache.files import LatentFile, entry_key, latent_path, read_metadata, text_path
from musubi_ext.orbits.cache.index import CacheIndex, stamp_of
from musubi_ext.orbits.captions import mirror_caption
from musubi_ext.orbits.conditioning import clip_condition
from musubi_ext.orbits.config import OrbitOptions, VideoDataset
from musubi_ext.orbits.decode.pool import DecodePool
from musubi_ext.orbits.sources import Clip
from musubi_ext.orbits.windows import frames_needed, windows
from musubi_ext.storage import sha256
from musubi_ext.video import Frames

MIRRORED = "-mirrored"  # appended to the stem of a mirrored clip's caches
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
    return [plain, Variant(clip.stem + MIRRORED, mirror_caption(clip.caption), True)] if mirror else [plain]


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
    problem: str = ""
    pending: int = 0  # windows that are not on disk yet

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
        entries = []
        for variant in variants(clip, self.orbit.mirror):
            found = {file.path: self.metadata(file.path) for file in self.existing.get(variant.stem, [])}
            made_by = vae if vae is not None else next((data["vae"] for data in found.values() if "vae" in data), "")
            metadata = entry_metadata(self.orbit, dataset, variant, source, made_by)
            entries.append(Entry(variant, metadata, _complete(found, metadata["entry"])))
        return ClipPlan(dataset, clip, entries)

    def trainable(self, dataset: VideoDataset, clip: Clip) -> dict[str, list[LatentFile]]:
        """By variant's stem, the files that may be trained on: finished entries of these very settings and this very
        clip, and files that are not ours, which say nothing of what they were made from. Raises UserError."""
        usable = {}
        for entry in self.plan(dataset, clip, None).entries:
            files = self.existing.get(entry.variant.stem, [])
            foreign = [file for file in files if self._foreign(file.path)]
            usable[entry.variant.stem] = [file for file in files if file.path in entry.files or file in foreign]
        return usable

    def _foreign(self, path: Path) -> bool:
        """A readable cache without our key: upstream's."""
        return "entry" not in self.metadata(path) and bool(read_metadata(path))

    def metadata(self, path: Path) -> dict[str, str]:
        """A cache file's metadata as far as it decides anything; empty when it is absent or damaged."""
        stamp = stamp_of(path)
        known = self.index.get("file", path.name, stamp)
        if known is None:
            metadata = read_metadata(path)
            known = {key: metadata[key] for key in RECORDED if key in metadata}
            self.index.put("file", path.name, stamp, known)
        return dict(known)

    def _source(self, path: Path) -> str:
        stamp = stamp_of(path)
        known = self.index.get("source", str(path), stamp)
        if known is None:
            try:
                known = sha256(path)
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror} (check its permissions)") from error
            self.index.put("source", str(path), stamp, known)
        return str(known)


def entry_metadata(
    orbit: OrbitOptions, dataset: VideoDataset, variant: Variant, source: str, vae: str
) -> dict[str, str]:
    """What an entry is made from; "entry" is the hash of it all and of every setting that shapes it."""
    made_from = {"source_sha256": source, "condition": clip_condition(orbit.condition, source), "vae": vae}
    settings = {
        "resolution": [*dataset.resolution, dataset.enable_bucket, dataset.bucket_no_upscale],
        "windows": [dataset.frame_extraction, dataset.target_frames, dataset.frame_stride, dataset.frame_sample],
        "max_frames": dataset.max_frames,
        "source_fps": dataset.source_fps,
        "mirrored": variant.mirrored,
    }
    return {**made_from, "entry": entry_key({**made_from, **settings})}


def _complete(found: Mapping[Path, Mapping[str, str]], entry: str) -> set[Path]:
    """The files of this very entry if all its windows are there, else none."""
    files = {path: int(data["windows"]) for path, data in found.items() if data.get("entry") == entry}
    return set(files) if files and len(files) == max(files.values()) else set()


def decode(dataset: VideoDataset, clip: Clip, pool: DecodePool) -> Frames:
    """The clip's frames at its bucket's size: uint8 (F, H, W, 3). Raises UserError when it cannot be used."""
    info = pool.probe(clip.path)
    size = choose_bucket(
        info.size, dataset.resolution, enable_bucket=dataset.enable_bucket, no_upscale=dataset.bucket_no_upscale
    )
    frames = pool.load(clip.path, size, limit=frames_needed(dataset), source_fps=dataset.source_fps)
    if not windows(dataset, len(frames)):
        raise UserError(
            f"{clip.path}: expected at least {min(dataset.target_frames)} frames, found {len(frames)}"
            " (use a longer clip or fewer target_frames)"
        )
    return frames


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
