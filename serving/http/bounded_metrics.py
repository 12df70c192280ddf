"""BentoML counts requests by their path, whatever it is: every job, and every path a stranger thinks of, would be a
series of its own for ever, in the memory of the process and under the eyes of whoever reads /metrics.

BentoML's middleware stands outside of all that a service can add, also of the one that asks for keys. So its class is
exchanged for one that counts by route. The class is not public: where another BentoML lacks it, the import fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bentoml._internal.server.http import instruments
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

OTHER = "other"  # all paths that no route has
_OWN = ("/livez", "/readyz", "/healthz", "/metrics", "/stats", "/docs.json", "/schema.json")  # BentoML's
_KEPT = "musubi_ext.path"  # the request's own path, while the middleware sees its route's


class Endpoints:
    """A path → the route that it belongs to, among `routes` and BentoML's own."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        known = [route for route in routes if isinstance(route, (Route, Mount))]
        self._routes = [(route.path_regex, route.path) for route in known]

    def of(self, path: str) -> str:
        """`/v1/videos/{video_id}`, or `OTHER`."""
        if path in _OWN:
            return path
        return next((name for pattern, name in self._routes if pattern.match(path)), OTHER)


def count_by_route(routes: Iterable[BaseRoute]) -> None:
    """From now on BentoML's servers in this process count by these routes."""
    endpoints = Endpoints(routes)
    original: Any = _Original

    class ByRoute(original):  # type: ignore[misc]
        def __init__(self, app: ASGIApp, **options: Any) -> None:
            super().__init__(_with_own_path(app), **options)

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] in ("http", "websocket"):
                scope = {**scope, _KEPT: scope["path"], "path": endpoints.of(scope["path"])}
            await super().__call__(scope, receive, send)

    instruments.RunnerTrafficMetricsMiddleware = ByRoute  # type: ignore[misc,assignment]


_Original = instruments.RunnerTrafficMetricsMiddleware


def _with_own_path(app: ASGIApp) -> ASGIApp:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        if _KEPT in scope:
            scope["path"] = scope.pop(_KEPT)
        await app(scope, receive, send)

    return inner
