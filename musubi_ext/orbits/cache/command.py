"""The command line of `python -m musubi_ext.orbits.cache`, alone or under `accelerate launch`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from musubi_ext.errors import Problems, UserError
from musubi_ext.orbits.cache.models import DTYPES, ModelFiles
from musubi_ext.orbits.cache.space import bytes_needed
from musubi_ext.orbits.cache.status import cache_status
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import DatasetConfig, load_dataset_config
from musubi_ext.termination import terminable

POCKET = "pocket-i2v"
INTERRUPTED = 130  # 128 + SIGINT, as shells say
LONGEST = timedelta(days=30)  # a process that has ended waits for the others, however long they decode


class AcceleratedProcesses:
    """The processes that `accelerate launch` started, or this one alone."""

    def __init__(self, *, cpu: bool) -> None:
        from accelerate import PartialState

        self._state = PartialState(cpu=cpu, timeout=LONGEST)
        self.index: int = self._state.process_index
        self.count: int = self._state.num_processes
        self.device = str(self._state.device)

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, in order."""
        if self.count == 1:
            return [value]
        everyone: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(everyone, value)
        return everyone


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which models: upstream's two files, or a diffusers folder."""
    parser.add_argument("--vae", type=Path, metavar="FILE", help="upstream's VAE, Wan2.1_VAE.pth or .safetensors")
    parser.add_argument("--t5", type=Path, metavar="FILE", help="upstream's models_t5_umt5-xxl-enc-bf16.pth")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="of --t5 (google/umt5-xxl of the local HF cache)")
    parser.add_argument("--base", metavar="DIR", help=f"instead: a diffusers Wan2.2 folder, or {POCKET}")
    parser.add_argument("--vae_dtype", default="fp32", choices=sorted(DTYPES), help="of the VAE (%(default)s)")


def model_files(args: argparse.Namespace, device: str = "cpu") -> ModelFiles:
    """Raises UserError unless one of the two ways is given, whole."""
    problems = Problems()
    if args.base and (args.vae or args.t5 or args.tokenizer):
        problems.add("--base", "expected either --base or --vae with --t5, found both")
    for flag, value in (("--vae", args.vae), ("--t5", args.t5)):
        if not args.base and value is None:
            problems.add(flag, "expected its file, found nothing", "or give --base DIR for both")
        elif value is not None and not value.is_file():
            problems.add(f"{flag} {value}", "expected a weight file, found nothing", "check the path")
    problems.raise_if_any()
    dtype = DTYPES[args.vae_dtype]
    if args.base:
        return ModelFiles(base=_folder(args.base), device=device, vae_dtype=dtype)
    return ModelFiles(vae=args.vae, t5=args.t5, tokenizer=args.tokenizer, device=device, vae_dtype=dtype)


def _folder(base: str) -> Path:
    if base != POCKET:
        return Path(base)
    from musubi_ext.pocket.config import pipeline_path

    return pipeline_path()


def build_parser() -> argparse.ArgumentParser:
    """The flags of caching."""
    parser = argparse.ArgumentParser(prog="musubi_ext.orbits.cache", description="Encode a data set once.",
                                     allow_abbrev=False)  # fmt: skip
    parser.add_argument("config", type=Path, metavar="TOML", help="the data set")
    add_model_arguments(parser)
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU that is there")
    parser.add_argument("--keep_cache", action="store_true", help="keep caches of clips and settings that are gone")
    parser.add_argument("--dry-run", action="store_true", help="check everything, list what is missing, encode nothing")
    return parser


def dry_run(config: DatasetConfig, itemsize: int) -> str:
    """What is cached and what is not, and the bytes to come; without loading a model, so for whichever VAE was used."""
    status = cache_status(config)
    needed = bytes_needed([plan for plan in status.plans if not plan.finished], itemsize)
    rooms = [f"{folder}: at most {size / 1e6:.1f} MB of latents to write" for folder, size in needed.items()]
    return "\n".join([status.report(), *rooms])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 when clips were left out, 2 for a mistake or a full disk, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    try:
        with terminable():
            config = load_dataset_config(args.config)
            model_files(args)  # what is wrong is said before any process waits for another
            if args.dry_run:
                print(dry_run(config, DTYPES[args.vae_dtype].itemsize))
                return 0
            processes = AcceleratedProcesses(cpu=args.cpu)
            models = model_files(args, processes.device)
            summary = cache_dataset(config, models, keep_stale=args.keep_cache, processes=processes)
            return 1 if summary.bad else 0
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished clips are kept, run again to go on", file=sys.stderr)
        return INTERRUPTED
