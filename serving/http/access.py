"""ASGI middleware: who asks, and from where. Beyond this machine a key says who; on it, its own pages and shells may.

A service on loopback needs no key, yet any web site the person visits could send forms to it, and a DNS name that
turns into 127.0.0.1 could read the answers. So without a key the Host must be a loopback name, and a browser's request
must come from the service's own page. What decides is the address that the connection came in on, not what the
configuration says: `bentoml serve --host 0.0.0.0` opens nothing, and neither does a proxy on this machine, which says
for whom it asks.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.http_errors import HttpError
from serving.http.log_lines import keep_to_one_line
from serving.keys import LOCAL, Key, MissingScopeError, UnknownKeyError

if TYPE_CHECKING:
    from starlette.requests import Request

PROBES = frozenset({"/livez", "/readyz", "/healthz"})
SIGNED = frozenset({"/v1/hooks/mlflow"})  # serving.http.hook_route: its own signature says who sent it
OPEN = PROBES | {"/", "/openapi.json", "/docs.json", "/schema.json"}  # what anyone may read: no job, no name of one
OPEN_FOLDER = "/ui/"
_SCOPES = {"/metrics": "metrics:read", "/stats": "metrics:read"}  # BentoML's own routes, which ask for nothing
_OURS = "/v1/"  # its routes say which content types they take; BentoML's, outside it, would take pickles among others
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
_SEEN = "serving.http.access"  # in a request's scope: a layer outside this one has let it in
_ASK = "this service asks for an API key (Authorization: Bearer …)"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Authenticates(Protocol):
    """What `serving.keys.Keys` does."""

    def authenticate(self, token: str) -> Key:
        """The key of `token`. Raises UnknownKeyError."""


class HasKeys(Protocol):
    """What `serving.jobs.Jobs` has; looked up at each request, since a service starts its jobs late."""

    @property
    def keys(self) -> Authenticates:
        """The API keys."""


class Access:
    """Puts the Key of every request into `scope["state"]["key"]`, or answers 401 or 403 in its place.

    `required` False: who connects on a loopback address is `LOCAL` and needs no key. Also sets the headers that keep a
    page from being abused.
    """

    def __init__(self, app: ASGIApp, jobs: HasKeys, required: bool) -> None:
        self.app, self.jobs, self.required = app, jobs, required
        keep_to_one_line()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; lifespan passes through, websockets are closed: there are none here."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http" or _SEEN in scope:
            return await self.app(scope, receive, send)
        scope[_SEEN] = True
        scope["state"] = dict(scope.get("state", {}))  # a server may hand the same one to every request

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            scope["state"]["key"] = await self._key(scope)
            _check_kind(scope)
        except HttpError as refusal:
            return await refusal.response()(scope, receive, guarded)
        return await self.app(scope, receive, guarded)

    async def _key(self, scope: Scope) -> Key | None:
        """Whose request this is; None where nobody needs to be known."""
        headers, path = Headers(scope=scope), scope["path"]
        if path in PROBES or path in SIGNED:
            return None
        forwarded = any(name in headers for name in _FORWARDED)
        if not self.required and not forwarded and _loopback((scope.get("server") or ("",))[0]):
            _check_local(headers)
            return LOCAL
        if path in OPEN or path.startswith(OPEN_FOLDER):
            return None
        key = await self._authenticated(headers.get("authorization", ""))
        if (scope_needed := _SCOPES.get(path)) is not None:
            _require(key, scope_needed)
        return key

    async def _authenticated(self, header: str) -> Key:
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise HttpError(401, _ASK)
        try:
            return await run_in_threadpool(self.jobs.keys.authenticate, token.strip())
        except UnknownKeyError:
            raise HttpError(401, "unknown API key") from None


def allowed(request: Request, scope: str) -> Key:
    """The request's key, which has `scope`. Raises HttpError 401 or 403."""
    key: Key | None = getattr(request.state, "key", None)
    if key is None:
        raise HttpError(401, _ASK)
    _require(key, scope)
    return key


def _require(key: Key, scope: str) -> None:
    try:
        key.require(scope)
    except MissingScopeError as missing:
        raise HttpError(403, f"this API key has no scope {missing.scope}") from None


def _check_local(headers: Headers) -> None:
    """Raises HttpError 403 for a host name that is not this machine's, and for another site's page."""
    host = headers.get("host", "")
    if not _loopback(_name(host)):
        raise HttpError(403, "without API keys this service answers to localhost only")
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise HttpError(403, "the request comes from another site's page")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HttpError(403, "the request comes from another site's page")


def _check_kind(scope: Scope) -> None:
    """Raises HttpError 415 for what BentoML would decode: a form that it cannot read is a fault of the server to it."""
    kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    read = scope["method"] in ("GET", "HEAD")
    if not read and kind not in ("", "application/json") and not scope["path"].startswith(_OURS):
        raise HttpError(415, "expected application/json")


def _name(host: str) -> str:
    """The name of NAME:PORT and [NAME]:PORT."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).strip("[]")


def _loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
