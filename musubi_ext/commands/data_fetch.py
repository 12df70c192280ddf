"""`musubi-ext data fetch`: a data set of the Hugging Face hub in a folder, pinned, resumable, verified."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from musubi_ext.orbits.fetch.listing import RemoteFile
    from musubi_ext.orbits.fetch.plan import Plan
    from musubi_ext.orbits.fetch.run import Outcome

FOLDERS = 3  # named in the next step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument(
        "source", metavar="SOURCE", help="circle-rotate, or OWNER/NAME of a data set on the Hugging Face hub"
    )
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="its folder, pinned to the first commit")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit (what is pinned, else main)")
    parser.add_argument(
        "--update",
        action="store_true",
        help="move a pinned folder to what REV is now; files gone from it are removed if a fetch wrote them",
    )
    parser.add_argument(
        "--include",
        action="extend",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help='only these files, such as "*.mp4" "train/*" (all)',
    )
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="files at once (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="compare and print the plan, write nothing")


def run(args: argparse.Namespace) -> int:
    """Fetch; 0 when every file is there, 1 when some are not. Raises UserError."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from musubi_ext.orbits.fetch.run import Request, fetch
    from musubi_ext.termination import terminable

    request = Request(args.source, args.to, args.revision, args.update, tuple(args.include), args.workers)
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    timed = (*columns, TimeRemainingColumn())
    bars = Progress(*timed, console=console, transient=True, disable=not console.is_terminal)
    try:
        with terminable(), bars:
            outcome = fetch(request, _Watch(bars, args.to, args.dry_run), dry_run=args.dry_run)
    except KeyboardInterrupt:
        print("what came is kept: the same command goes on from there", file=sys.stderr)
        raise
    if args.dry_run:
        return 0
    _print_outcome(outcome, args.to)
    return 1 if outcome.failures else 0


class _Watch:
    """Bars on stderr, a bar for each stage; the plan on stdout."""

    def __init__(self, bar: Progress, folder: Path, dry_run: bool) -> None:
        self.bar, self.folder, self.dry_run = bar, folder, dry_run
        self.tasks = {stage: bar.add_task(stage, total=None, visible=False) for stage in ("comparing", "fetching")}

    def found(self, plan: Plan) -> None:
        from musubi_ext.errors import shown

        self.bar.update(self.tasks["comparing"], visible=False)
        listing = plan.listing
        print(f"{listing.repository} at {listing.commit} ({shown(listing.revision)})")
        print(f"licence: {listing.licence or 'not stated by the repository'}")
        be = "would be" if self.dry_run else "to be"
        print(f"{_count(plan.files)}, {len(plan.whole)} of them are there")
        print(f"{_count(plan.coming)} {be} fetched to {shown(self.folder)}")
        for file in plan.differing:
            print(f"{shown(file.path)}: differs from the commit's, {be} fetched anew")
        for file in plan.leaving:
            print(f"{shown(file.path)}: not in this commit, {be} removed")
        for file in plan.kept:
            print(f"{shown(file.path)}: not in this commit, changed since it was fetched: stays")
        sys.stdout.flush()

    def progress(self, stage: str, done: int, total: int) -> None:
        self.bar.update(self.tasks[stage], completed=done, total=total, visible=True)

    def notice(self, text: str) -> None:
        self.bar.console.print(text, markup=False, highlight=False)


def _count(files: tuple[RemoteFile, ...]) -> str:
    from musubi_ext.orbits.fetch.plan import size_text

    return f"{len(files)} {'file' if len(files) == 1 else 'files'} ({size_text(sum(file.size for file in files))})"


def _print_outcome(outcome: Outcome, folder: Path) -> None:
    from musubi_ext.errors import shown

    plan = outcome.plan
    for path, reason in outcome.failures.items():
        print(f"failed: {shown(path)}: {reason}", file=sys.stderr)
    whole = len(plan.files) - len(outcome.failures)
    print(f"{shown(folder)}: {whole} of {len(plan.files)} files are there and are what the hub names")
    if outcome.failures:
        print("next: the same command, for those that failed")
        return
    for step in _next_steps(plan.files, folder):
        print(f"next: {step}")


def _next_steps(files: tuple[RemoteFile, ...], folder: Path) -> list[str]:
    """Where the clips are and how they are checked; a trainer reads one folder, not those below it."""
    from musubi_ext.errors import shown
    from musubi_ext.orbits.sources import VIDEO_SUFFIXES

    clips = [PurePosixPath(file.path) for file in files if file.path.lower().endswith(VIDEO_SUFFIXES)]
    if not clips:
        return [
            f"no clips among them ({', '.join(VIDEO_SUFFIXES)}): unpack what is packed",
            "musubi-ext data check TOML",
        ]
    folders = Counter(clip.parent for clip in clips).most_common()
    named = [f'video_directory = "{shown(folder / each)}" ({count} clips)' for each, count in folders[:FOLDERS]]
    more = f", and {len(folders) - FOLDERS} more folders" if len(folders) > FOLDERS else ""
    return [f"in a copy of dataset_toml/circle.toml set {', '.join(named)}{more}", "musubi-ext data check TOML"]
