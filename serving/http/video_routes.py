"""/v1/videos: make, show, list, watch, download, cancel and delete jobs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import anyio
from fastapi import FastAPI, Header, Query
from fastapi import Path as InPath
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from musubi_ext.errors import UserError
from serving.adapters_live import RegistryDownError
from serving.config import ServiceConfig
from serving.http import schemas
from serving.http.access import allowed
from serving.http.http_errors import HttpError, invalid
from serving.http.openapi import ERRORS, EVENTS, MP4, PICTURES, RANGES
from serving.http.settle import Settle
from serving.http.submission import FIELDS, Submission
from serving.http.variants import draw
from serving.http.video_events import LOOK, news
from serving.http.view import MADE_FROM_VIDEO, video
from serving.keys import Key, Keys
from serving.making.fields import FILES
from serving.making.request import JobRequest
from serving.queue.job_errors import ConflictError, JobError, NotFoundError, QueueFullError, QuotaError
from serving.queue.store import COMPLETED, JobRecord

STREAMS, STREAMS_EACH = 256, 32  # events streams at once: of all, of one owner
DECODING = 2  # requests whose pictures are decoded at once: each may take a gigabyte
_STATUS = {NotFoundError: 404, ConflictError: 409, QuotaError: 429, QueueFullError: 503}
_MEDIA = {".mp4": "video/mp4", ".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}
Order = Literal["asc", "desc"]
VideoId = Annotated[str, InPath(pattern="^video_[0-9a-f]{24}$")]
Variant = Literal["video", "thumbnail", "filmstrip", "spritesheet", "preview"]
T = TypeVar("T")


class JobsPort(Protocol):
    """What `serving.jobs.Jobs` does, as far as HTTP needs it."""

    keys: Keys

    @property
    def ready(self) -> bool: ...
    def submit(
        self,
        request: JobRequest,
        owner: Key,
        idempotency_key: str | None,
        *,
        version: Any,
        priority: int,
        webhook: str | None,
        seeded: bool,
    ) -> JobRecord: ...
    def get(self, job_id: str, owner: Key) -> JobRecord: ...
    def list(self, owner: Key, after: str | None, limit: int, order: Order) -> list[JobRecord]: ...
    def cancel(self, job_id: str, owner: Key) -> JobRecord: ...
    def delete(self, job_id: str, owner: Key) -> None: ...
    def file(self, job_id: str, variant: str, owner: Key) -> Path: ...
    def stats(self) -> dict[str, Any]: ...


class VideoRoutes:
    """The routes on one queue of jobs."""

    def __init__(self, jobs: JobsPort, config: ServiceConfig, settle: Settle) -> None:
        self.jobs, self.config, self.settle = jobs, config, settle
        self.submission = Submission(jobs, config, settle)
        self._streams: Counter[str] = Counter()  # by owner
        self._drawing, self._decoding = anyio.CapacityLimiter(2), anyio.CapacityLimiter(DECODING)

    def add_to(self, app: FastAPI) -> None:
        """Register every route; /sync before /{video_id}, which would take it for an id."""
        body = {"requestBody": schemas.create_body(FIELDS)}

        def add(method: str, path: str, run: Callable[..., Any], more: Any = None, **options: Any) -> None:
            responses = {**ERRORS, **(more or {})}
            app.add_api_route(path, run, methods=[method], tags=["videos"], responses=responses, **options)

        one = "/v1/videos/{video_id}"
        add("POST", "/v1/videos", self.create, openapi_extra=body)
        add("GET", "/v1/videos", self.list)
        add("POST", "/v1/videos/sync", self.create_and_wait, MP4, openapi_extra=body, response_class=FileResponse)
        add("GET", one, self.show)
        add("DELETE", one, self.delete)
        add("POST", f"{one}/cancel", self.cancel)
        add("GET", f"{one}/content", self.content, {**PICTURES, **RANGES}, response_class=FileResponse)
        add("GET", f"{one}/events", self.events, EVENTS, response_class=StreamingResponse)

    async def create(self, request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> schemas.Video:
        """Accept a job. The same Idempotency-Key with the same request gives the same job again."""
        key = allowed(request, "videos:write")
        sent = await self.submission.read(request)
        return await _in_thread(lambda: self._view(self.submission.accept(sent, key, idempotency_key)), self._decoding)

    async def create_and_wait(self, request: Request) -> Response:
        """Make a small video and answer with its bytes; closing the connection cancels it."""
        key = allowed(request, "videos:write")
        allowed(request, "videos:read")
        sent = await self.submission.read(request)
        most = self.config.limits.sync_volume
        job = await _in_thread(lambda: self.submission.accept(sent, key, None, most), self._decoding)
        try:
            job = await self._ended(request, job.id, key)
        except BaseException:  # nobody waits for it any more, whatever the reason
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(self.jobs.cancel, job.id, key)
            raise
        if job.state != COMPLETED:
            error = job.error or {}
            status = 400 if error.get("code") == "invalid_request" else 503
            raise HttpError(status, error.get("message", "the video was not made"), code=error.get("code", "failed"))
        return await self._file(job, "video", key)

    async def list(
        self,
        request: Request,
        after: Annotated[str | None, Query(pattern="^video_[0-9a-f]{24}$")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Order = "desc",
    ) -> schemas.VideoList:
        """The key's jobs by the time they were accepted, from behind `after`."""
        key = allowed(request, "videos:read")

        def found() -> schemas.VideoList:
            jobs = self.jobs.list(key, after, limit + 1, order)
            shown = [self._view(job) for job in jobs[:limit]]
            ends = (shown[0].id, shown[-1].id) if shown else (None, None)
            return schemas.VideoList(data=shown, first_id=ends[0], last_id=ends[1], has_more=len(jobs) > limit)

        return await _in_thread(found)

    async def show(self, request: Request, video_id: VideoId) -> schemas.Video:
        """One job now."""
        return await self._look(video_id, allowed(request, "videos:read"))

    async def cancel(self, request: Request, video_id: VideoId) -> schemas.Video:
        """Cancel a job: at once when it waits, at its next step when it runs. One that has ended stays as it is."""
        key = allowed(request, "videos:write")
        return await _in_thread(lambda: self._view(self.jobs.cancel(video_id, key)))

    async def delete(self, request: Request, video_id: VideoId) -> schemas.Deleted:
        """Delete a job and its files; one that waits or runs is cancelled first."""
        key = allowed(request, "videos:write")
        await _in_thread(lambda: self.jobs.delete(video_id, key))
        return schemas.Deleted(id=video_id, deleted=True)

    async def content(self, request: Request, video_id: VideoId, variant: Variant = "video") -> Response:
        """A completed job's mp4, or a picture of it, or the preview of one that is being made; ranges are honoured."""
        key = allowed(request, "videos:read")
        job = await _in_thread(lambda: self.jobs.get(video_id, key))
        if variant == "preview":
            return await self._preview(job, key)
        return await self._file(job, "filmstrip" if variant == "spritesheet" else variant, key)

    async def events(self, request: Request, video_id: VideoId) -> StreamingResponse:
        """Server-sent events: the whole job as data whenever it has moved, until it has ended."""
        key = allowed(request, "videos:read")
        await self._look(video_id, key)
        if self._streams.total() >= STREAMS or self._streams[key.owner] >= STREAMS_EACH:
            raise HttpError(503, "too many events are streamed; ask for the job instead", retry_after=5)

        async def stream() -> AsyncIterator[str]:
            self._streams[key.owner] += 1
            try:
                async for event in news(lambda: self._look(video_id, key), lambda: _over(request)):
                    yield event
            finally:
                self._streams -= Counter({key.owner: 1})  # an owner without any is dropped

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def _look(self, video_id: str, key: Key) -> schemas.Video:
        return await _in_thread(lambda: self._view(self.jobs.get(video_id, key)))

    async def _ended(self, request: Request, job_id: str, key: Key) -> JobRecord:
        """The job once it has ended. Raises HttpError: 504 when that takes too long, 499 when nobody waits."""
        waited, most = 0.0, self.config.limits.sync_seconds
        while not (job := await _in_thread(lambda: self.jobs.get(job_id, key))).finished:
            if waited > most:
                raise HttpError(504, f"not made within {most:g} seconds: use POST /v1/videos")
            if await request.is_disconnected():
                raise HttpError(499, "the client went away", code="gone")
            await asyncio.sleep(LOOK)
            waited += LOOK
        return job

    async def _file(self, job: JobRecord, variant: str, key: Key) -> Response:
        drawn = variant in MADE_FROM_VIDEO and variant not in job.files
        path = await _in_thread(lambda: self.jobs.file(job.id, "video" if drawn else variant, key))
        headers = {"X-Video-Id": job.id}
        if drawn:
            try:
                picture = await anyio.to_thread.run_sync(draw, path, variant, limiter=self._drawing)
            except OSError:  # deleted meanwhile
                raise HttpError(404, "no such job") from None
            return Response(picture, media_type="image/png", headers=headers)
        name = f"{job.id}{path.suffix}" if variant == "video" else f"{job.id}-{variant}{path.suffix}"
        media = _MEDIA.get(path.suffix, "application/octet-stream")
        return FileResponse(path, media_type=media, filename=name, headers=headers, content_disposition_type="inline")

    async def _preview(self, job: JobRecord, key: Key) -> Response:
        """The newest picture of a job that is being made, which another process draws, replaces and deletes."""
        if job.finished or "preview" not in job.files:
            why = "the job has ended" if job.finished else "none was drawn so far"
            raise HttpError(404, f"there is no preview: {why}")
        try:
            data = await _in_thread(lambda: self.jobs.file(job.id, "preview", key).read_bytes())
        except FileNotFoundError:
            raise HttpError(404, "there is no preview: the job has just ended") from None
        return Response(data, media_type="image/jpeg", headers={"X-Video-Id": job.id})

    def _view(self, job: JobRecord) -> schemas.Video:
        settled = (job.result or {}).get("settings")
        return video(job, self.config, {} if settled else self.settle.open_settings(job.version))


async def _over(request: Request) -> bool:
    """Whether nobody listens any more, or the service stops."""
    return getattr(request.app.state, "stopping", False) or await request.is_disconnected()


async def _in_thread(action: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
    """`action`'s result; what jobs and requests refuse becomes an answer."""
    try:
        return await anyio.to_thread.run_sync(action, limiter=limiter)
    except UserError as error:
        raise invalid(error, frozenset({*FIELDS, *FILES})) from None
    except RegistryDownError as error:
        raise HttpError(503, str(error), code="registry_unavailable", retry_after=5) from None
    except JobError as error:
        status = _STATUS.get(type(error), 400)
        raise HttpError(status, str(error), code=error.code, retry_after=error.retry_after) from None
