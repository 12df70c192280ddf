"""`musubi-ext data fetch | render | caption | check | cache`: clips, captions, whether they are fit, and caches."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from musubi_ext.commands import data_caption, data_check, data_fetch
from musubi_ext.errors import Problems
from musubi_ext.orbits.cache.arguments import POCKET, add_model_arguments, add_run_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verbs and their flags."""
    verbs = parser.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    data_fetch.add_arguments(verbs.add_parser("fetch", help="a data set of the Hugging Face hub, pinned and verified"))
    _add_render(verbs.add_parser("render", help="draw clips with captions and exact truth: NAME.mp4, .txt, .npz"))
    data_caption.add_arguments(verbs.add_parser("caption", help="write the captions that are missing in a folder"))
    data_check.add_arguments(verbs.add_parser("check", help="measure which clips are fit to train on"))
    _add_cache(verbs.add_parser("cache", help="encode a data set once, in musubi-tuner's cache format"))


def _add_render(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the clips")
    parser.add_argument("--count", type=int, default=16, help="number of clips (%(default)s)")
    parser.add_argument("--domain", default="orbit", choices=["orbit", "wild", "static", "pan"],
                        help="orbit: steady and centred; wild: the subject wanders (%(default)s)")  # fmt: skip
    parser.add_argument("--family", default="train", choices=["train", "heldout"],
                        help="which subjects; training never sees those of heldout (%(default)s)")  # fmt: skip
    parser.add_argument("--look", default="plain", choices=["plain", "textured"], help="of surfaces (%(default)s)")
    parser.add_argument("--size", default="64x64", metavar="WxH", help="pixels, both divisible by 16 (%(default)s)")
    parser.add_argument("--frames", type=int, default=17, help="frames of a clip, 4n+1 (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="clip i has seed SEED + i (%(default)s)")
    parser.add_argument("--sweep", action="store_true", help="also views around the subject, to measure angles against")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, render nothing")


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset_config", dest="config", required=True, type=Path, metavar="TOML",
                        help="the data set")  # fmt: skip
    add_model_arguments(parser, base=POCKET)
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb that was parsed; returns the exit status. Raises UserError."""
    verbs = {"fetch": data_fetch.run, "render": _render, "caption": data_caption.run, "check": data_check.run,
             "cache": _cache}  # fmt: skip
    return verbs[args.data_verb](args)


def _render(args: argparse.Namespace) -> int:
    size = _check_render(args)
    clips = f"{args.count} {args.domain} clips of {args.frames} frames, {args.size}, seeds {args.seed} to " \
            f"{args.seed + args.count - 1}"  # fmt: skip
    if args.dry_run:
        print(f"{args.out}: would hold {clips}")
        return 0
    from rich.console import Console
    from rich.progress import Progress

    from musubi_ext.orbits.render import write_dataset

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("render", total=args.count)
        write_dataset(
            args.out,
            args.count,
            domain=args.domain,
            family=args.family,
            look=args.look,
            size=size,
            frames=args.frames,
            seed=args.seed,
            with_sweep=args.sweep,
            progress=lambda done: bar.update(task, completed=done),
        )
    print(f"{args.out}: {clips}")
    return 0


def _check_render(args: argparse.Namespace) -> tuple[int, int]:
    """Width and height. Raises UserError with everything wrong at once."""
    problems = Problems()
    match = re.fullmatch(r"(\d{1,4})[xX×](\d{1,4})", args.size)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(side and side % 16 == 0 for side in size):
        problems.add(
            f"--size {args.size}", "expected WxH with both sides divisible by 16", "64x64 is the pocket model's"
        )
    if args.frames < 5 or args.frames % 4 != 1:
        problems.add(f"--frames {args.frames}", "expected 4n+1 frames, at least 5", "17 is the pocket model's")
    if args.count < 1:
        problems.add(f"--count {args.count}", "expected at least 1")
    if args.seed < 0:
        problems.add(f"--seed {args.seed}", "expected 0 or more")
    if args.out.exists() and not args.out.is_dir():
        problems.add(f"--out {args.out}", "is a file", "give the folder of the clips")
    problems.raise_if_any()
    return size


def _cache(args: argparse.Namespace) -> int:
    from musubi_ext.orbits.cache.command import run as cache

    return cache(args)
