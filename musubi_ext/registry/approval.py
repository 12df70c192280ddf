"""A second pair of eyes: a version goes live only after somebody else has looked at its verdict and said so.

What it can do: the approval names one verdict by hash, so that another candidate, champion, gate or suite needs another
look, and its author is compared with everyone who trained, registered, put up or promotes the version. What it cannot
do: MLflow checks who somebody is only with basic-auth, and even then lets everyone with EDIT permission on a model set
any tag. It stops a mistake and leaves a trace; it does not stop an adversary who may write to the store.
"""

from __future__ import annotations

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.registry.alias_moves import Pointers
from musubi_ext.registry.evidence import fetch_verdict
from musubi_ext.registry.names import CANDIDATE, ModelReference, check_name, parse_reference
from musubi_ext.registry.promotion_log import Event, record
from musubi_ext.registry.store import connect, tracking_uri
from musubi_ext.registry.users import check_user, current_user, makers_of
from musubi_ext.registry.versions import address, find_version

APPROVAL_TAG = "approval"


def approve(reference: str, *, user: str | None = None, uri: str | None = None) -> tuple[str, dict[str, Any]]:
    """Approve the verdict of `NAME` (its candidate), `NAME@ALIAS` or `NAME/VERSION` as `user`, else as who one is.

    Returns the version's address and the verdict that was approved. Raises UserError for a version without a passed
    verdict, for evidence that is not what was judged, and for anyone who made the version.
    """
    known = current_user()
    name = check_user(user) if user else known
    if os.environ.get("MLFLOW_TRACKING_USERNAME") and name != known:
        raise UserError(f"--as {name}: the store knows you as {known} (log in as {name}, or leave --as out)")
    client = connect(tracking_uri(uri))
    plain = not {"@", "/"} & set(reference.removeprefix("models:/"))
    wanted = ModelReference(check_name(reference), alias=CANDIDATE) if plain else parse_reference(reference)
    version = find_version(client, wanted)
    if name in makers_of(client, version):
        raise UserError(f"{address(version)}: {name} trained or registered it: somebody else has to approve it")
    with tempfile.TemporaryDirectory() as folder:
        path, digest = fetch_verdict(client, version, Path(folder))
        verdict: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not verdict.get("passed"):
        raise UserError(f"{address(version)}: the gate refused it: {'; '.join(verdict.get('reasons', []))}")
    time = datetime.now(UTC).isoformat(timespec="seconds")
    value = json.dumps({"by": name, "verdict": digest, "time": time})
    client.set_model_version_tag(version.name, str(version.version), APPROVAL_TAG, value)
    now = Pointers.now(client, version.name)
    said = Event("approval", int(version.version), now.champion, now.previous, evidence=digest, by=name)
    record(client, version.name, said)
    return address(version), verdict


def lacking(client: MlflowClient, version: Any, verdict: str, promoter: str) -> str | None:
    """Why `verdict` (a SHA-256) may not be acted on yet; None when somebody else has approved it."""
    remedy = f"musubi-ext registry approve {version.name}/{version.version}, by somebody else, then promote again"
    text = version.tags.get(APPROVAL_TAG)
    if text is None:
        return f"it waits for an approval ({remedy})"
    try:
        approval = json.loads(text)
        by, what = check_user(approval["by"]), approval["verdict"]
    except (ValueError, KeyError, TypeError, UserError):
        return f"its tag {APPROVAL_TAG} is no approval ({remedy})"
    if what != verdict:
        return f"{by} approved another verdict ({str(what)[:12]}…, this one is {verdict[:12]}…) ({remedy})"
    if by == promoter:
        return f"{by} approved it and promotes it: these have to be two people ({remedy})"
    if by in makers_of(client, version):
        return f"{by} approved it and trained or registered it: these have to be two people ({remedy})"
    return None
