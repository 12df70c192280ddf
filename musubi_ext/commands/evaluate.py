"""`musubi-ext evaluate`: every clip of a folder, measured; a clip that cannot be read never stops the others."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import Problems

if TYPE_CHECKING:
    from rich.console import Console

    from musubi_ext.evaluation.pool import Engine, Job
    from musubi_ext.evaluation.suite import Measured

SUFFIXES = (".mp4", ".gif", ".mov", ".mkv", ".webm")
OWN, CIRCLE_ROTATE = "musubi-ext", "circle-rotate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate`."""
    parser.add_argument("videos", type=Path, nargs="?", metavar="DIR", help="folder of clips: mp4, gif, mov, mkv, webm")
    parser.add_argument("--input_dir", type=Path, metavar="DIR", help="the same, as a flag")
    parser.add_argument("--metric", "--metrics", nargs="+", default=["all"], metavar="NAME",
                        help="only these (all)")  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.json", help="results per clip and metric"
    )
    parser.add_argument("--format", default=OWN, choices=[OWN, CIRCLE_ROTATE],
                        help="values with their conditions, or Circle-Rotate's bare numbers (%(default)s)")  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="FILE.html", help="a report to look at")
    parser.add_argument("--truth", type=Path, metavar="DIR", help="folder with NAME.npz for each rendered clip NAME")
    parser.add_argument("--asked", type=Path, metavar="DIR",
                        help="folder with NAME.json or NAME.npy: what was asked of clip NAME")  # fmt: skip
    parser.add_argument("--masks", choices=["truth", "color", "flow", "sam2"],
                        help="the subject: the truth's own masks, or followed by its colour from the truth's first "
                        "mask, by motion and appearance, by SAM 2 (color with --truth, else flow)")  # fmt: skip
    parser.add_argument("--models", type=Path, metavar="DIR", help="folder of learned weights (the local cache)")
    parser.add_argument("--profile", default="exact", choices=["exact", "fast"],
                        help="flow at the clip's size, or at a quarter of it (%(default)s)")  # fmt: skip
    parser.add_argument("--engine", default="local", choices=["local", "ray"],
                        help="where clips are measured; RAY_ADDRESS names a cluster (%(default)s)")  # fmt: skip
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one per core)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, list the clips, measure nothing")


def run(args: argparse.Namespace) -> int:
    """Measure and write the results; 1 when a clip could not be measured. Raises UserError."""
    args.masks = args.masks or ("color" if args.truth else "flow")
    jobs, engine = _prepared(args)
    if args.dry_run:
        names = ", ".join(jobs[0].settings.metrics)
        print(f"{len(jobs)} clips of {jobs[0].path.parent}: {names} → {args.output}")
        return 0
    measured = _measured(args, jobs, engine)
    return _reported(args, jobs, measured)


def _prepared(args: argparse.Namespace) -> tuple[list[Job], Engine]:
    """What the flags name. Raises UserError with everything wrong at once."""
    from musubi_ext.evaluation.masks import MaskSource
    from musubi_ext.evaluation.pool import Settings, local_engine
    from musubi_ext.evaluation.profile import Profile
    from musubi_ext.evaluation.ray import ray_engine
    from musubi_ext.evaluation.suite import select

    problems = Problems()
    clips = _clips(args, problems)
    for flag, kind in (("truth", "NAME.npz"), ("asked", "NAME.json"), ("models", "models")):
        folder = getattr(args, flag)
        if folder is not None and not folder.is_dir():
            problems.add(f"--{flag} {folder}", f"expected a folder of {kind}, found none")
    if args.masks == "truth" and args.truth is None:
        problems.add("--masks truth", "needs the true masks", "add --truth DIR")
    for flag, suffix in (("output", ".json"), ("html", ".html")):
        file = getattr(args, flag)
        if file is not None and file.suffix != suffix:
            problems.add(f"--{flag} {file}", f"expected a name that ends in {suffix}")
    workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    if workers < 1:
        problems.add(f"--workers {workers}", "expected at least 1")
    metrics = problems.collect(lambda: select(args.metric))
    engine = problems.collect(lambda: ray_engine() if args.engine == "ray" else local_engine(workers))
    problems.raise_if_any()
    assert metrics is not None  # every None has left its problem
    assert engine is not None
    names = tuple(metric.name for metric in metrics)
    settings = Settings(names, MaskSource(args.masks), Profile(args.profile), args.models)
    return [_job(args, clip, settings) for clip in clips], engine


def _clips(args: argparse.Namespace, problems: Problems) -> list[Path]:
    if (args.videos is None) == (args.input_dir is None):
        problems.add("DIR", "expected one folder of clips", "name it as it is, or with --input_dir")
        return []
    folder = args.videos or args.input_dir
    if not folder.is_dir():
        problems.add(folder, "expected a folder of clips, found none")
        return []
    clips = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not clips:
        problems.add(folder, "no clip in this folder", f"expected {', '.join(SUFFIXES)}")
    return clips


def _job(args: argparse.Namespace, clip: Path, settings: Any) -> Job:
    from musubi_ext.evaluation.pool import Job

    def beside(folder: Path | None, suffix: str) -> Path | None:
        file = folder / f"{clip.stem}{suffix}" if folder else None
        return file if file is not None and file.is_file() else None

    caption = beside(clip.parent, ".txt")
    text = caption.read_text(encoding="utf-8", errors="replace").strip() if caption else ""
    asked = beside(args.asked, ".json") or beside(args.asked, ".npy")
    return Job(clip.name, clip, settings, beside(args.truth, ".npz"), asked, text)


def _measured(args: argparse.Namespace, jobs: Sequence[Job], engine: Engine) -> dict[str, Measured]:
    """Every clip's results. The journal is kept as long as there are clips to try again."""
    from rich.console import Console

    from musubi_ext.evaluation.journal import Journal, journal_path
    from musubi_ext.evaluation.pool import measure_all
    from musubi_ext.evaluation.result import write_results
    from musubi_ext.storage import write_json

    with Journal(journal_path(args.output)) as journal:
        with _progress(Console(stderr=True)) as progress:
            measured = measure_all(jobs, engine, journal, progress)
        problems = [problem for clip in measured.values() for problem in clip.problems]
        clips = {name: clip.results for name, clip in measured.items()}
        if args.format == CIRCLE_ROTATE:
            from musubi_ext.evaluation.formats import circle_rotate

            write_json(args.output, circle_rotate(clips))
        else:
            write_results(args.output, clips, _settings(args))
        if not problems:
            journal.remove()
    return measured


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {"masks": args.masks, "profile": args.profile}


def _reported(args: argparse.Namespace, jobs: Sequence[Job], measured: Mapping[str, Measured]) -> int:
    from rich.console import Console

    from musubi_ext.evaluation.result import results_document

    console = Console(stderr=True)
    bad = [name for name, clip in measured.items() if clip.problems]
    _print_medians(measured, jobs[0].settings.metrics)
    for name in bad:
        for reason in measured[name].problems:
            console.print(f"not measured: {reason}", markup=False, highlight=False, soft_wrap=True)
    if args.html:
        from musubi_ext.evaluation.report import write_report

        document = results_document({name: clip.results for name, clip in measured.items()}, _settings(args))
        truths = {job.name: job.truth for job in jobs if job.truth}
        write_report(document, {job.name: job.path for job in jobs}, args.html, truths=truths)
        print(args.html)
    print(f"{args.output}: {len(measured) - len(bad)} of {len(measured)} clips")
    return 1 if bad else 0


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("evaluate"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_medians(measured: Mapping[str, Measured], metrics: Sequence[str]) -> None:
    from statistics import median

    from rich.console import Console
    from rich.table import Table

    table = Table("metric")
    table.add_column("median", no_wrap=True, overflow="ellipsis")  # of a reason; the results have it whole
    for title in ("unit", "clips"):
        table.add_column(title)
    for name in metrics:
        of = [clip.results[name] for clip in measured.values()]
        values = [result.value for result in of if result.value is not None]
        shown = f"{median(values):.4g}" if values else f"unavailable: {of[0].unavailable}"
        table.add_row(name, shown, of[0].unit, str(len(values)))
    Console().print(table)
