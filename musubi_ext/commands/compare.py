"""`musubi-ext compare`: two results files of the same scenes: what differs, how surely, and what a gate says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from musubi_ext.errors import Problems, UserError

if TYPE_CHECKING:
    from rich.table import Table

    from musubi_ext.evaluation.compare import Comparison, MetricComparison
    from musubi_ext.evaluation.verdict import Verdict

_BETTER = {"higher": "↑", "lower": "↓", "report": ""}
_REFUSED = 1
_WIDEST = 1000  # characters
_COLUMNS = ("metric", "base", "pair", "pair − base [95%]", "d_z", "r", "+/−/=", "p (Holm)", "scenes", "reading")


_EFFECTS = ("base", "pair", "d_z", "r", "+/−/=", "p (Holm)", "scenes")  # what a narrow terminal does without
_LEGEND = (
    "Medians (means of yes-or-no metrics); the interval is a bootstrap of the paired difference; d_z: Cohen's, "
    "paired; r: rank-biserial; +/−/=: scenes that rose, fell, stayed; p: sign test over all metrics. "
    "Nothing is read from metrics of which neither way is better."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `compare`."""
    parser.add_argument("base", type=Path, metavar="BASE.json", help="results of the base, or of the champion")
    parser.add_argument("pair", type=Path, metavar="PAIR.json", help="results of the pair on the same scenes and seeds")
    parser.add_argument("--gate", type=Path, metavar="FILE.toml", help="ask the gate with these limits; exit 1 if not")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="the comparison, verdict included")
    parser.add_argument("--verdict", type=Path, metavar="FILE.json", help="the gate's verdict alone (with --gate)")
    parser.add_argument("--html", type=Path, metavar="FILE.html", help="a page to look at")
    parser.add_argument("--base_videos", type=Path, metavar="DIR", help="the base's videos, for the page")
    parser.add_argument("--pair_videos", type=Path, metavar="DIR", help="the pair's videos, for the page")


def run(args: argparse.Namespace) -> int:
    """Compare, print, write; 1 when the gate refuses. Raises UserError for what cannot be compared."""
    from musubi_ext.evaluation.compare import compare_files
    from musubi_ext.evaluation.thresholds import Thresholds
    from musubi_ext.evaluation.verdict import judge
    from musubi_ext.storage import write_json

    problems = Problems()
    _check_flags(args, problems)
    if args.gate is not None:
        problems.collect(lambda: Thresholds.load(args.gate))
    comparison = problems.collect(lambda: compare_files(args.base, args.pair))
    problems.raise_if_any()
    assert comparison is not None
    verdict = None if args.gate is None else judge(comparison, args.gate)
    if args.output is not None:
        write_json(args.output, comparison.as_dict() | {"verdict": None if verdict is None else verdict.as_dict()})
    if args.verdict is not None and verdict is not None:
        verdict.write(args.verdict)
    _print(comparison, verdict)
    if args.html is not None:
        _write_page(args, comparison, verdict)
    for path in filter(None, (args.output, args.verdict, args.html)):
        print(path)
    return _REFUSED if verdict is not None and not verdict.decision.passed else 0


def _check_flags(args: argparse.Namespace, problems: Problems) -> None:
    written = (("--output", args.output, ".json"), ("--verdict", args.verdict, ".json"), ("--html", args.html, ".html"))
    for flag, path, suffix in written:
        if path is not None and path.suffix != suffix:
            problems.add(f"{flag} {path}", f"expected a name that ends in {suffix}")
    if args.verdict is not None and args.gate is None:
        problems.add(f"--verdict {args.verdict}", "there is no gate to ask", "add --gate FILE.toml")
    for flag, folder in (("--base_videos", args.base_videos), ("--pair_videos", args.pair_videos)):
        if folder is not None and not folder.is_dir():
            problems.add(f"{flag} {folder}", "expected a folder of videos, found none")
        if folder is not None and args.html is None:
            problems.add(f"{flag} {folder}", "there is no page to show them on", "add --html FILE.html")


def _write_page(args: argparse.Namespace, comparison: Comparison, verdict: Verdict | None) -> None:
    from musubi_ext.evaluation.report import write_compare_report

    def videos(folder: Path | None, clips: list[str]) -> dict[str, Path]:
        # A clip's name comes from a file: only a plain name may lead into the folder.
        plain = [clip for clip in clips if folder is not None and Path(clip).name == clip]
        return {clip: folder / clip for clip in plain if folder is not None and (folder / clip).is_file()}

    base = videos(args.base_videos, list(comparison.pairing.base.values()))
    pair = videos(args.pair_videos, list(comparison.pairing.pair.values()))
    for flag, folder, found in (("base", args.base_videos, base), ("pair", args.pair_videos, pair)):
        if folder is not None and not found:
            raise UserError(f"--{flag}_videos {folder}: none of the clips compared is here")
    write_compare_report(comparison, args.html, verdict=verdict, base_videos=base, pair_videos=pair)


def _print(comparison: Comparison, verdict: Verdict | None) -> None:
    from rich.console import Console

    console = Console()
    title = f"{comparison.pair.name} − {comparison.base.name}, {len(comparison.pairing.base)} scenes"
    table = _table(comparison, _COLUMNS)
    width = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
    if not console.is_terminal:
        console.width = max(console.width, width)  # a file or a pipe has no edge
    elif width > console.width:
        table = _table(comparison, [name for name in _COLUMNS if name not in _EFFECTS])
    console.print(title, markup=False, highlight=False)
    console.print(table)
    console.print(_LEGEND, style="dim")
    for reason, names in _nowhere(comparison).items():
        console.print(f"unavailable: {', '.join(names)}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if comparison.moves is False:
        console.print("The pair hardly moves: what it wins by standing still is not credited.", style="bold red")
    if verdict is not None:
        for check in verdict.decision.checks:
            mark = "passed" if check.passed else "failed"
            console.print(f"{mark}: {check.message}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"gate: {'passed' if verdict.decision.passed else 'refused'}", markup=False, highlight=False)


def _table(comparison: Comparison, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for name in columns:
        table.add_column(name, justify="left" if name in ("metric", "reading") else "right")
    for metric in comparison.metrics:
        if metric.differences:
            cells = dict(zip(_COLUMNS, _row(metric, len(comparison.pairing.base)), strict=True))
            table.add_row(*(escape(cells[name]) for name in columns))
    return table


def _nowhere(comparison: Comparison) -> dict[str, list[str]]:
    """Metrics that no scene has in both files, by the first scene's reason."""
    by: dict[str, list[str]] = {}
    for metric in comparison.metrics:
        if not metric.differences:
            by.setdefault(next(iter(metric.lacking.values())), []).append(metric.name)
    return by


def _row(metric: MetricComparison, scenes: int) -> list[str]:
    from musubi_ext.evaluation.compare import READINGS

    name = " ".join(
        filter(None, (metric.name, _BETTER[metric.better.value], metric.unit if metric.unit != "1" else ""))
    )
    assert metric.difference is not None
    assert metric.signs is not None
    change, signs = metric.difference, metric.signs
    return [
        name,
        f"{metric.base:.4g}",
        f"{metric.pair:.4g}",
        f"{change.value:+.3g} [{change.low:+.3g}, {change.high:+.3g}]",
        "–" if metric.d_z is None else f"{metric.d_z:+.2f}",
        f"{metric.rank_biserial:+.2f}",
        f"{signs.rose}/{signs.fell}/{signs.equal}",
        f"{metric.p_holm:.2g}",
        str(scenes - len(metric.lacking)),
        READINGS[metric.reading] if _BETTER[metric.better.value] else "",
    ]
