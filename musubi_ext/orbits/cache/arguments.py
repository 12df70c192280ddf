"""The flags of caching, for both of its commands; loads no framework."""

from __future__ import annotations

import argparse
from pathlib import Path

POCKET = "pocket-i2v"
PRECISIONS = ("bf16", "bfloat16", "float32", "fp32")


def add_model_arguments(parser: argparse.ArgumentParser, base: str | None = None) -> None:
    """Which models: upstream's two files, or a diffusers folder; `base` where neither is given."""
    default = f" ({base} unless --vae and --t5 are given)" if base else ""
    parser.add_argument("--vae", type=Path, metavar="FILE", help="upstream's VAE, Wan2.1_VAE.pth or .safetensors")
    parser.add_argument("--t5", type=Path, metavar="FILE", help="upstream's models_t5_umt5-xxl-enc-bf16.pth")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="of --t5 (google/umt5-xxl of the local HF cache)")
    parser.add_argument("--base", metavar="DIR", help=f"instead: a diffusers Wan2.2 folder, or {POCKET}{default}")
    parser.add_argument("--vae_dtype", default="fp32", choices=PRECISIONS, help="of the VAE (%(default)s)")
    parser.set_defaults(default_base=base)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """How to run."""
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU that is there")
    parser.add_argument("--keep_cache", action="store_true", help="keep caches of clips and settings that are gone")
    parser.add_argument("--dry-run", action="store_true", help="check everything, list what is missing, encode nothing")
