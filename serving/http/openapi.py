"""The OpenAPI document: what FastAPI knows of the routes, and what it cannot know: errors, keys, examples."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serving.config import ServiceConfig
from serving.http import examples
from serving.http.schemas import EXAMPLE_ID, ErrorBody

_MEANINGS = {
    400: "The request is wrong; `message` says all that is, `param` names the first field.",
    401: "No API key, or an unknown one.",
    403: "The key may not do this, or the request comes from another site.",
    404: "There is no such job, or it is another key's.",
    405: "The address does not know this method.",
    408: "The body did not arrive in time.",
    409: "The job's state does not allow it, or the Idempotency-Key was used for another request.",
    413: "Too large.",
    415: "Neither multipart/form-data nor JSON.",
    416: "The range lies beyond the file.",
    429: "This key has as many jobs as it may; see Retry-After.",
    503: "The queue is full or nothing is ready; see Retry-After.",
    504: "It took longer than a synchronous request may.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text} for status, text in _MEANINGS.items() if status != 416
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
MP4: dict[int | str, dict[str, Any]] = {200: {"content": {"video/mp4": _BINARY}}}
PICTURES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"video/mp4": _BINARY, "image/png": _BINARY, "image/jpeg": _BINARY}}
}
RANGES: dict[int | str, dict[str, Any]] = {
    206: {"description": "The range asked for.", "content": PICTURES[200]["content"]},
    416: {"description": _MEANINGS[416], "content": {"text/plain": {"schema": {"type": "string"}}}},
}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
_OPEN = ("/livez", "/readyz", "/v1/hooks/mlflow")


def document(app: FastAPI, config: ServiceConfig) -> dict[str, Any]:
    """`app`'s document, made once."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path, operations in made["paths"].items():
        for operation in operations.values():
            _complete(operation)
            if config.keys_required and path not in _OPEN:
                operation["security"] = [{"key": []}]
    made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    schemas = made["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    app.openapi_schema = made
    return made


def _complete(operation: dict[str, Any]) -> None:
    """No 422, which we never answer; an example of each answer, each error and each id."""
    operation["responses"].pop("422", None)
    for status, response in operation["responses"].items():
        for kind, content in response.get("content", {}).items():
            if (example := _example(int(status), kind, content)) is not None:
                content["example"] = example
    for parameter in operation.get("parameters", []):
        if parameter["name"] == "video_id":
            parameter["example"] = EXAMPLE_ID


def _example(status: int, kind: str, content: dict[str, Any]) -> Any:
    if status == 416:
        return None
    if kind != "application/json":
        return examples.TEXTS.get(kind)
    if status >= 400:
        return examples.ERRORS[status]
    return examples.ANSWERS[content["schema"]["$ref"].rpartition("/")[2]]
