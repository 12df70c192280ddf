"""`musubi-ext track status | replay`: what dead runs left in their spools, listed and sent."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from musubi_ext.errors import Problems

if TYPE_CHECKING:
    from musubi_ext.registry.replay import Found

SPOOLS = "mlflow_spool"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verbs and their flags. Costs nothing: MLflow is loaded when one of them runs."""
    verbs = parser.add_subparsers(dest="track_verb", required=True, metavar="VERB")
    status = verbs.add_parser("status", help="what is in each spool, and how much of it is not in MLflow")
    replay = verbs.add_parser("replay", help="send what runs left that died, or whose store was away")
    for verb in (status, replay):
        where = f"a spool or a folder of them; {SPOOLS} by default"
        verb.add_argument("spool", type=Path, nargs="?", default=Path(SPOOLS), help=where)
    replay.add_argument("--mlflow_tracking_uri", metavar="URI", help="default: the store that the run was meant for")
    replay.add_argument("--dry-run", action="store_true", help="list what would be sent")


def run(args: argparse.Namespace) -> int:
    """Exit status: 0 when nothing is left to send, else 1. Raises UserError."""
    from musubi_ext.registry.replay import look

    absent = args.spool == Path(SPOOLS) and not args.spool.exists()  # it goes away with the last spool
    spools = [] if absent else look(args.spool)
    if not spools:
        print(f"{args.spool}: no spool, everything is in MLflow")
    if args.track_verb == "status":
        return _status(spools)
    return _preview(spools, args.mlflow_tracking_uri) if args.dry_run else _replay(spools, args.mlflow_tracking_uri)


def _status(spools: list[Found]) -> int:
    for found in spools:
        contents = found.contents
        print(f"{found.path}")
        print(f"  run      {contents.session.get('name', '?')}  {found.run_id}  ({found.state}{_process(found)})")
        print(f"  store    {contents.session.get('uri', '?')}, experiment {contents.session.get('experiment', '?')}")
        counts = f"sent {contents.delivered}, refused {found.refused}, unsent {found.unsent}"
        print(f"  events   {contents.events}, {counts}")
        if contents.damaged:
            print(f"  damaged  {contents.damaged} lines, left out")
    return 1 if any(found.unsent for found in spools) else 0


def _process(found: Found) -> str:
    session = found.contents.session
    return f", process {session['pid']} on {session['host']}" if found.held and session else ""


def _preview(spools: list[Found], uri: str | None) -> int:
    from musubi_ext.registry.replay import target_uri, waiting
    from musubi_ext.registry.store import without_password

    for found in spools:
        counted = ", ".join(f"{number} {kind}" for kind, number in sorted(waiting(found).items())) or "nothing"
        where = "left alone, it is running" if found.held else f"to {without_password(target_uri(found, uri))}"
        print(f"{found.path}: {counted} ({where})")
    return 1 if any(found.unsent for found in spools) else 0


def _replay(spools: list[Found], uri: str | None) -> int:
    from musubi_ext.registry.replay import replay

    problems, left = Problems(), 0
    for found in spools:
        done = problems.collect(lambda found=found: replay(found, uri))  # type: ignore[misc]
        if done is None:
            continue
        rest = f", {done.left} left ({done.reason})" if done.left else ""
        print(f"{found.path}: run {done.run_id}: {done.sent} events sent{rest}")
        left += done.left
    problems.raise_if_any()
    return 1 if left else 0
