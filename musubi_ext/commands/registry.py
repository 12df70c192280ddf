"""`musubi-ext registry …`: registered pairs, which of them is live, and why. One module for each group of verbs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from musubi_ext.commands import registry_promote, registry_prune, registry_register, registry_show, registry_webhook
from musubi_ext.errors import UserError

_RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": registry_show.run_list,
    "show": registry_show.run_show,
    "diff": registry_show.run_diff,
    "register": registry_register.run_register,
    "promote": registry_promote.run_promote,
    "approve": registry_promote.run_approve,
    "rollback": registry_promote.run_rollback,
    "prune": registry_prune.run_prune,
    "webhook": registry_webhook.run_webhook,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verbs and their flags. Costs nothing: MLflow is loaded when one of them runs."""
    verbs = parser.add_subparsers(dest="registry_verb", required=True, metavar="VERB")
    registry_show.add_list(verbs)
    registry_show.add_show(verbs)
    registry_show.add_diff(verbs)
    registry_register.add_register(verbs)
    registry_promote.add_promote(verbs)
    registry_promote.add_approve(verbs)
    registry_promote.add_rollback(verbs)
    registry_prune.add_prune(verbs)
    registry_webhook.add_webhook(verbs)


def run(args: argparse.Namespace) -> int:
    """Run the verb that was parsed; prints its answer and returns the exit status. Raises UserError."""
    from musubi_ext.registry.store import STORE_ERRORS, first_line

    try:
        return _RUN[args.registry_verb](args)
    except BrokenPipeError:
        raise
    except STORE_ERRORS as error:  # a store that answered at first
        raise UserError(f"the registry's store: {first_line(error)}") from error
