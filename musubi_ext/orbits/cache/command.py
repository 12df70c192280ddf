"""Caching as a command: `python -m musubi_ext.orbits.cache`, alone or under `accelerate launch`, and `data cache`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from musubi_ext.errors import Problems, UserError
from musubi_ext.orbits.cache.arguments import POCKET, add_model_arguments, add_run_arguments
from musubi_ext.orbits.cache.models import DTYPES, ModelFiles
from musubi_ext.orbits.cache.processes import Accelerated, Alone
from musubi_ext.orbits.cache.space import bytes_needed, workloads
from musubi_ext.orbits.cache.status import cache_status
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import DatasetConfig, VideoDataset, load_dataset_config
from musubi_ext.termination import terminable

INTERRUPTED = 130  # 128 + SIGINT, as shells say


def build_parser() -> argparse.ArgumentParser:
    """The flags of `python -m musubi_ext.orbits.cache`."""
    parser = argparse.ArgumentParser(prog="musubi_ext.orbits.cache", description="Encode a data set once.",
                                     allow_abbrev=False)  # fmt: skip
    parser.add_argument("config", type=Path, metavar="TOML", help="the data set")
    add_model_arguments(parser)
    add_run_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 when clips were left out, 2 for a mistake or a full disk, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    try:
        return run(args, launched=True)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished clips are kept, run again to go on", file=sys.stderr)
        return INTERRUPTED


def run(args: argparse.Namespace, *, launched: bool = False) -> int:
    """Cache `args.config` with the models and options of `arguments`; 1 when clips were left out.

    `launched`: this may be one of several processes of `accelerate launch`. Raises UserError and KeyboardInterrupt.
    """
    with terminable():
        config = load_dataset_config(args.config)
        model_files(args).check()  # what is wrong is said before any process waits for another
        if args.dry_run:
            print(dry_run(config, DTYPES[args.vae_dtype].itemsize))
            return 0
        if launched:
            processes = Accelerated(cpu=args.cpu)
            summary = cache_dataset(config, model_files(args, processes.device), keep_stale=args.keep_cache,
                                    processes=processes)  # fmt: skip
        else:
            device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
            summary = cache_dataset(config, model_files(args, device), keep_stale=args.keep_cache, processes=Alone())
    return 1 if summary.bad else 0


def model_files(args: argparse.Namespace, device: str = "cpu") -> ModelFiles:
    """Raises UserError unless one of the two ways is given, whole."""
    problems = Problems()
    upstreams = args.vae or args.t5 or args.tokenizer
    base = args.base or (None if upstreams else args.default_base)
    if base and upstreams:
        problems.add("--base", "expected either --base or --vae with --t5, found both")
    for flag, value in (("--vae", args.vae), ("--t5", args.t5)):
        if not base and value is None:
            problems.add(flag, "expected its file, found nothing", "or give --base DIR for both")
        elif value is not None and not value.is_file():
            problems.add(f"{flag} {value}", "expected a weight file, found nothing", "check the path")
    problems.raise_if_any()
    dtype = DTYPES[args.vae_dtype]
    if base:
        return ModelFiles(base=_folder(base), device=device, vae_dtype=dtype)
    return ModelFiles(vae=args.vae, t5=args.t5, tokenizer=args.tokenizer, device=device, vae_dtype=dtype)


def _folder(base: str) -> Path:
    if base != POCKET:
        return Path(base)
    from musubi_ext.pocket.config import pipeline_path

    return pipeline_path()


def dry_run(config: DatasetConfig, itemsize: int) -> str:
    """What is cached and what is not, and the bytes to come; without loading a model, so for whichever VAE was used."""
    status = cache_status(config)
    orbit = config.orbit
    needed = bytes_needed(workloads([plan for plan in status.plans if not plan.finished]), itemsize)
    return "\n".join(
        [
            *(_described(dataset) for dataset in config.datasets),
            f"condition {orbit.condition}, held out {orbit.holdout:.0%}, mirror {orbit.mirror}",
            status.report(),
            *(f"{folder}: at most {size / 1e6:.1f} MB of latents to write" for folder, size in needed.items()),
        ]
    )


def _described(dataset: VideoDataset) -> str:
    source, (width, height) = dataset.video_directory or dataset.video_jsonl_file, dataset.resolution
    frames = ", ".join(map(str, dataset.target_frames))
    return f"{source}: {len(dataset.clips())} clips → {dataset.cache_directory}, {width}x{height}, {frames} frames"
