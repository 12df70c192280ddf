"""What MLflow's webhook sends, believed only with its signature.

MLflow 3.17 (mlflow/webhooks/delivery.py) signs `DELIVERY_ID.TIMESTAMP.BODY` by HMAC-SHA256 with the webhook's secret
and sends it as `X-MLflow-Signature: v1,BASE64`, the other two in headers of their own. A delivery that failed is sent
again as it was, so one delivery may rightly come more than once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from musubi_ext.errors import UserError

SIGNATURE, TIMESTAMP, DELIVERY = "X-MLflow-Signature", "X-MLflow-Timestamp", "X-MLflow-Delivery-Id"
TOLERANCE = 300.0  # seconds between MLflow's clock and ours; MLflow retries for about 10 s
LONGEST = 64 << 10  # bytes of a body; that of an alias is 200

_VERSION = "v1,"
_SECONDS = re.compile(r"[0-9]{1,12}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


class RefusedNotificationError(UserError):
    """A notification that is not to be believed. Answer 401, and nothing of the reason."""


def sign(secret: str, delivery: str, timestamp: str, body: bytes) -> str:
    """The signature header's value for `body`."""
    signed = b".".join((delivery.encode("utf-8"), timestamp.encode("ascii"), body))
    return _VERSION + base64.b64encode(_mac(secret, signed)).decode("ascii")


def verified(body: bytes, headers: Mapping[str, str], secret: str, *, now: float | None = None) -> dict[str, Any]:
    """The notification: `entity`, `action`, `data`. Header names in any case.

    Raises RefusedNotificationError for one that is unsigned, signed otherwise, too old, from the future or too long.
    """
    found = {key.lower(): value for key, value in headers.items()}
    missing = [name for name in (SIGNATURE, TIMESTAMP, DELIVERY) if name.lower() not in found]
    if missing:
        raise RefusedNotificationError(
            f"notification: {', '.join(missing)}: missing (is the webhook without a secret?)"
        )
    signature, timestamp, delivery = (found[name.lower()] for name in (SIGNATURE, TIMESTAMP, DELIVERY))
    if len(body) > LONGEST:
        raise RefusedNotificationError(f"notification: {len(body)} bytes, expected at most {LONGEST}")
    if not _SECONDS.fullmatch(timestamp) or not _ID.fullmatch(delivery):
        raise RefusedNotificationError(f"notification: {TIMESTAMP} or {DELIVERY} is malformed")
    if not hmac.compare_digest(_decoded(signature), _mac(secret, f"{delivery}.{timestamp}.".encode("ascii") + body)):
        raise RefusedNotificationError("notification: the signature is not that of our secret")
    age = (time.time() if now is None else now) - int(timestamp)
    if abs(age) > TOLERANCE:
        raise RefusedNotificationError(
            f"notification: sent {age:.0f} s ago, expected at most {TOLERANCE:.0f} (replayed, or a clock is wrong)"
        )
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedNotificationError("notification: its body is no JSON") from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
        raise RefusedNotificationError("notification: expected an object with entity, action and data")
    return content


def concerns(content: Mapping[str, Any], name: str, alias: str) -> bool:
    """Whether a verified notification says that `alias` of the model `name` was moved or deleted."""
    data = content["data"]
    return content.get("entity") == "model_version_alias" and (data.get("name"), data.get("alias")) == (name, alias)


def _mac(secret: str, signed: bytes) -> bytes:
    return hmac.new(secret.encode("utf-8"), signed, hashlib.sha256).digest()


def _decoded(signature: str) -> bytes:
    """The bytes of `v1,BASE64`; none for another form, which equal no signature."""
    try:
        return base64.b64decode(signature.removeprefix(_VERSION), validate=True) if signature[:3] == _VERSION else b""
    except (binascii.Error, ValueError):
        return b""
