"""What goes wrong over HTTP, in one shape: {"error": {"code", "message", "param"}}, and nothing of our insides."""

from __future__ import annotations

import logging
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from musubi_ext.errors import UserError

log = logging.getLogger(__name__)

# What error texts carry of our insides (CVE-2026-22778): databases' and files' addresses with their passwords, POSIX
# and Windows paths, the addresses of objects in memory, and a traceback's "file.py, line 12".
_INSIDES = re.compile(
    r"\b(?!https?:|models:)[a-z][a-z0-9+.-]*:/+[^\s'\")]+"
    r"|\bhttps?://[^\s/@'\"]+@[^\s'\")]+"
    r"|(?<![\w./:-])~?(?:/[\w.@+-]+){2,}/?"
    r"|\b[A-Za-z]:\\[^\s'\"]+"
    r"|0x[0-9a-fA-F]{6,}"
    r"|\b[\w./-]+\.py\b(?:\W+line \d+)?"
)
_CODES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
    503: "unavailable",
    504: "timeout",
}


class HttpError(Exception):
    """An answer that is no success: status, machine-readable code, a sentence, and the field it is about."""

    def __init__(
        self, status: int, message: str, *, code: str = "", param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code = code or _CODES.get(status, "error")
        self.retry_after = retry_after

    def response(self) -> JSONResponse:
        """The JSON answer, with Retry-After where waiting helps."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(error_body(self.code, self.message, self.param), self.status, headers)


def error_body(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The one shape of an error, its message without insides."""
    return {"error": {"code": code, "message": public(message), "param": param}}


def public(message: str) -> str:
    """`message` on one line, without paths of this machine and without addresses of its memory."""
    return _INSIDES.sub("…", " ".join(message.split()))[:2_000]


def invalid(error: UserError, fields: frozenset[str]) -> HttpError:
    """A request's mistakes, all of them; `param` is the first field of `fields` that one of them names."""
    named = [found[0] for problem in error.problems if (found := re.match(r"[a-z_0-9]+", problem))]
    param = next((name for name in named if name in fields), None)
    return HttpError(400, "; ".join(error.problems), param=param)


def install(app: FastAPI) -> None:
    """Every failure of `app`'s routes in our shape; the unforeseen ones are logged here and nameless outside."""

    @app.exception_handler(HttpError)
    async def _ours(_: Request, problem: HttpError) -> JSONResponse:
        return problem.response()

    @app.exception_handler(HTTPException)
    async def _starlette(_: Request, error: HTTPException) -> JSONResponse:
        answer = HttpError(error.status_code, str(error.detail)).response()
        answer.headers.update(error.headers or {})  # Allow, of a 405
        return answer

    @app.exception_handler(ClientDisconnect)
    async def _away(_: Request, __: ClientDisconnect) -> JSONResponse:
        return HttpError(400, "the body ended too early").response()  # which nobody reads

    @app.exception_handler(RequestValidationError)
    async def _parameters(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = str(first["loc"][-1]) if len(first["loc"]) > 1 else None
        found = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return HttpError(400, found, param=param).response()

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %r failed", request.method, request.url.path, exc_info=error)  # %r: a path may hold line ends
        return HttpError(500, "the server made a mistake; its log says which", code="internal_error").response()
