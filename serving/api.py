"""The HTTP interface as a FastAPI app: the /v1/videos convention, with our own fields beside it, and the page.

    app = create_app(jobs, config, adapters=adapters)        # uvicorn serves it; serving.service mounts it in BentoML

Nothing here waits for a video on a thread, and nothing that a client sends becomes a path, an address or a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse
from starlette.staticfiles import StaticFiles

from musubi_ext import __version__
from serving.config import ServiceConfig
from serving.http import schemas
from serving.http.access import Access, allowed
from serving.http.body_limit import BodyLimit
from serving.http.catalog import Catalog, Watches
from serving.http.evaluate_upload import Evaluator
from serving.http.hook_route import Notify, add_hook
from serving.http.http_errors import HttpError, install
from serving.http.metrics_prometheus import CONTENT_TYPE, render, watched
from serving.http.openapi import ERRORS, document
from serving.http.settle import Resolves, Settle
from serving.http.uploads import read_sent
from serving.http.video_routes import JobsPort, VideoRoutes
from serving.http.view import score
from serving.queue.store import JobRecord

UI = Path(__file__).with_name("ui")


def create_app(
    jobs: JobsPort,
    config: ServiceConfig,
    *,
    adapters: Resolves,
    recent: Callable[[], Sequence[JobRecord]] = tuple,
    online: Callable[[], Watches | None] = lambda: None,
    hook: Notify | None = None,
    guard: bool = True,
) -> FastAPI:
    """The app on `jobs`, which is started and closed by whoever made it; so is `adapters`.

    `recent`: the completed jobs that /metrics speaks of. `online`: who watches them. `hook`: takes what MLflow's
    webhook sends. `guard` False leaves out the middleware, for a host that adds `middleware(jobs, config)` around more
    than this app.
    """
    app = FastAPI(
        title="musubi-ext",
        version=__version__,
        description="Image-to-video jobs on Wan2.2 with adapter pairs; field names as vLLM-Omni and SGLang use them.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        middleware=middleware(jobs, config) if guard else [],
    )
    install(app)
    VideoRoutes(jobs, config, Settle(config, adapters)).add_to(app)
    _add_models(app, Catalog(config, adapters, online))
    _add_evaluation(app, config)
    _add_operations(app, jobs, lambda: render(jobs.stats(), recent(), adapters.state(), watched(online())))
    add_hook(app, hook)
    _add_page(app)
    app.openapi = lambda: document(app, config)  # type: ignore[method-assign]
    return app


def middleware(jobs: JobsPort, config: ServiceConfig) -> list[Middleware]:
    """Who may ask, then how much may be sent."""
    return [
        Middleware(Access, jobs=jobs, required=config.keys_required),
        Middleware(BodyLimit, max_bytes=config.limits.body_bytes),
    ]


def _add_models(app: FastAPI, catalog: Catalog) -> None:
    @app.get("/v1/models", tags=["models"], responses=ERRORS)
    async def list_models(request: Request) -> schemas.ModelList:
        """The base, registered pairs by version and alias, and which of them serves."""
        allowed(request, "models:read")
        return schemas.ModelList(data=await run_in_threadpool(catalog.models))


def _add_evaluation(app: FastAPI, config: ServiceConfig) -> None:
    evaluator = Evaluator(config.evaluation, config.limits)

    @app.post(
        "/v1/evaluate", tags=["evaluation"], responses=ERRORS, openapi_extra={"requestBody": schemas.evaluate_body()}
    )
    async def evaluate_video(request: Request) -> schemas.Scores:
        """A video in, its scores out: those that every video made here gets, or the `metrics` named."""
        key = allowed(request, "evaluate")
        sent = await read_sent(request, ("metrics", "caption"), {"video": config.limits.body_bytes})
        if "video" not in sent.files:
            raise HttpError(400, "video: is missing (the file to measure)", param="video")
        texts = {name: sent.fields.get(name, "") for name in ("metrics", "caption")}
        for name, text in texts.items():
            if not isinstance(text, str) or len(text) > config.limits.prompt:
                message = f"{name}: expected text of at most {config.limits.prompt:,} characters"
                raise HttpError(400, message, param=name)
        names = [name.strip() for name in texts["metrics"].split(",") if name.strip()]
        found = await evaluator.scores(sent.files["video"], names, texts["caption"], key.owner)
        return schemas.Scores(scores={name: score(one) for name, one in found.items()})


def _add_operations(app: FastAPI, jobs: JobsPort, rendered: Callable[[], str]) -> None:
    @app.get("/livez", tags=["operations"])
    async def livez() -> schemas.State:
        """Whether this process answers."""
        return schemas.State(status="ok")

    @app.get("/readyz", tags=["operations"], responses={503: ERRORS[503]})
    async def readyz() -> schemas.State:
        """Whether a job accepted now would be made: some worker's engine is loaded."""
        if not await run_in_threadpool(lambda: jobs.ready):
            raise HttpError(503, "no worker is ready yet", code="not_ready", retry_after=2)
        return schemas.State(status="ok")

    @app.get("/metrics", tags=["operations"], response_class=PlainTextResponse, responses=ERRORS)
    async def metrics(request: Request) -> PlainTextResponse:
        """Prometheus' text format."""
        allowed(request, "metrics:read")
        return PlainTextResponse(await run_in_threadpool(rendered), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    app.mount("/ui", StaticFiles(directory=UI), name="ui")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(UI / "index.html")
