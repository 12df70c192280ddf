"""One clip's cache entries: whether they are finished, and making those that are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from musubi_ext.errors import UserError
from musubi_ext.orbits.buckets import choose_bucket
from musubi_ext.orbits.cache_files import (
    LatentFile,
    entry_key,
    latent_path,
    read_metadata,
    text_path,
    write_latents,
    write_text,
)
from musubi_ext.orbits.captions import mirror_caption
from musubi_ext.orbits.clips import load_frames, probe
from musubi_ext.orbits.conditioning import clip_condition
from musubi_ext.orbits.config import OrbitOptions, VideoDataset
from musubi_ext.orbits.encoders import Encoders
from musubi_ext.orbits.sources import Clip
from musubi_ext.orbits.windows import frames_needed, windows
from musubi_ext.storage import sha256
from musubi_ext.video import Frames

MIRRORED = "-mirrored"  # appended to the stem of a mirrored clip's caches


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


@dataclass(frozen=True)
class Outcome:
    """The files that belong to a clip, whether it was decoded for them, and its caption's tokens before truncation."""

    files: frozenset[Path]
    encoded: bool
    tokens: int


@dataclass(frozen=True)
class ClipEntry:
    """The cache entries of one clip under one configuration; `existing` lists the folder's latent files by stem."""

    orbit: OrbitOptions
    dataset: VideoDataset
    clip: Clip
    encoders: Encoders
    existing: Mapping[str, list[LatentFile]]

    def ensure(self) -> Outcome:
        """Write whatever is missing, decoding the clip at most once. Raises UserError when the clip cannot be used."""
        source = sha256(self.clip.path)
        wanted = [(variant, self._metadata(variant, source)) for variant in variants(self.clip, self.orbit.mirror)]
        missing = [(variant, metadata) for variant, metadata in wanted if not self._finished(variant, metadata)]
        files = {path for variant, metadata in wanted for path in self._finished(variant, metadata)}
        if missing:
            frames = self._decode()
            files = files.union(*(self._encode(variant, frames, metadata) for variant, metadata in missing))
        files |= {self._ensure_text(variant) for variant, _ in wanted}
        return Outcome(frozenset(files), bool(missing), self.encoders.token_count(self.clip.caption))

    def _metadata(self, variant: Variant, source: str) -> dict[str, str]:
        """What the entry is made from; "entry" is the hash of it all and of every setting that shapes it."""
        made_from = {
            "source_sha256": source,
            "condition": clip_condition(self.orbit.condition, source),
            "vae": self.encoders.vae_id,
        }
        dataset = self.dataset
        settings = {
            "resolution": [*dataset.resolution, dataset.enable_bucket, dataset.bucket_no_upscale],
            "windows": [dataset.frame_extraction, dataset.target_frames, dataset.frame_stride, dataset.frame_sample],
            "max_frames": dataset.max_frames,
            "source_fps": dataset.source_fps,
            "mirrored": variant.mirrored,
        }
        return {**made_from, "entry": entry_key({**made_from, **settings})}

    def _finished(self, variant: Variant, wanted: Mapping[str, str]) -> set[Path]:
        """The variant's latent files if all are there and made from this very content, else an empty set."""
        found = {}
        for file in self.existing.get(variant.stem, []):
            metadata = read_metadata(file.path)
            if metadata.get("entry") == wanted["entry"]:
                found[file.path] = int(metadata["windows"])
        return set(found) if found and len(found) == max(found.values()) else set()

    def _decode(self) -> Frames:
        """The clip's frames at its bucket's size: uint8 (F, H, W, 3)."""
        dataset, info = self.dataset, probe(self.clip.path)
        size = choose_bucket(
            info.size, dataset.resolution, enable_bucket=dataset.enable_bucket, no_upscale=dataset.bucket_no_upscale
        )
        frames = load_frames(self.clip.path, size, limit=frames_needed(dataset), source_fps=dataset.source_fps)
        if not windows(dataset, len(frames)):
            raise UserError(
                f"{self.clip.path}: expected at least {min(dataset.target_frames)} frames, found {len(frames)}"
                " (use a longer clip or fewer target_frames)"
            )
        return frames

    def _encode(self, variant: Variant, frames: Frames, metadata: Mapping[str, str]) -> set[Path]:
        frames = frames[:, :, ::-1] if variant.mirrored else frames
        size = frames.shape[2], frames.shape[1]
        spans = windows(self.dataset, len(frames))
        written = set()
        for span in spans:
            path = latent_path(self.dataset.cache_directory, variant.stem, span, size)
            window = frames[span[0] : sum(span)].copy()  # torch takes no negative strides
            image = self.encoders.encode_condition(window, last=metadata["condition"] == "first_last")
            latents = self.encoders.encode_clip(window)
            file = LatentFile(path, variant.stem, span, size)
            write_latents(file, latents, image, {**metadata, "windows": str(len(spans))})
            written.add(path)
        return written

    def _ensure_text(self, variant: Variant) -> Path:
        path = text_path(self.dataset.cache_directory, variant.stem)
        wanted = {"caption1": variant.caption, "text_encoder": self.encoders.text_id}
        if not wanted.items() <= read_metadata(path).items():
            embedding = self.encoders.encode_caption(variant.caption)
            write_text(path, embedding, variant.caption, {"text_encoder": self.encoders.text_id})
        return path
