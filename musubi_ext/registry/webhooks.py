"""Webhooks of an MLflow server that tell when an alias moves. The receiving end is watch.AliasWatcher.notify."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from musubi_ext.errors import UserError, shown
from musubi_ext.registry.store import first_line, without_password

EVENTS = ("model_version_alias.created", "model_version_alias.deleted")
NAME = "musubi-ext-alias"
_LONGEST = 2000  # characters of a URL
_PAGE = 100


@dataclass(frozen=True)
class Hook:
    """One webhook of the server."""

    id: str
    url: str
    status: str
    events: tuple[str, ...]

    @property
    def shown_url(self) -> str:
        """`url` without a password in it."""
        return without_password(self.url)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"id": self.id, "url": self.shown_url, "status": self.status, "events": list(self.events)}


def add_webhook(client: MlflowClient, url: str, secret: str | None = None) -> tuple[Hook, str]:
    """Have the server tell `url` of every alias that is moved; the webhook, and its secret (a new one if not given).

    Raises UserError for a store without a server, a URL that the server refuses, or one that is told already.
    """
    _need_server(client)
    if len(url) > _LONGEST or not url.isprintable() or urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"webhook {shown(url[:80])}: expected https://HOST/PATH, at most {_LONGEST} characters")
    if any(hook.url == url for hook in webhooks(client)):
        raise UserError(
            f"webhook {without_password(url)}: the server has it already (remove it first for another secret)"
        )
    secret = secret or secrets.token_urlsafe(32)
    try:
        hook = client.create_webhook(name=NAME, url=url, events=list(EVENTS), secret=secret)
    except MlflowException as error:
        raise UserError(
            f"webhook {without_password(url)}: the server refuses it: {first_line(error)} (it takes public https "
            "addresses; others when started with MLFLOW_WEBHOOK_ALLOWED_SCHEMES and MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS)"
        ) from error
    return _hook(hook), secret


def webhooks(client: MlflowClient) -> list[Hook]:
    """Webhooks that are told of aliases, ours and others'."""
    _need_server(client)
    found: list[Hook] = []
    token = None
    while True:
        page = client.list_webhooks(max_results=_PAGE, page_token=token)
        found += [_hook(hook) for hook in page]
        token = page.token
        if not token:
            return [hook for hook in found if set(hook.events) & set(EVENTS)]


def remove_webhook(client: MlflowClient, what: str) -> list[Hook]:
    """Delete the webhooks of that URL or id; those that were deleted. Raises UserError when there is none."""
    known = webhooks(client)
    found = [hook for hook in known if what in (hook.id, hook.url)]
    if not found:
        there = ", ".join(hook.shown_url for hook in known) or "none"
        raise UserError(f"webhook {shown(what[:80])}: the server has no such webhook (there are: {there})")
    for hook in found:
        client.delete_webhook(hook.id)
    return found


def _need_server(client: MlflowClient) -> None:
    if urlsplit(client.tracking_uri).scheme not in ("http", "https"):
        raise UserError(
            "webhooks are sent by an MLflow server, and this store has none (give --mlflow_tracking_uri http://…; "
            "without a server the alias is polled)"
        )


def _hook(found: Any) -> Hook:
    events = tuple(sorted(str(event) for event in found.events))
    return Hook(str(found.webhook_id), str(found.url), str(found.status), events)
