"""The data path: caching against musubi-tuner's own, a second run over a complete cache, `data check`.

    MUSUBI_TUNER_HOME=… python benchmarks/data.py --clips FOLDER_OF_REAL_CLIPS --markdown docs/DATA_RESULTS.md

`--parts` chooses; each replaces its own table. Caching runs both sides in this process, on one torch thread; CPU
seconds, which other programs on the machine do not stretch, stand beside wall seconds. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import caching
import checking
import torch
from tables import insert, machine, table

from musubi_ext.hosts.musubi.importing import import_host

PARTS = ("small", "full", "again", "check", "memory")
CACHING = ["", "upstream", "ours", "ratio (CPU)", "ratio (wall)"]
CHECKING = ["", "time", "speed", "process itself", "with its workers"]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables; with `--markdown`, put them there."""
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        _caching(Path(folder), args)
        _checking(Path(folder), args)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    result.add_argument("--small", type=int, default=64, help="clips of 17 frames for the VAE of dim 8 (%(default)s)")
    result.add_argument("--full", type=int, default=6, help="clips of 33 frames for the full-size VAE (%(default)s)")
    result.add_argument("--entries", type=int, default=2000, help="clips of the second run (%(default)s)")
    result.add_argument("--check", type=int, default=42, help="clips of 51 frames, 180x320 (%(default)s)")
    result.add_argument("--grow", type=int, nargs="+", default=[100, 5000], help="clips to measure memory with")
    result.add_argument("--clips", type=Path, metavar="DIR", help="real clips with captions; else rendered ones")
    result.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="of `data check` (%(default)s)")
    result.add_argument("--threads", type=int, default=1, help="of torch, for both sides (%(default)s)")
    result.add_argument("--markdown", type=Path, help="file with the markers of the tables")
    return result


def _caching(folder: Path, args: argparse.Namespace) -> None:
    rows: list[list[str]] = []
    if {"small", "full", "again"} & {*args.parts}:
        import_host()
    if "small" in args.parts:
        rows.append(caching.throughput(folder / "small", 8, args.small, 17, 64))
    if "full" in args.parts:
        rows.append(caching.throughput(folder / "full", 96, args.full, 33, 64))
    _show(args.markdown, "caching", [*CACHING, "largest difference"], rows)
    if "again" in args.parts:
        _show(args.markdown, "caching_again", CACHING, [caching.second_run(folder / "again", args.entries)])


def _checking(folder: Path, args: argparse.Namespace) -> None:
    rows: list[list[str]] = []
    if "check" in args.parts:
        given = sorted(args.clips.glob("*.mp4")) if args.clips else []
        clips = given or checking.rendered(folder / "rendered", 7, 51, (180, 320))
        row = checking.speed(folder / "check", clips, args.check, args.workers)
        row[0] += ", real" if given else ", rendered"
        _show(args.markdown, "checking", CHECKING, [row])
    if "memory" in args.parts:
        for count in args.grow:
            rows.append(checking.growth(folder / f"grow{count}", count, args.workers))
            print(rows[-1], flush=True)
        _show(args.markdown, "checking_memory", CHECKING, rows)


def _show(markdown: Path | None, name: str, head: list[str], rows: list[list[str]]) -> None:
    if not rows:
        return
    text = f"{table(head, rows)}\n\n{machine()}"
    print(text)
    if markdown:
        insert(markdown, name, text)


if __name__ == "__main__":
    main()
