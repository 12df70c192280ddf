"""`musubi-ext data check`: which clips are fit to train on, measured before caching costs a day."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from musubi_ext.errors import Problems

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from musubi_ext.orbits.checks.run import Engine
    from musubi_ext.orbits.checks.thresholds import Thresholds
    from musubi_ext.orbits.checks.verdicts import Verdict
    from musubi_ext.orbits.config import DatasetConfig

LISTED = 20  # rejected clips named in the terminal; the report has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("dataset_config", type=Path, metavar="TOML", help="the data set")
    parser.add_argument("--thresholds", type=Path, metavar="TOML", help="limits (those of dataset_toml/checks.toml)")
    parser.add_argument("--report", type=Path, metavar="DIR",
                        help="folder of report.html, report.json and what was measured (runs/check/NAME)")  # fmt: skip
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one per core)")
    parser.add_argument(
        "--engine", default="local", choices=["local", "ray"], help="where clips are measured (%(default)s)"
    )
    parser.add_argument("--address", help="of a Ray cluster; without it Ray starts a local one")
    parser.add_argument("--dry-run", action="store_true", help="list the clips and the limits, measure nothing")


def run(args: argparse.Namespace) -> int:
    """Check the data set; 0 when every clip is fit, 1 when one is not. Raises UserError."""
    from rich.console import Console

    from musubi_ext.orbits.checks.run import check_dataset
    from musubi_ext.orbits.checks.sources import list_clips
    from musubi_ext.orbits.checks.store import CheckStore
    from musubi_ext.orbits.report.write import write_report

    config, limits, engine = _prepared(args)
    folder = args.report or Path("runs") / "check" / config.path.stem
    if args.dry_run:
        _print_plan(config, limits, len(list_clips(config)), folder)
        return 0
    with CheckStore(folder) as store:
        with _progress(Console(stderr=True)) as progress:
            verdicts = check_dataset(config, limits, store, engine, progress)
        report = write_report(folder, config, limits, verdicts, store)
    _print_result(Console(), config, limits, verdicts)
    print(f"{report.html}\n{report.json}")
    return 1 if any(verdict.reasons for verdict in verdicts) else 0


def _prepared(args: argparse.Namespace) -> tuple[DatasetConfig, Thresholds, Engine]:
    """What the flags name. Raises UserError with everything wrong at once."""
    from musubi_ext.orbits.checks.ray import ray_engine
    from musubi_ext.orbits.checks.run import local_engine
    from musubi_ext.orbits.checks.thresholds import load_thresholds
    from musubi_ext.orbits.config import load_dataset_config

    problems = Problems()
    workers = os.cpu_count() or 1 if args.workers is None else args.workers
    if workers < 1:
        problems.add(f"--workers {workers}", "expected at least 1")
    if args.address and args.engine != "ray":
        problems.add(f"--address {args.address}", "belongs to --engine ray", "add it, or leave the address out")
    config = problems.collect(lambda: load_dataset_config(args.dataset_config, check_files=False))
    limits = problems.collect(lambda: load_thresholds(args.thresholds))
    engine = problems.collect(lambda: ray_engine(args.address) if args.engine == "ray" else local_engine(workers))
    problems.raise_if_any()
    assert config is not None  # every None has left its problem
    assert limits is not None
    assert engine is not None
    return config, limits, engine


def _print_plan(config: DatasetConfig, limits: Thresholds, clips: int, folder: Path) -> None:
    print(f"{config.path}: {clips} clips would be checked, the report written to {folder}")
    for name, limit in limits.as_dict().items():
        print(f"  {name} = {json.dumps(False if limit is None else limit)}")  # JSON's scalars are TOML's


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_result(console: Console, config: DatasetConfig, limits: Thresholds, verdicts: Sequence[Verdict]) -> None:
    from musubi_ext.errors import shown
    from musubi_ext.orbits.checks.verdicts import FIT, conventions_of
    from musubi_ext.orbits.report.write import counts

    console.print(_table(config, limits, verdicts))
    for convention in conventions_of(config, limits, verdicts):
        table = f" of [[datasets]] {convention.dataset}" if len(config.datasets) > 1 else ""
        sentence = f"directions in the captions{table}: {convention.sentence()}"
        console.print(sentence, markup=False, highlight=False)
    rejected = [verdict for verdict in verdicts if verdict.state != FIT]
    for verdict in rejected[:LISTED]:
        reasons = "; ".join(reason.text for reason in verdict.reasons)
        console.print(f"{verdict.state}: {shown(verdict.listed.path)}: {reasons}", markup=False, highlight=False)
    if len(rejected) > LISTED:
        console.print(f"… and {len(rejected) - LISTED} more, each in the report", highlight=False)
    found = ", ".join(f"{count} {state}" for state, count in counts(verdicts).items())
    console.print(f"{len(verdicts)} clips: {found}", highlight=False)


def _table(config: DatasetConfig, limits: Thresholds, verdicts: Sequence[Verdict]) -> Table:
    """A line per check: its limit, the spread of its values, how many clips it rejects."""
    from statistics import median

    from rich.table import Table

    from musubi_ext.orbits.checks.verdicts import CHECKS, limit_of

    table = Table("check", title=f"{config.path}")
    for title in ("limit", "least", "median", "greatest", "rejected"):
        table.add_column(title, justify="right")
    for check in CHECKS:
        values = [value for verdict in verdicts if (value := verdict.values.get(check.name)) is not None]
        wanted = sorted({limit_of(check, limits, dataset) or 0.0 for dataset in config.datasets})
        side = "≥" if check.limit.startswith("min_") else "≤"
        limit = "" if not wanted[-1] else f"{side} {'/'.join(f'{value:g}' for value in wanted)}"
        spread = [f"{function(values):.4g}" if values else "" for function in (min, median, max)]
        table.add_row(check.title, limit, *spread, str(_rejections(check.name, verdicts)))
    table.add_row("caption", "", "", "", "", str(_rejections("caption", verdicts)))
    return table


def _rejections(check: str, verdicts: Sequence[Verdict]) -> int:
    return sum(reason.check == check for verdict in verdicts for reason in verdict.reasons)
