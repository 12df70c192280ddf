"""`musubi-ext cache status | prune`: what is cached, what is missing, and what no setting asks for any more."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two verbs and their flags."""
    verbs = parser.add_subparsers(dest="cache_verb", required=True, metavar="VERB")
    status = verbs.add_parser("status", help="finished, missing and stale caches; decodes nothing")
    prune = verbs.add_parser("prune", help="delete stale caches: of removed clips, other settings, damaged files")
    for verb in (status, prune):
        verb.add_argument("config", type=Path, metavar="TOML", help="the data set")
    prune.add_argument("--dry-run", action="store_true", help="list what would be deleted")


def run(args: argparse.Namespace) -> int:
    """Exit status of `status`: 0 when all is cached and nothing is stale, else 1. Raises UserError."""
    from musubi_ext.orbits.config import load_dataset_config

    config = load_dataset_config(args.config)
    if args.cache_verb == "status":
        from musubi_ext.orbits.cache.status import cache_status

        status = cache_status(config)
        print(status.report())
        return 0 if status.complete and not status.stale else 1
    from musubi_ext.orbits.cache.prune import prune

    prune(config, partial(print, flush=True), dry_run=args.dry_run)
    return 0
