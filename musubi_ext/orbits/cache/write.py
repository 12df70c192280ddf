"""Encode a data set once: latents, conditioning and captions on disk, in musubi-tuner's format.

    accelerate launch -m musubi_ext.orbits.cache TOML --vae Wan2.1_VAE.pth --t5 models_t5_umt5-xxl-enc-bf16.pth

An entry is keyed by content, so a second run skips it without decoding the clip, and a run that was killed goes on
where it stopped. A clip that cannot be read is reported at the end and never stops the others. Every process takes its
share of the clips; the first removes stale files when all have ended. A second run on the same folder waits its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.cache.entries import ClipPlan, Recognition
from musubi_ext.orbits.cache.files import latent_files, leftovers
from musubi_ext.orbits.cache.hold import hold_folders
from musubi_ext.orbits.cache.index import CacheIndex
from musubi_ext.orbits.cache.models import ModelFiles, ModelIds, ids_of
from musubi_ext.orbits.cache.processes import Alone, Processes
from musubi_ext.orbits.cache.run import LatentRun, caption_facts, write_captions
from musubi_ext.orbits.cache.space import (
    CannotWriteError,
    bytes_needed,
    check_room,
    seconds_needed,
    workloads,
    writing,
)
from musubi_ext.orbits.cache.status import cache_status
from musubi_ext.orbits.cache.summary import CacheSummary
from musubi_ext.orbits.config import DatasetConfig, VideoDataset
from musubi_ext.orbits.sources import Clip

Job = tuple[VideoDataset, Clip]


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
    UserError when the data set as a whole is wrong, nothing can be written or not one clip could be read.
    """
    processes = processes or Alone()
    started, console = time.perf_counter(), console or Console(stderr=True)
    with ExitStack() as held:
        _hold(config, processes, console, held)
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
            summary.removed = 0 if keep_stale else _remove_stale(config, run.ids)
            for dataset in config.datasets:
                CacheIndex(dataset.cache_directory).gather()
    summary.seconds = time.perf_counter() - started
    if progress and processes.index == 0:
        console.print(summary.report(), highlight=False, markup=False)
    return summary


def _hold(config: DatasetConfig, processes: Processes, console: Console, held: ExitStack) -> None:
    """Keep other runs out of the cache folders: the first process locks them, the others begin when it has.

    A run that finds a folder taken waits; then it finds done what the other has done.
    """
    refused: tuple[str, ...] = ()
    if processes.index == 0:
        try:
            hold_folders(config, held, console)
            for dataset in config.datasets:
                for path in leftovers(dataset.cache_directory):
                    path.unlink()
        except UserError as error:
            refused = error.problems
        except OSError as error:
            refused = (f"{error.filename}: cannot be removed: {error.strerror}",)
    if said := [problem for problems in processes.gather(refused) for problem in problems]:
        raise UserError(said)


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
            for known in self.known.values():
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
        work = workloads(plans)
        needed = bytes_needed(work, self.encoders.vae.dtype.itemsize)
        check_room(needed)
        if self.shown:
            seconds, size = seconds_needed(work, self.encoders), sum(needed.values()) / 1e6
            about = f", about {_duration(seconds)}" if seconds is not None else ""
            self.console.print(f"{len(plans)} clips to encode: at most {size:.1f} MB{about}")
        with _bar(self.console, len(plans), shown=self.shown) as advance:

            def done(plan: ClipPlan) -> None:
                summary.bad += [(plan.clip.path, plan.problem)] if plan.problem else []
                summary.written += not plan.problem
                self.known[plan.dataset.cache_directory].index.save()  # a killed run hashes no clip twice
                advance(shown(plan.clip.path.name))

            LatentRun(self.encoders, done).run(plans)

    def _captions(self, plans: Sequence[ClipPlan], summary: CacheSummary) -> None:
        for plan in plans:
            try:
                tokens = self._caption(plan)
            except CannotWriteError:
                raise
            except UserError as error:  # numbers that are not finite
                summary.bad.append((plan.clip.path, str(error)))
                continue
            if tokens > self.ids.text_tokens:
                summary.truncated.append((plan.clip.path, tokens))

    def _caption(self, plan: ClipPlan) -> int:
        """Tokens of a clip's longest caption, its embeddings written unless they are there."""
        known = self.known[plan.dataset.cache_directory]
        facts = [known.metadata(path) for path in plan.text_files()]
        wanted = [caption_facts(entry.variant.caption, self.ids.text) for entry in plan.entries]
        if all(one.items() <= fact.items() for one, fact in zip(wanted, facts, strict=True)):
            return max(int(fact.get("tokens", 0)) for fact in facts)
        return write_captions(plan, self.encoders, self.ids.text)


def _remove_stale(config: DatasetConfig, ids: ModelIds) -> int:
    stale = cache_status(config, ids.vae).stale
    for path in stale:
        with writing(path.parent):
            path.unlink(missing_ok=True)
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
