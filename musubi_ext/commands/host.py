"""`musubi-ext host install | show`: which musubi-tuner trains."""

from __future__ import annotations

import argparse
from pathlib import Path

from musubi_ext.hosts.musubi.discovery import COMMITS, PINNED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verbs and their flags."""
    verbs = parser.add_subparsers(dest="host_verb", required=True, metavar="VERB")
    install = verbs.add_parser("install", help="fetch a released musubi-tuner, or use a checkout that is there")
    which = install.add_mutually_exclusive_group()
    which.add_argument("--from", dest="checkout", type=Path, metavar="DIR", help="use this checkout, in place")
    which.add_argument("--tag", default=PINNED, choices=list(COMMITS), help="the release to fetch (%(default)s)")
    install.add_argument("--dry-run", action="store_true", help="check everything, say what would be done")
    show = verbs.add_parser("show", help="where it is, its version, its commit")
    show.add_argument("--path", action="store_true", help="the path alone, for scripts")


def run(args: argparse.Namespace) -> int:
    """Run the verb that was parsed; returns the exit status. Raises UserError."""
    return {"install": _install, "show": _show}[args.host_verb](args)


def _install(args: argparse.Namespace) -> int:
    from musubi_ext.hosts.musubi.discovery import find_host
    from musubi_ext.hosts.musubi.install import install_from, install_tag, precedence

    if args.checkout is not None:
        done = install_from(args.checkout, dry_run=args.dry_run)
    else:
        done = install_tag(args.tag, dry_run=args.dry_run)
    print(done.said)
    if not args.dry_run and done.host and (first := precedence(done.host, find_host())):
        print(f"note: {first}")
    print(f"next: {_next_step()}")
    return 0


def _next_step() -> str:
    import torch

    from musubi_ext.hosts.musubi.requirements import missing, pip_command

    lacking = missing(cuda=torch.cuda.is_available())
    return pip_command(lacking) if lacking else "nothing else is needed (`musubi-ext doctor` checks everything)"


def _show(args: argparse.Namespace) -> int:
    from musubi_ext.hosts.musubi.discovery import find_host
    from musubi_ext.hosts.musubi.requirements import missing

    host = find_host()
    if args.path:
        print(host.root)
        return 0
    released = {None: "", True: " (as released)", False: f" (not what v{host.version} was released as)"}
    print(f"path     {host.root}")
    print(f"version  {host.version}")
    print(f"commit   {host.commit or 'unknown'}{released[host.is_released]}")
    print(f"found    {host.source}")
    print(f"missing  {', '.join(each.module for each in missing()) or 'nothing'}")
    return 0
