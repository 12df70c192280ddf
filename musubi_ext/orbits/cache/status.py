"""What a cache folder holds: finished clips, clips still to encode, and stale files that no setting asks for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.orbits.cache.entries import ClipPlan, Recognition, variants
from musubi_ext.orbits.cache.files import latent_files, leftovers, text_files, text_path
from musubi_ext.orbits.cache.index import CacheIndex
from musubi_ext.orbits.cache.trainable import usable_files
from musubi_ext.orbits.config import DatasetConfig, VideoDataset
from musubi_ext.orbits.sources import Clip


@dataclass
class CacheStatus:
    """Plans of every clip (`finished` or not), captions without a cache, stale files."""

    plans: list[ClipPlan] = field(default_factory=list)
    captions_missing: list[Path] = field(default_factory=list)
    stale: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    encoders: Counter[str] = field(default_factory=Counter)  # entries by the VAE that made their latents
    text_encoders: Counter[str] = field(default_factory=Counter)  # captions by what made their embedding

    @property
    def missing(self) -> list[Path]:
        """Clips without a cache that can be trained on."""
        return [plan.clip.path for plan in self.plans if not plan.finished and not plan.foreign]

    @property
    def complete(self) -> bool:
        """Whether everything can be trained on as it is."""
        one_each = len(self.encoders) <= 1 and len(self.text_encoders) <= 1
        return one_each and not self.captions_missing and not self.unreadable and not self.missing

    def report(self) -> str:
        """Lines for the terminal, every missing and stale file named."""
        size = sum(path.lstat().st_size for path in self.stale if path.is_symlink() or path.exists())
        lines = [
            f"{len(self.plans) - len(self.missing)} of {len(self.plans)} clips cached, {len(self.missing)} missing, "
            f"{len(self.captions_missing)} captions missing, {len(self.stale)} stale files ({size / 1e6:.1f} MB)"
        ]
        if foreign := sum(plan.foreign for plan in self.plans):
            lines.append(f"  {foreign} cached by musubi-tuner, which does not record from what: caching encodes"
                         " them again")  # fmt: skip
        for name, counted in (("VAEs", self.encoders), ("text encoders", self.text_encoders)):
            if len(counted) > 1:
                counts = ", ".join(f"{count} of {model[:8]}" for model, count in counted.most_common())
                lines.append(f"  made with {len(counted)} {name} ({counts}): cache again with one")
        lines += [f"  missing: {shown(path)}" for path in self.missing]
        lines += [f"  caption missing: {shown(path)}" for path in self.captions_missing]
        lines += [f"  stale: {shown(path)}" for path in self.stale]
        return "\n".join([*lines, *(f"  unreadable: {reason}" for reason in self.unreadable)])


def cache_status(config: DatasetConfig, vae: str | None = None) -> CacheStatus:
    """Survey every cache folder, decoding nothing; with `vae`, a `vae_id`, entries of other VAEs are stale.

    Raises UserError when the data set itself is wrong or a folder cannot be read.
    """
    status, problems = CacheStatus(), Problems()
    for dataset in config.datasets:
        survey = _Survey(config, dataset, vae, status)
        for clip in dataset.find_clips(problems):
            survey.add(clip)
        survey.end()
    problems.raise_if_any()
    return status


class _Survey:
    """One folder's part of a status."""

    def __init__(self, config: DatasetConfig, dataset: VideoDataset, vae: str | None, status: CacheStatus) -> None:
        self.dataset, self.vae, self.status, self.mirror = dataset, vae, status, config.orbit.mirror
        folder = dataset.cache_directory
        self.known = Recognition(config.orbit, CacheIndex(folder), latent_files(folder))
        self.kept: set[Path] = set()

    def add(self, clip: Clip) -> None:
        """Count a clip; what cannot be read now keeps what it has."""
        try:
            plan = self.known.plan(self.dataset, clip, self.vae)
        except UserError as error:
            self.status.unreadable += error.problems
            for variant in variants(clip, self.mirror):
                self.kept |= {file.path for file in self.known.existing.get(variant.stem, [])}
                self.kept.add(text_path(self.dataset.cache_directory, variant.stem))
            return
        self.status.plans.append(plan)
        usable = [usable_files(entry, self.dataset, self.known) for entry in plan.entries]
        self.kept |= {file.path for files in usable for file in files}
        plan.foreign = all(usable) and not plan.finished
        for entry, text in zip(plan.entries, plan.text_files(), strict=True):
            self.status.encoders.update([entry.metadata["vae"]] if entry.finished else [])
            self._add_caption(entry.variant.caption, text)

    def _add_caption(self, caption: str, text: Path) -> None:
        metadata = self.known.metadata(text)
        if metadata.get("caption1", "").strip() == caption:
            self.kept.add(text)
            self.status.text_encoders.update([metadata["text_encoder"]] if "text_encoder" in metadata else [])
        else:
            self.status.captions_missing.append(text)

    def end(self) -> None:
        """Everything that no clip asks for is stale."""
        folder = self.dataset.cache_directory
        latents = [file.path for group in self.known.existing.values() for file in group]
        files = [*latents, *text_files(folder).values(), *leftovers(folder)]
        self.status.stale += [path for path in files if path not in self.kept]
        self.known.index.save()
