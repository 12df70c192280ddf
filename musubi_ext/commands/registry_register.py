"""`musubi-ext registry register`: a pair on this machine becomes a new version."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from musubi_ext.commands.registry_output import json_flag, print_json
from musubi_ext.commands.registry_store import connected, store_flag


def add_register(verbs: Any) -> None:
    """`registry register`."""
    register = verbs.add_parser("register", help="store a pair as a new version", parents=[store_flag(), json_flag()])
    register.add_argument("pair", type=Path, metavar="DIR", help="folder with NAME.pair.json, or that file")
    register.add_argument("--name", required=True, help="registered model")
    register.add_argument(
        "--run_id",
        help="the run whose artifacts will hold the files (default: the pair's training run, else a new one)",
    )
    register.add_argument("--candidate", action="store_true", help="point the alias candidate at the new version")


def run_register(args: argparse.Namespace) -> int:
    """Register and print the version's address."""
    from musubi_ext.adapters.pair import AdapterPair
    from musubi_ext.registry.model import register_pair, training_run
    from musubi_ext.registry.names import check_name
    from musubi_ext.registry.promotion import set_candidate

    check_name(args.name)
    pair, uri = AdapterPair.load(args.pair), args.mlflow_tracking_uri
    run_id = args.run_id or training_run(connected(args), pair)
    number = register_pair(pair, args.name, run_id=run_id, uri=uri)
    if args.candidate:
        set_candidate(args.name, number, uri=uri)
    if args.json:
        print_json({"name": args.name, "version": number, "candidate": args.candidate, "run": run_id})
    else:
        print(f"models:/{args.name}/{number}" + ("  (candidate)" if args.candidate else ""))
    return 0
