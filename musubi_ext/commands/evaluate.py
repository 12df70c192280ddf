"""`musubi-ext evaluate`: every clip of a folder, measured; a clip that cannot be read never stops the others."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from musubi_ext.commands.evaluate_inputs import Plan
    from musubi_ext.evaluation.features.set_metrics import SetResult
    from musubi_ext.evaluation.suite import Measured

OWN, CIRCLE_ROTATE = "musubi-ext", "circle-rotate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate`."""
    parser.add_argument("videos", type=Path, nargs="?", metavar="DIR", help="folder of clips: mp4, gif, mov, mkv, webm")
    parser.add_argument("--input_dir", type=Path, metavar="DIR", help="the same, as a flag")
    parser.add_argument("--metric", "--metrics", nargs="+", default=["all"], metavar="NAME",
                        help="only these (all, with fid and fvd where there is --reference)")  # fmt: skip
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
    parser.add_argument("--reference", type=Path, metavar="DIR",
                        help="folder of videos that FID and FVD compare the clips with")  # fmt: skip
    models = parser.add_argument_group("learned weights, which are looked for in --models and then in the local cache")
    models.add_argument("--models", type=Path, metavar="DIR", help="folder of learned weights")
    models.add_argument("--download", action="store_true", help="fetch what is missing into the local cache, once")
    models.add_argument("--device", default="cpu", help="where networks run, as torch names it (%(default)s)")
    models.add_argument("--inception", type=Path, metavar="FILE.pt", help="TorchScript of FID's Inception, trusted")
    models.add_argument("--i3d", type=Path, metavar="FILE.pt", help="TorchScript of FVD's I3D, trusted")
    parser.add_argument("--profile", default="exact", choices=["exact", "fast"],
                        help="flow at the clip's size, or at a quarter of it (%(default)s)")  # fmt: skip
    parser.add_argument("--engine", default="local", choices=["local", "ray"],
                        help="where clips are measured; RAY_ADDRESS names a cluster (%(default)s)")  # fmt: skip
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one per core)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, list the clips, measure nothing")


def run(args: argparse.Namespace) -> int:
    """Measure and write the results; 1 when a clip could not be measured. Raises UserError."""
    from musubi_ext.commands.evaluate_inputs import prepared

    args.masks = args.masks or ("color" if args.truth else "flow")
    plan = prepared(args)
    if args.dry_run:
        names = ", ".join([*plan.jobs[0].settings.metrics, *plan.set_metrics])
        print(f"{len(plan.jobs)} clips of {plan.jobs[0].path.parent}: {names} → {args.output}")
        return 0
    measured = _measured(args, plan)
    sets = _measured_sets(args, plan, [name for name, clip in measured.items() if not clip.problems])
    _write(args, measured, sets)
    return _reported(args, plan, measured, sets)


def _measured(args: argparse.Namespace, plan: Plan) -> dict[str, Measured]:
    """Every clip's results. The journal is kept as long as there are clips to try again."""
    from rich.console import Console

    from musubi_ext.evaluation.journal import Journal, journal_path
    from musubi_ext.evaluation.pool import measure_all

    with Journal(journal_path(args.output)) as journal:
        with _progress(Console(stderr=True)) as progress:
            measured = measure_all(plan.jobs, plan.engine, journal, progress)
        # Written before the journal goes: stopped while sets are measured, the clips' results are there.
        _write(args, measured, {})
        if not any(clip.problems for clip in measured.values()):
            journal.remove()
    return measured


def _measured_sets(args: argparse.Namespace, plan: Plan, readable: Sequence[str]) -> dict[str, SetResult]:
    """FID and FVD of the clips that could be read, against the reference folder."""
    if not plan.set_metrics:
        return {}
    from rich.console import Console

    from musubi_ext.evaluation.features.sets import evaluate_sets

    generated = [job.path for job in plan.jobs if job.name in readable]
    with Console(stderr=True).status(f"{', '.join(plan.set_metrics)} against {args.reference}"):
        return evaluate_sets(generated, args.reference, models=plan.models, metrics=plan.set_metrics)


def _document(args: argparse.Namespace, measured: Mapping[str, Measured], sets: Mapping[str, SetResult]) -> Any:
    from musubi_ext.evaluation.result import results_document

    return results_document(
        {name: clip.results for name, clip in measured.items()},
        {"masks": args.masks, "profile": args.profile},
        scenes={name: dict(clip.scene) for name, clip in measured.items() if clip.scene},
        sets={name: asdict(result) for name, result in sets.items()},
    )


def _write(args: argparse.Namespace, measured: Mapping[str, Measured], sets: Mapping[str, SetResult]) -> None:
    from musubi_ext.evaluation.formats import circle_rotate
    from musubi_ext.storage import write_json

    if args.format == CIRCLE_ROTATE:
        write_json(args.output, circle_rotate({name: clip.results for name, clip in measured.items()}))
    else:
        write_json(args.output, _document(args, measured, sets))


def _reported(
    args: argparse.Namespace, plan: Plan, measured: Mapping[str, Measured], sets: Mapping[str, SetResult]
) -> int:
    from rich.console import Console

    console = Console(stderr=True)
    bad = [name for name, clip in measured.items() if clip.problems]
    _print_medians(measured, plan.jobs[0].settings.metrics, sets)
    for name in bad:
        for reason in measured[name].problems:
            console.print(f"not measured: {reason}", markup=False, highlight=False, soft_wrap=True)
    if args.html:
        from musubi_ext.evaluation.report import write_report

        truths = {job.name: job.truth for job in plan.jobs if job.truth}
        videos = {job.name: job.path for job in plan.jobs}
        write_report(_document(args, measured, sets), videos, args.html, truths=truths)
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


def _print_medians(measured: Mapping[str, Measured], metrics: Sequence[str], sets: Mapping[str, SetResult]) -> None:
    """Medians over clips, then why what is not among them is unavailable, a line for each reason."""
    from statistics import median

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table, lacking = Table(box=box.SIMPLE_HEAD, pad_edge=False), dict[str, list[str]]()
    for title in ("metric", "median", "unit", "clips"):
        table.add_column(title, justify="left" if title in ("metric", "unit") else "right", no_wrap=True)
    for name in metrics:
        of = [clip.results[name] for clip in measured.values()]
        values = [result.value for result in of if result.value is not None]
        if values:
            table.add_row(name, f"{median(values):.4g}", of[0].unit, f"{len(values)} of {len(of)}")
        else:
            lacking.setdefault(str(of[0].unavailable), []).append(name)
    for name, result in sets.items():
        if result.value is not None:
            counts = f"{result.videos[0]}, {result.videos[1]}"
            table.add_row(name, f"{result.value:.4g}", result.unit, counts)
        else:
            lacking.setdefault(str(result.unavailable), []).append(name)
    console = Console()
    if table.row_count:
        console.print(table)
    for reason, names in lacking.items():
        console.print(f"unavailable: {', '.join(names)}: {reason}", markup=False, highlight=False, soft_wrap=True)
