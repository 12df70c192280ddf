"""Encode a data set once: latents, conditioning and captions on disk, in musubi-tuner's format.

    accelerate launch -m musubi_ext.orbits.cache TOML --vae Wan2.1_VAE.pth --t5 models_t5_umt5-xxl-enc-bf16.pth

An entry is keyed by content, so a second run skips it without decoding the clip, and a run that was killed goes on
where it stopped. A clip that cannot be read is reported at the end and never stops the others. Every process takes its
share of the clips; the first removes stale files when all have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from musubi_ext.errors import Problems, UserError
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.cache.entries import ClipPlan, Recognition
from musubi_ext.orbits.cache.files import latent_files
from musubi_ext.orbits.cache.index import CacheIndex
from musubi_ext.orbits.cache.models import ModelFiles, ModelIds, ids_of
from musubi_ext.orbits.cache.run import LatentRun, caption_facts, write_captions
from musubi_ext.orbits.cache.space import bytes_needed, check_room, seconds_needed
from musubi_ext.orbits.cache.status import cache_status
from musubi_ext.orbits.config import DatasetConfig, VideoDataset
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
    stopped: list[str] = field(default_factory=list)  # why the run ended early: a full disk

    def report(self) -> str:
        """A few lines for the terminal."""
        counts = f"{self.written} encoded, {self.skipped} were ready, {len(self.bad)} left out"
        lines = [f"caches: {counts}, {self.removed} stale removed, {self.seconds:.1f} s"]
        lines += [f"  left out: {reason}" for _, reason in self.bad]
        lines += [f"  caption cut: {path}: its {count} tokens are more than are read" for path, count in self.truncated]
        return "\n".join(lines)

    def add(self, other: CacheSummary) -> None:
        """Count another process's share in."""
        self.written, self.skipped = self.written + other.written, self.skipped + other.skipped
        self.bad, self.truncated = self.bad + other.bad, self.truncated + other.truncated
        self.stopped = self.stopped + other.stopped


class Processes(Protocol):
    """Who shares the work: this process's place, how many there are, and everyone's results in order."""

    index: int
    count: int

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, in order; returns when all have called."""


@dataclass
class Alone:
    """One process."""

    index: int = 0
    count: int = 1

    def gather(self, value: Any) -> list[Any]:
        """The value itself."""
        return [value]


def cache_dataset(
    config: DatasetConfig,
    pipeline: Path | str | Encoders | ModelFiles,
    *,
    progress: bool = True,
    keep_stale: bool = False,
    console: Console | None = None,
    processes: Processes | None = None,
) -> CacheSummary:
    """Write every missing cache of a data set; `pipeline` is a diffusers Wan folder, loaded encoders or weight files.

    Stale caches, of removed clips or other settings, are deleted unless `keep_stale`, as musubi-tuner does. Raises
    UserError when the data set as a whole is wrong, the disk is full or not one clip could be read.
    """
    processes = processes or Alone()
    started, console = time.perf_counter(), console or Console(stderr=True)
    jobs = _jobs(config)
    share = jobs[processes.index :: processes.count]  # dealt one by one: neighbours are often of one length
    run = _Share(config, pipeline, progress and processes.index == 0, console, processes.index)
    summaries: list[CacheSummary] = processes.gather(run.cache(share))
    summary = summaries[0]
    for other in summaries[1:]:
        summary.add(other)
    if summary.stopped:
        raise UserError(list(dict.fromkeys(summary.stopped)))
    if len(summary.bad) == len(jobs):
        raise UserError([f"{config.path}: no clip could be cached", *(reason for _, reason in summary.bad)])
    if processes.index == 0:
        summary.removed = 0 if keep_stale else _remove_stale(config, run.ids, summary)
        for dataset in config.datasets:
            CacheIndex(dataset.cache_directory).gather()
    summary.seconds = time.perf_counter() - started
    if progress and processes.index == 0:
        console.print(summary.report(), highlight=False, markup=False)
    return summary


def _jobs(config: DatasetConfig) -> list[Job]:
    problems = Problems()
    jobs = [(dataset, clip) for dataset in config.datasets for clip in dataset.find_clips(problems)]
    problems.raise_if_any()
    return jobs


class _Share:
    """One process's part of a run."""

    def __init__(self, config: DatasetConfig, pipeline: Any, shown: bool, console: Console, process: int) -> None:
        self.config, self.pipeline, self.shown, self.console = config, pipeline, shown, console
        folders = [dataset.cache_directory for dataset in config.datasets]
        self.known = {
            folder: Recognition(config.orbit, CacheIndex(folder, process), latent_files(folder)) for folder in folders
        }
        if isinstance(pipeline, Path | str):
            self.pipeline = ModelFiles(base=Path(pipeline))

    @property
    def encoders(self) -> Encoders:
        """Loaded at first use."""
        return self.pipeline if isinstance(self.pipeline, Encoders) else self.pipeline.encoders

    def cache(self, jobs: Sequence[Job]) -> CacheSummary:
        """Latents of every job, then captions; what went wrong is in the summary."""
        summary = CacheSummary()
        try:
            self.ids = self._ids()
            plans = [plan for job in jobs if (plan := self._plan(*job, summary)) is not None]
            todo = [plan for plan in plans if not plan.finished]
            summary.skipped = len(plans) - len(todo)
            self._encode(todo, summary)
            self._captions([plan for plan in plans if not plan.problem], summary)
        except UserError as error:
            summary.stopped += error.problems
        finally:
            for folder, known in self.known.items():
                if folder.is_dir():
                    known.index.save()
        return summary

    def _ids(self) -> ModelIds:
        if isinstance(self.pipeline, Encoders):
            return ids_of(self.pipeline)
        ids: ModelIds = self.pipeline.ids(next(iter(self.known.values())).index)
        return ids

    def _plan(self, dataset: VideoDataset, clip: Clip, summary: CacheSummary) -> ClipPlan | None:
        try:
            return self.known[dataset.cache_directory].plan(dataset, clip, self.ids.vae)
        except UserError as error:
            summary.bad.append((clip.path, str(error)))
            return None

    def _encode(self, plans: Sequence[ClipPlan], summary: CacheSummary) -> None:
        if not plans:
            return
        needed = bytes_needed(plans, self.encoders.vae.dtype.itemsize)
        check_room(needed)
        if self.shown:
            seconds = seconds_needed(plans, self.encoders)
            size = sum(needed.values()) / 1e6
            self.console.print(f"{len(plans)} clips to encode: at most {size:.1f} MB, about {_duration(seconds)}")
        with _bar(self.console, len(plans), shown=self.shown) as advance:

            def done(plan: ClipPlan) -> None:
                summary.bad += [(plan.clip.path, plan.problem)] if plan.problem else []
                summary.written += not plan.problem
                self.known[plan.dataset.cache_directory].index.save()  # a killed run hashes no clip twice
                advance(plan.clip.path.name)

            LatentRun(self.encoders, done).run(plans)

    def _captions(self, plans: Sequence[ClipPlan], summary: CacheSummary) -> None:
        for plan in plans:
            known = self.known[plan.dataset.cache_directory]
            facts = [known.metadata(path) for path in plan.text_files()]
            wanted = [caption_facts(entry.variant.caption, self.ids.text) for entry in plan.entries]
            if all(one.items() <= fact.items() for one, fact in zip(wanted, facts, strict=True)):
                tokens = max(int(fact.get("tokens", 0)) for fact in facts)
            else:
                tokens = write_captions(plan, self.encoders, self.ids.text)
            if tokens > self.ids.text_tokens:
                summary.truncated.append((plan.clip.path, tokens))


def _remove_stale(config: DatasetConfig, ids: ModelIds, summary: CacheSummary) -> int:
    stale = cache_status(config, ids.vae).stale
    for path in stale:
        path.unlink()
    return len(stale)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


@contextmanager
def _bar(console: Console, total: int, *, shown: bool) -> Iterator[Callable[[str], None]]:
    """A bar with clips a second and the time left; yields what is called with the name of each clip that is done."""
    rate, name = TextColumn("{task.fields[rate]}"), TextColumn("{task.description}")
    columns = (TextColumn("caching"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), name)
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task("", total=total, rate="")

        def advance(clip: str) -> None:
            bar.update(task, advance=1, description=clip)
            elapsed = bar.tasks[0].elapsed or 0
            bar.update(task, rate=f"{bar.tasks[0].completed / elapsed:.2f} clips/s" if elapsed else "")

        yield advance
