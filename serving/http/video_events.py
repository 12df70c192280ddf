"""Server-sent events of one job: the whole of it whenever it has moved, until it has ended."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable

from serving.http.http_errors import HttpError, error_body
from serving.http.schemas import Video

LOOK = 0.15  # seconds between two looks at a job that is watched
PING = 10.0  # seconds without news after which a stream says that it lives


async def news(look: Callable[[], Awaitable[Video]], gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[str]:
    """Events named by the job's status, each with the job as data; "error" when there is no job any more.

    `look` reads the job, `gone` says whether nobody listens any longer. Nothing waits on a thread meanwhile.
    """
    said, quiet = "", 0.0
    while True:
        try:
            view = await look()
        except HttpError as error:
            yield f"event: error\ndata: {json.dumps(error_body(error.code, error.message))}\n\n"
            return
        text = view.model_dump_json()
        if (moved := _without_estimate(text)) != said:
            yield f"event: {view.status}\ndata: {text}\n\n"
            said, quiet = moved, 0.0
        elif quiet >= PING:
            yield ": still here\n\n"
            quiet = 0.0
        if view.status in ("completed", "failed") or await gone():
            return
        await asyncio.sleep(LOOK)
        quiet += LOOK


def _without_estimate(text: str) -> str:
    """A view as far as a change of it is news: the estimate moves with every look."""
    return re.sub(r'"estimated_start":[^,]*,', "", text)
