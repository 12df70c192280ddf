"""`musubi-ext registry webhook add | list | remove`: who is told when an alias moves."""

from __future__ import annotations

import argparse
import os
from typing import Any

from musubi_ext.commands.registry_output import json_flag, print_json, print_table, say
from musubi_ext.commands.registry_store import connected, store_flag

SECRET = "MUSUBI_EXT_WEBHOOK_SECRET"  # a flag would be seen in the list of processes


def add_webhook(verbs: Any) -> None:
    """`registry webhook`."""
    webhook = verbs.add_parser("webhook", help="addresses that an MLflow server tells of moved aliases")
    actions = webhook.add_subparsers(dest="webhook_verb", required=True, metavar="VERB")
    add_help = f"tell an address; signed with ${SECRET}, else with a new secret, which is printed once"
    add = actions.add_parser("add", help=add_help, parents=[store_flag(), json_flag()])
    add.add_argument("url", metavar="URL", help="where the server posts to, https unless it allows others")
    actions.add_parser("list", help="who is told", parents=[store_flag(), json_flag()])
    remove = actions.add_parser("remove", help="tell it no longer", parents=[store_flag(), json_flag()])
    remove.add_argument("url", metavar="URL|ID")


def run_webhook(args: argparse.Namespace) -> int:
    """Run the verb that was parsed."""
    return {"add": _add, "list": _list, "remove": _remove}[args.webhook_verb](args)


def _add(args: argparse.Namespace) -> int:
    from musubi_ext.registry.webhooks import add_webhook

    given = os.environ.get(SECRET)
    hook, secret = add_webhook(connected(args), args.url, given)
    if args.json:
        print_json(hook.as_dict() | ({} if given else {"secret": secret}))
        return 0
    say(f"{hook.id}  {hook.shown_url}")
    if not given:
        say(f"secret: {secret}  (keep it: the receiver checks signatures with it, and it is not shown again)")
    return 0


def _list(args: argparse.Namespace) -> int:
    from musubi_ext.registry.webhooks import webhooks

    found = webhooks(connected(args))
    if args.json:
        print_json([hook.as_dict() for hook in found])
    elif found:
        rows = [(hook.id, hook.shown_url, hook.status, ", ".join(hook.events)) for hook in found]
        print_table("webhooks", ("id", "url", "status", "events"), rows)
    else:
        print("nobody is told of moved aliases: musubi-ext registry webhook add URL")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from musubi_ext.registry.webhooks import remove_webhook

    found = remove_webhook(connected(args), args.url)
    if args.json:
        print_json([hook.as_dict() for hook in found])
    else:
        for hook in found:
            say(f"removed {hook.id}  {hook.shown_url}")
    return 0
