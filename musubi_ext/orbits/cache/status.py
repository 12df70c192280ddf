"""What a cache folder holds: finished clips, clips still to encode, and stale files that no setting asks for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from musubi_ext.errors import Problems, UserError
from musubi_ext.orbits.cache.entries import ClipPlan, Recognition
from musubi_ext.orbits.cache.files import latent_files, text_files
from musubi_ext.orbits.cache.index import CacheIndex
from musubi_ext.orbits.config import DatasetConfig, VideoDataset


@dataclass
class CacheStatus:
    """Plans of every clip (`finished` or not), captions without a cache, stale files with their bytes."""

    plans: list[ClipPlan] = field(default_factory=list)
    captions_missing: list[Path] = field(default_factory=list)
    stale: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    encoders: Counter[str] = field(default_factory=Counter)  # clips by the VAE that made their latents

    @property
    def complete(self) -> bool:
        """Whether nothing is left to encode."""
        return not self.captions_missing and not self.unreadable and all(plan.finished for plan in self.plans)

    def report(self) -> str:
        """Lines for the terminal, every missing and stale file named."""
        missing = [str(plan.clip.path) for plan in self.plans if not plan.finished]
        size = sum(path.stat().st_size for path in self.stale if path.exists())
        lines = [
            f"{len(self.plans) - len(missing)} of {len(self.plans)} clips cached, {len(missing)} missing, "
            f"{len(self.captions_missing)} captions missing, {len(self.stale)} stale files ({size / 1e6:.1f} MB)"
        ]
        if len(self.encoders) > 1:
            counts = ", ".join(f"{vae[:12]} {count}" for vae, count in self.encoders.most_common())
            lines.append(f"  made with {len(self.encoders)} VAEs ({counts}): cache again with one")
        lines += [f"  missing: {path}" for path in missing]
        lines += [f"  caption missing: {path}" for path in self.captions_missing]
        lines += [f"  stale: {path}" for path in self.stale]
        return "\n".join([*lines, *(f"  unreadable: {reason}" for reason in self.unreadable)])


def cache_status(config: DatasetConfig, vae: str | None = None) -> CacheStatus:
    """Survey every cache folder, decoding nothing; with `vae`, a `vae_id`, entries of other VAEs are stale."""
    status, problems = CacheStatus(), Problems()
    for dataset in config.datasets:
        index = CacheIndex(dataset.cache_directory)
        _survey(config, dataset, Recognition(config.orbit, index, latent_files(dataset.cache_directory)), status,
                problems, vae)  # fmt: skip
        if dataset.cache_directory.is_dir():
            index.save()
    problems.raise_if_any()
    return status


def _survey(
    config: DatasetConfig,
    dataset: VideoDataset,
    known: Recognition,
    status: CacheStatus,
    problems: Problems,
    vae: str | None,
) -> None:
    kept: set[Path] = set()
    for clip in dataset.find_clips(problems):
        try:
            plan = known.plan(dataset, clip, vae)
        except UserError as error:
            status.unreadable += error.problems
            continue
        status.plans.append(plan)
        for entry, text in zip(plan.entries, plan.text_files(), strict=True):
            kept |= entry.files
            status.encoders.update([entry.metadata["vae"]] if entry.finished else [])
            if known.metadata(text).get("caption1") == entry.variant.caption:
                kept.add(text)
            else:
                status.captions_missing.append(text)
    latents = [file.path for group in known.existing.values() for file in group]
    texts = text_files(dataset.cache_directory).values()
    status.stale += [path for path in [*latents, *texts] if path not in kept]
