"""ASGI middleware: request bodies are counted while they stream in, each and all, and must arrive within a time."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.http_errors import HttpError

SECONDS = 120.0  # for the whole body; a client that drips bytes holds a connection no longer
AT_ONCE = 8  # bodies of the largest size that may be held at once, in smaller ones or in these


class _TooLongError(Exception):
    pass


class _TooSlowError(Exception):
    pass


class _TooManyError(Exception):
    pass


class BodyLimit:
    """Refuses bodies over `max_bytes` with 413, from Content-Length at once, else as soon as one byte too many came.

    A body that is not complete after `seconds` is answered with 408. Nothing of a refused body is kept. Bodies count
    until they are answered: what would make all of them more than AT_ONCE of the largest is answered with 503.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float = SECONDS) -> None:
        self.app, self.max_bytes, self.seconds = app, max_bytes, seconds
        self.held = 0  # bytes of the bodies that are being read or worked on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; websockets and lifespan pass through."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if _announced(scope) > self.max_bytes:
            return await self._refuse(scope, receive, send)
        started, seen, complete, answered = time.monotonic(), 0, False, False

        async def counted() -> Message:
            nonlocal seen, complete
            if complete:  # what comes now is the disconnect, which may take for ever
                return await receive()
            left = self.seconds - (time.monotonic() - started)
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except TimeoutError:
                raise _TooSlowError from None
            came = len(message.get("body", b""))
            seen, self.held = seen + came, self.held + came
            complete = not message.get("more_body", False)
            if seen > self.max_bytes:
                raise _TooLongError
            if self.held > AT_ONCE * self.max_bytes:
                raise _TooManyError
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except (_TooLongError, _TooSlowError, _TooManyError) as refusal:
            if answered:
                raise
            if isinstance(refusal, _TooLongError):
                await self._refuse(scope, receive, send)
            elif isinstance(refusal, _TooSlowError):
                late = HttpError(408, f"the body did not arrive within {self.seconds:g} seconds")
                await _closing(late, scope, receive, send)
            else:
                many = HttpError(503, "too much is being sent at once; send it again later", retry_after=2)
                await _closing(many, scope, receive, send)
        finally:
            self.held -= seen

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = HttpError(413, f"the body is larger than {self.max_bytes:,} bytes")
        await _closing(limit, scope, receive, send)


async def _closing(problem: HttpError, scope: Scope, receive: Receive, send: Send) -> None:
    """The answer, after which the connection ends: the rest of the body is never read."""
    response = problem.response()
    response.headers["Connection"] = "close"
    await response(scope, receive, send)


def _announced(scope: Scope) -> int:
    """Content-Length, 0 where there is none or it is no number (the count while streaming decides then)."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return max((int(value) for value in lengths if value.isdigit() and len(value) < 20), default=0)
