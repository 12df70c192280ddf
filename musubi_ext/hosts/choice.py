"""The parser and the checks of the host that a command means (`own_flags.choose_host`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from musubi_ext.hosts.jobs import MUSUBI, Plan
from musubi_ext.hosts.own_flags import choose_host


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments for the host that `argv` means, `args.host` resolved. Raises UserError with every mistake."""
    host = choose_host(argv)
    if host == MUSUBI:
        from musubi_ext.hosts.musubi.arguments import parse as parse_for_host
    else:
        from musubi_ext.hosts.arguments import parse as parse_for_host
    args = parse_for_host(argv)
    args.host = host
    return args


def resolve(args: argparse.Namespace) -> Plan:
    """The plan of `parse`'s arguments. Raises UserError with everything that is wrong, before a model is loaded."""
    if args.host == MUSUBI:
        from musubi_ext.hosts.musubi.resolve import resolve as checked
    else:
        from musubi_ext.hosts.resolve import resolve as checked
    return checked(args)
