"""Encode a data set once: latents, conditioning and captions on disk, in musubi-tuner's format.

An entry is keyed by content, so a second run skips it without decoding the clip. A clip that cannot be read is
reported at the end and never stops the others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from musubi_ext.errors import Problems, UserError
from musubi_ext.orbits.cache_files import latent_files, text_files
from musubi_ext.orbits.config import DatasetConfig, VideoDataset
from musubi_ext.orbits.encoders import Encoders
from musubi_ext.orbits.entries import ClipEntry
from musubi_ext.orbits.sources import Clip

Job = tuple[VideoDataset, Clip]


@dataclass
class CacheSummary:
    """What one caching run did. `bad` pairs a clip with the reason it was left out."""

    written: int = 0  # clips decoded and encoded in this run (a mirrored one counts with its original)
    skipped: int = 0  # clips whose latents were finished
    removed: int = 0  # stale files of clips or settings that are gone
    seconds: float = 0.0
    bad: list[tuple[Path, str]] = field(default_factory=list)
    truncated: list[tuple[Path, int]] = field(default_factory=list)  # captions longer than the encoder reads, in tokens

    def report(self) -> str:
        """A few lines for the terminal."""
        counts = f"{self.written} encoded, {self.skipped} were ready, {len(self.bad)} left out"
        lines = [f"caches: {counts}, {self.removed} stale removed, {self.seconds:.1f} s"]
        lines += [f"  left out: {reason}" for _, reason in self.bad]
        lines += [f"  caption cut: {path}: its {count} tokens are more than are read" for path, count in self.truncated]
        return "\n".join(lines)


def cache_dataset(
    config: DatasetConfig,
    pipeline: Path | str | Encoders,
    *,
    progress: bool = True,
    keep_stale: bool = False,
    console: Console | None = None,
) -> CacheSummary:
    """Write every missing cache of a data set; `pipeline` is a diffusers Wan folder or loaded encoders.

    Stale caches, of removed clips or other settings, are deleted unless `keep_stale`, as musubi-tuner does. Raises
    UserError when the data set as a whole is wrong or not one clip could be read.
    """
    started, summary = time.perf_counter(), CacheSummary()
    jobs = _jobs(config)
    encoders = pipeline if isinstance(pipeline, Encoders) else Encoders.load(pipeline)
    console = console or Console(stderr=True)
    kept = _ensure_all(config, jobs, encoders, summary, _tracked(jobs, console, shown=progress))
    if len(summary.bad) == len(jobs):
        raise UserError([f"{config.path}: no clip could be cached", *(reason for _, reason in summary.bad)])
    if not keep_stale:
        summary.removed = _remove_stale(config, kept)
    summary.seconds = time.perf_counter() - started
    if progress:
        console.print(summary.report(), highlight=False, markup=False)
    return summary


def _jobs(config: DatasetConfig) -> list[Job]:
    problems = Problems()
    jobs = [(dataset, clip) for dataset in config.datasets for clip in dataset.find_clips(problems)]
    problems.raise_if_any()
    return jobs


def _ensure_all(
    config: DatasetConfig, jobs: list[Job], encoders: Encoders, summary: CacheSummary, tracked: Iterator[Job]
) -> set[Path]:
    existing = {dataset.cache_directory: latent_files(dataset.cache_directory) for dataset, _ in jobs}
    kept: set[Path] = set()
    for dataset, clip in tracked:
        try:
            outcome = ClipEntry(config.orbit, dataset, clip, encoders, existing[dataset.cache_directory]).ensure()
        except UserError as error:
            summary.bad.append((clip.path, str(error)))
            continue
        kept |= outcome.files
        summary.written += outcome.encoded
        summary.skipped += not outcome.encoded
        if outcome.tokens > encoders.text_tokens:
            summary.truncated.append((clip.path, outcome.tokens))
    return kept


def _tracked(jobs: list[Job], console: Console, *, shown: bool) -> Iterator[Job]:
    name = TextColumn("{task.description}")
    columns = (TextColumn("caching"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), name)
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task("", total=len(jobs))
        for dataset, clip in jobs:
            bar.update(task, description=clip.path.name)
            yield dataset, clip
            bar.advance(task)


def _remove_stale(config: DatasetConfig, kept: set[Path]) -> int:
    stale: list[Path] = []
    for dataset in config.datasets:
        latents = [file.path for group in latent_files(dataset.cache_directory).values() for file in group]
        stale += [path for path in [*latents, *text_files(dataset.cache_directory).values()] if path not in kept]
    for path in stale:
        path.unlink()
    return len(stale)
