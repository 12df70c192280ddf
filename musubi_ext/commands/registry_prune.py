"""`musubi-ext registry prune`: old versions and unused copies go; what an alias or evidence refers to stays."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from musubi_ext.commands.registry_output import json_flag, moment, print_json, print_table, say
from musubi_ext.commands.registry_store import connected, store_flag
from musubi_ext.errors import Problems, UserError

if TYPE_CHECKING:
    from musubi_ext.registry.prune import Copy
    from musubi_ext.registry.retention import Judged


def add_prune(verbs: Any) -> None:
    """`registry prune`."""
    help_text = "delete old versions that no alias or evidence refers to, and copies unused on this machine"
    prune = verbs.add_parser("prune", help=help_text, parents=[store_flag(), json_flag()])
    prune.add_argument("names", nargs="*", metavar="NAME", help="registered models (default: all)")
    prune.add_argument("--keep", type=int, default=5, metavar="N", help="newest versions of each model that stay (5)")
    prune.add_argument(
        "--older_than", type=float, default=30, metavar="DAYS", help="age of a version, or days since a copy's use (30)"
    )
    prune.add_argument(
        "--refused", action="store_true", help="also versions that the gate refused, with their evidence"
    )
    prune.add_argument("--cache_only", action="store_true", help="only the copies on this machine")
    prune.add_argument("--dry-run", action="store_true", help="list what would be deleted")


def run_prune(args: argparse.Namespace) -> int:
    """Delete, or only list with --dry-run."""
    from musubi_ext.registry.prune import delete_copy, delete_parts, old_copies, prune_versions
    from musubi_ext.registry.retention import Retention

    rule = Retention(args.keep, args.older_than, args.refused)
    client = connected(args)
    ours = _ours(client)
    _check_names(args.names, ours)
    judged: list[Judged] = []
    gone: list[str] = []
    if not args.cache_only:
        gone = prune_versions(client, args.names or ours, rule, dry_run=args.dry_run, say=judged.append)
    copies = old_copies(client, ours, rule.days)
    if not args.dry_run:
        for copy in copies:
            delete_copy(copy)
        delete_parts()
    facts = {
        "dry_run": args.dry_run,
        "deleted": gone,
        "kept": [{"version": _address(one), "reason": one.reason} for one in judged if _address(one) not in gone],
        "copies": [{"path": str(copy.path), "bytes": copy.size, "days": copy.days} for copy in copies],
    }
    if args.json:
        print_json(facts)
    else:
        _print(judged, gone, copies, dry_run=args.dry_run)
    return 0


def _ours(client: Any) -> list[str]:
    """Models by names that musubi-ext gives; another program's are not touched."""
    from musubi_ext.registry.names import check_name
    from musubi_ext.registry.versions import models

    found = []
    for model in models(client):
        try:
            found.append(check_name(model.name))
        except UserError:
            continue
    return found


def _check_names(names: list[str], known: list[str]) -> None:
    from musubi_ext.registry.names import check_name

    problems = Problems()
    for name in names:
        if problems.collect(lambda name=name: check_name(name)) and name not in known:  # type: ignore[misc]
            problems.found.append(f"no registered model {name!r} (there are: {', '.join(known) or 'none'})")
    problems.raise_if_any()


def _address(judged: Judged) -> str:
    from musubi_ext.registry.versions import address

    return address(judged.version)


def _print(judged: list[Judged], gone: list[str], copies: list[Copy], *, dry_run: bool) -> None:
    goes = "would be deleted" if dry_run else "deleted"
    rows = []
    for one in judged:
        stays = one.reason or "pointed at meanwhile"
        rows.append((_address(one), moment(one.version.creation_timestamp), goes if _address(one) in gone else stays))
    if rows:
        print_table("versions", ("version", "created", "goes, or stays because"), rows)
    if copies:
        listed = [(copy.path.name, f"{copy.size / 1e6:.1f}", f"{copy.days:.0f}") for copy in copies]
        print_table(f"copies in {copies[0].path.parent}", ("copy", "MB", "days unused"), listed, right=("MB",))
    size = sum(copy.size for copy in copies) / 1e6
    say(f"{len(gone)} versions and {len(copies)} copies ({size:.1f} MB) {goes}")
