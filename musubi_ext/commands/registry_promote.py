"""`musubi-ext registry promote | approve | rollback`: which version is live, why, and the way back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musubi_ext.registry.promotion import Promotion

REFUSED, WAITING, OVERTAKEN = 1, 3, 4  # exit statuses; 0: done, 2: a mistake
_STATUS = {"promoted": 0, "already": 0, "refused": REFUSED, "waiting": WAITING, "overtaken": OVERTAKEN}


def add_promote(verbs: Any) -> argparse.ArgumentParser:
    """The flags of `promote`, below the verbs of `musubi-ext registry`; returns its parser."""
    text = "judge the candidate, and make it the champion if the gate lets it pass"
    status = "Exit status: 0 promoted, 1 refused by the gate, 3 waits for an approval, 4 another promotion came first."
    parser: argparse.ArgumentParser = verbs.add_parser("promote", help=text, description=f"{text}. {status}")
    parser.add_argument("name", metavar="NAME", help="registered model; its alias candidate is judged")
    parser.add_argument("--gate", type=Path, required=True, metavar="FILE.toml", help="what it must show, and where")
    parser.add_argument("--base", metavar="BASE", help="pipeline to film on: pocket-i2v (for its pairs), or a folder")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where videos are made (%(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that make videos on a CPU (one per core)")
    parser.add_argument("--dry-run", action="store_true", help="judge, but store and move nothing")
    parser.add_argument(
        "--require-approval", action="store_true", help="wait until somebody else has approved the verdict"
    )
    _add_store(parser)
    return parser


def add_approve(verbs: Any) -> argparse.ArgumentParser:
    """The flags of `approve`."""
    text = "say, as somebody else than its maker, that a version's verdict may be acted on"
    parser: argparse.ArgumentParser = verbs.add_parser("approve", help=text, description=text)
    parser.add_argument("reference", metavar="NAME|NAME@ALIAS|NAME/VERSION", help="NAME alone is its candidate")
    parser.add_argument("--as", dest="user", metavar="USER", help="who approves (you, as the store knows you)")
    _add_store(parser)
    return parser


def add_rollback(verbs: Any) -> argparse.ArgumentParser:
    """The flags of `rollback`."""
    text = "swap champion and previous"
    parser: argparse.ArgumentParser = verbs.add_parser("rollback", help=text)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--reason", required=True, help="kept on the version that steps down")
    _add_store(parser)
    return parser


def run_promote(args: argparse.Namespace) -> int:
    """Judge and promote; the exit status says what came of it. Raises UserError."""
    from musubi_ext.errors import UserError
    from musubi_ext.promotion.run import promote_candidate

    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: expected at least 1")
    result = promote_candidate(
        args.name,
        args.gate,
        uri=args.mlflow_tracking_uri,
        base=args.base,
        dry_run=args.dry_run,
        require_approval=args.require_approval,
        device=args.device,
        workers=args.workers,
    )
    print(_sentence(result, dry_run=args.dry_run))
    if result.evidence:
        print(f"evidence: {result.evidence}")
    return _STATUS[result.outcome]


def run_approve(args: argparse.Namespace) -> int:
    """Approve the verdict and print what was approved. Raises UserError."""
    from musubi_ext.registry.approval import approve

    address, verdict = approve(args.reference, user=args.user, uri=args.mlflow_tracking_uri)
    for check in verdict["checks"]:
        print(f"{'passed' if check['passed'] else 'failed'}: {check['message']}")
    print(f"{address}: approved; promoting it again moves the alias")
    return 0


def run_rollback(args: argparse.Namespace) -> int:
    """Swap champion and previous. Raises UserError."""
    from musubi_ext.registry.promotion import rollback

    result = rollback(args.name, args.reason, uri=args.mlflow_tracking_uri)
    print(f"{result.name}: champion = {result.champion}, previous = {result.previous}")
    return 0


def _sentence(result: Promotion, *, dry_run: bool) -> str:
    state = f"champion = {result.champion}, previous = {result.previous}"
    who = f"{result.name}/{result.version}"
    if dry_run and result.outcome in ("promoted", "refused"):
        would = "would be promoted" if result.outcome == "promoted" else "would be refused"
        return f"{who} {would}; nothing was stored or moved ({state})"
    if result.outcome == "promoted":
        return f"{who} is the champion now ({state})"
    if result.outcome == "refused":
        return f"{who} is refused by the gate ({state})"
    return f"{who}: {'; '.join(result.reasons)} ({state})"


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mlflow_tracking_uri", metavar="URI", help="default: $MLFLOW_TRACKING_URI, else mlflow.db in this folder"
    )
