"""A process that promotes when told to, and one that is killed in the middle of it. Run as a script by the tests."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":  # not where a test imports `act`
    warnings.filterwarnings("ignore", category=DeprecationWarning)

from mlflow import MlflowClient

from musubi_ext.evaluation.gate import Check, Decision
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.registry import claims
from musubi_ext.registry.promotion import promote_version, rollback
from musubi_ext.registry.store import connect

PASSED = Decision((Check("drift", True, "drift fell", -1.5),), Thresholds())
WRITES = (
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_registered_model_tag",
    "delete_registered_model_tag",
    "set_model_version_tag",
    "log_artifact",
)


def act(uri: str, order: dict[str, Any]) -> dict[str, Any]:
    """Promote or roll back as ordered; what came of it."""
    name = order["name"]
    if order["kind"] == "rollback":
        result = rollback(name, "shaky", uri=uri)
    else:
        client = connect(uri)
        version = client.get_model_version(name, str(order["version"]))
        result = promote_version(client, version, order["against"], PASSED, {"psnr": 20.0}, uri=uri)
    return {"outcome": result.outcome, "champion": result.champion, "reasons": list(result.reasons)}


def race(uri: str) -> None:
    """An order a line from stdin; an answer a line to stdout."""
    connect(uri)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(act(uri, json.loads(line))), flush=True)


def killed_at(write: int) -> None:
    """Let this process kill itself, by SIGKILL, just before its write number `write` to the store."""
    made = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            nonlocal made
            if made == write:
                os.kill(os.getpid(), signal.SIGKILL)
            made += 1
            return original(*args, **keywords)

        return call

    for name in WRITES:
        setattr(MlflowClient, name, counted(getattr(MlflowClient, name)))


def torture(uri: str) -> None:
    """For each order from stdin a child, forked after all imports, that dies at `kill` (null: never)."""
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            if order["kill"] is not None:
                killed_at(order["kill"])
            answer = act(uri, order)
            print(json.dumps(answer), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"died": os.WTERMSIG(status) if os.WIFSIGNALED(status) else "exit"}), flush=True)


if __name__ == "__main__":
    claims.STALE = float(sys.argv[3])
    {"race": race, "torture": torture}[sys.argv[1]](sys.argv[2])
