"""POST /v1/hooks/mlflow: MLflow's webhook says that an alias moved. Believed by its signature alone.

A notification only wakes the question: what the alias points to is the registry's own answer.

    musubi-ext registry webhook add https://this.service/v1/hooks/mlflow     # prints where the secret belongs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from fastapi import FastAPI
from starlette.requests import Request

from musubi_ext.errors import UserError
from serving.http import schemas
from serving.http.examples import NOTIFICATION
from serving.http.http_errors import HttpError
from serving.http.openapi import ERRORS

PATH = "/v1/hooks/mlflow"
LONGEST = 64 << 10  # bytes; that of an alias has 200


Notify: TypeAlias = "Callable[[bytes, Mapping[str, str]], object]"  # raises UserError for what is not to be believed


def add_hook(app: FastAPI, notify: Notify | None) -> None:
    """Register the route; without `notify` (LiveAdapters.notify, where a secret is set) it says that it is off."""
    shape = {"schema": {"type": "object"}, "example": NOTIFICATION}
    body = {"requestBody": {"required": True, "content": {"application/json": shape}}}

    @app.post(PATH, tags=["operations"], responses=ERRORS, openapi_extra=body)
    async def alias_moved(request: Request) -> schemas.State:
        """MLflow's webhook of model_version_alias events; signed (X-MLflow-Signature), and of the last five minutes."""
        if notify is None:
            raise HttpError(404, "MLflow's webhook is off here (adapters.webhook_secret_env names its secret)")
        sent = b""
        async for part in request.stream():
            sent += part
            if len(sent) > LONGEST:
                raise HttpError(413, f"a notification of more than {LONGEST:,} bytes")
        try:
            notify(sent, request.headers)
        except UserError:  # why is not said to whoever guesses
            raise HttpError(401, "the notification is not signed with our secret, or not of now") from None
        return schemas.State(status="ok")
