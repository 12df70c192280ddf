"""Which store the verbs of `musubi-ext registry` work on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

REFERENCE = "NAME@ALIAS|NAME/VERSION"


def store_flag() -> argparse.ArgumentParser:
    """`--mlflow_tracking_uri`, as a parent of a verb's parser."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--mlflow_tracking_uri", metavar="URI", help="default: $MLFLOW_TRACKING_URI, else mlflow.db in this folder"
    )
    return parent


def connected(args: argparse.Namespace) -> MlflowClient:
    """A client of that store. Raises UserError when it does not answer."""
    from musubi_ext.registry.store import connect, tracking_uri

    return connect(tracking_uri(args.mlflow_tracking_uri))
