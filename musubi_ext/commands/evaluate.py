"""`musubi-ext evaluate`: every clip of a folder, measured; a clip that cannot be read never stops the others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from musubi_ext.errors import Problems, UserError

if TYPE_CHECKING:
    from musubi_ext.evaluation.result import Result

SUFFIXES = (".mp4", ".gif", ".mov", ".mkv", ".webm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate`."""
    parser.add_argument("videos", type=Path, metavar="DIR", help="folder of clips: mp4, gif, mov, mkv, webm")
    parser.add_argument("--truth", type=Path, metavar="DIR", help="folder with NAME.npz for each rendered clip NAME")
    parser.add_argument(
        "--masks",
        default="color",
        choices=["color", "truth"],
        help="the subject: followed by its colour, or the truth's own masks, for rendered clips (%(default)s)",
    )
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="only these (default: all)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.json", help="results per clip and metric"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, list the clips, measure nothing")


def run(args: argparse.Namespace) -> int:
    """Measure and write the results; returns 1 when a clip could not be read. Raises UserError when none could."""
    from musubi_ext.evaluation.suite import select

    problems = Problems()
    clips = _clips(args.videos, problems)
    if args.truth is not None and not args.truth.is_dir():
        problems.add(f"--truth {args.truth}", "expected a folder of NAME.npz, found none")
    if args.masks == "truth" and args.truth is None:
        problems.add("--masks truth", "needs the true masks", "add --truth DIR")
    if args.output.suffix != ".json":
        problems.add(f"--output {args.output}", "expected a name that ends in .json")
    try:
        metrics = select(args.metrics or "all")
    except UserError as error:
        raise UserError([*problems.found, *error.problems]) from error
    problems.raise_if_any()
    if args.dry_run:
        print(f"{len(clips)} clips of {args.videos}: {', '.join(metric.name for metric in metrics)} → {args.output}")
        return 0
    return _measure_all(args, clips, [metric.name for metric in metrics])


def _clips(folder: Path, problems: Problems) -> list[Path]:
    if not folder.is_dir():
        problems.add(folder, "expected a folder of clips, found none")
        return []
    clips = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not clips:
        problems.add(folder, "no clip in this folder", f"expected {', '.join(SUFFIXES)}")
    return clips


def _measure_all(args: argparse.Namespace, clips: list[Path], metrics: list[str]) -> int:
    from rich.console import Console
    from rich.progress import track

    from musubi_ext.evaluation.result import write_results

    console = Console(stderr=True)
    results: dict[str, dict[str, Result]] = {}
    bad: list[str] = []
    for clip in track(clips, "evaluate", console=console, transient=True):
        try:
            results[clip.name] = _measure(clip, args, metrics)
        except UserError as error:
            bad += error.problems
    if not results:
        raise UserError([f"{args.videos}: no clip could be measured", *bad])
    write_results(args.output, results)
    _print_medians(results, metrics)
    for reason in bad:
        console.print(f"left out: {reason}", markup=False, highlight=False, soft_wrap=True)
    print(f"{args.output}: {len(results)} of {len(clips)} clips")
    return 1 if bad else 0


def _measure(clip: Path, args: argparse.Namespace, metrics: list[str]) -> dict[str, Result]:
    from musubi_ext.evaluation.masks import MaskSource
    from musubi_ext.evaluation.suite import evaluate
    from musubi_ext.evaluation.truth import Truth
    from musubi_ext.orbits.decode.pool import load_frames, probe

    frames = load_frames(clip, probe(clip).size)
    file = args.truth / f"{clip.stem}.npz" if args.truth else None
    truth = Truth.load(file) if file is not None and file.is_file() else None
    return evaluate(frames, truth=truth, metrics=metrics, masks=MaskSource(args.masks))


def _print_medians(results: dict[str, dict[str, Result]], metrics: list[str]) -> None:
    from statistics import median

    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "median", "unit", "clips")
    for name in metrics:
        of = [clip[name] for clip in results.values()]
        values = [result.value for result in of if result.value is not None]
        shown = f"{median(values):.4g}" if values else f"unavailable: {of[0].unavailable}"
        table.add_row(name, shown, of[0].unit, str(len(values)))
    Console().print(table)
