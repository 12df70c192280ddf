"""Who is asking: the name under which the store knows this person, as far as anything here can know it."""

from __future__ import annotations

import getpass
import os
import re
import socket
from typing import Any

from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.registry.names import shown

REGISTERED_BY = "registered_by"  # tag of a version
PUT_UP_BY = "candidate.by"  # tag of a version: who made it the candidate
_RUN_USER = "mlflow.user"
_UNKNOWN = ("", "unknown")  # what MLflow writes where nobody said
_USER = re.compile(r"[^\s\x00-\x1f\x7f]{1,100}")


def current_user() -> str:
    """$MLFLOW_TRACKING_USERNAME, which a store with basic-auth has checked, else the login name of this machine."""
    try:
        return check_user(os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser())
    except (KeyError, OSError) as error:  # a container's user without an entry in the passwd file
        raise UserError("your user name is not known here: set MLFLOW_TRACKING_USERNAME") from error


def check_user(name: str) -> str:
    """A user's name, unchanged. Raises UserError when it is empty, longer than 100 characters or holds spaces."""
    if not _USER.fullmatch(name):
        raise UserError(f"user {shown(name)}: expected 1 to 100 characters without spaces")
    return name


def makers_of(client: MlflowClient, version: Any) -> set[str]:
    """Everyone who is known to have trained, registered or put up the version; empty where nobody said."""
    run = client.get_run(version.run_id) if version.run_id else None
    named = [version.tags.get(REGISTERED_BY), version.tags.get(PUT_UP_BY), version.user_id]
    if run is not None:
        named += [run.data.tags.get(_RUN_USER), run.info.user_id]
    return {str(name) for name in named if name is not None and name not in _UNKNOWN}


def whereabouts() -> str:
    """This process in words: user, machine and process id."""
    return f"{current_user()} on {socket.gethostname()}, process {os.getpid()}"
