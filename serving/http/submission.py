"""From a request's body to an accepted job: read, checked whole, priced, its version fixed, queued."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from musubi_ext.errors import UserError
from serving.config import ServiceConfig
from serving.http.http_errors import HttpError
from serving.http.settle import Settle
from serving.http.uploads import Sent, check_header, read_sent
from serving.keys import Key
from serving.making.fields import FILES, NUMBERS, TEXTS
from serving.making.request import JobRequest
from serving.queue.store import JobRecord

if TYPE_CHECKING:
    from serving.http.video_routes import JobsPort

FIELDS = (*TEXTS, *NUMBERS, "priority", "webhook")


class Submission:
    """What POST /v1/videos and POST /v1/videos/sync have in common."""

    def __init__(self, jobs: JobsPort, config: ServiceConfig, settle: Settle) -> None:
        self.jobs, self.config, self.settle = jobs, config, settle

    async def read(self, request: Request) -> Sent:
        """The body's fields and pictures; of these only the headers are looked at. Raises HttpError."""
        limits = self.config.limits
        sent = await read_sent(request, FIELDS, dict.fromkeys(FILES, limits.upload_bytes))
        for name, data in sent.files.items():
            check_header(data, name, limits)
        return sent

    def accept(self, sent: Sent, key: Key, idempotency_key: str | None, most: int | None = None) -> JobRecord:
        """The accepted job. `most`: pixels of all its frames and candidates. Decodes, reads files: not for the loop.

        Raises UserError with everything that is wrong, HttpError, and what `Jobs.submit` raises.
        """
        fields = dict(sent.fields)
        priority, webhook = _priority(fields.pop("priority", None)), fields.pop("webhook", None) or None
        if webhook is not None and not isinstance(webhook, str):
            raise UserError("webhook: expected an address as text")
        asked = JobRequest.parse(fields, sent.files, self.config.limits)
        self._check_model(asked.model)
        version = self.settle.adapters.resolve(asked.pair)
        volume = self.settle.check(asked, version)
        if most is not None and volume > most:
            message = f"{volume:,} pixels of video are too many to wait for, at most {most:,}: use POST /v1/videos"
            raise HttpError(413, message)
        return self.jobs.submit(
            asked,
            key,
            idempotency_key,
            version=version,
            priority=priority,
            webhook=webhook,
            seeded=fields.get("seed") not in (None, ""),
        )

    def _check_model(self, asked: str) -> None:
        name = Path(self.config.base).name
        if asked not in ("", name):
            message = f"model: this service has {name}, not {asked!r} (leave it out, or name that)"
            raise HttpError(400, message, code="model_not_found", param="model")


def _priority(value: Any) -> int:
    if value in (None, ""):
        return 0
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?[0-9]{1,4}", str(value)):
        raise UserError("priority: expected a whole number from -100 to 100")
    return int(value)
