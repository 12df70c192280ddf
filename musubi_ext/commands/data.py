"""`musubi-ext data render | caption | check | cache`: clips, their captions, whether they are fit, and their caches."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from musubi_ext.commands import data_caption, data_check
from musubi_ext.errors import Problems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verbs and their flags."""
    verbs = parser.add_subparsers(dest="data_verb", required=True, metavar="VERB")
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
    parser.add_argument("--dataset_config", required=True, type=Path, metavar="TOML", help="the data set")
    parser.add_argument(
        "--base", default="pocket-i2v", help="pocket-i2v or a local Wan2.2 pipeline folder (%(default)s)"
    )
    parser.add_argument("--keep_cache", action="store_true", help="keep caches of clips and settings that are gone")
    parser.add_argument("--dry-run", action="store_true", help="check everything, list the clips, encode nothing")


def run(args: argparse.Namespace) -> int:
    """Run the verb that was parsed; returns the exit status. Raises UserError."""
    verbs = {"render": _render, "caption": data_caption.run, "check": data_check.run, "cache": _cache}
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
    from musubi_ext.generation.pipeline import resolve_base
    from musubi_ext.orbits.config import load_dataset_config

    config = load_dataset_config(args.dataset_config)
    folder = resolve_base(args.base)
    if args.dry_run:
        for dataset in config.datasets:
            source, clips = dataset.video_directory or dataset.video_jsonl_file, dataset.clips()
            frames = ", ".join(map(str, dataset.target_frames))
            width, height = dataset.resolution
            print(f"{source}: {len(clips)} clips → {dataset.cache_directory}, {width}x{height}, {frames} frames")
        print(f"condition {config.orbit.condition}, held out {config.orbit.holdout:.0%}, mirror {config.orbit.mirror}")
        return 0
    from musubi_ext.orbits.cache.write import cache_dataset

    summary = cache_dataset(config, folder, keep_stale=args.keep_cache, progress=True)
    return 1 if summary.bad else 0
