"""The service under BentoML: `bentoml serve serving.service:VideoService`, http://127.0.0.1:3000.

The configuration is the TOML file that MUSUBI_EXT_SERVICE_CONFIG names; without it, the pocket model. The FastAPI app
is mounted at /, beside BentoML's own /livez, /readyz, /metrics and /stats; its middleware stands around all of them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import FrameType
from typing import Any

import bentoml

from musubi_ext.errors import UserError
from serving.adapters_live import LiveAdapters, RegistryDownError
from serving.api import create_app, middleware
from serving.config import ServiceConfig
from serving.http.bounded_metrics import count_by_route
from serving.http.metrics_prometheus import recent_jobs, render, watched
from serving.jobs import Jobs
from serving.versions.online import Online

CONFIG = "MUSUBI_EXT_SERVICE_CONFIG"
LONGEST = 86_400.0  # seconds BentoML lets an answer begin in; our own limits are below it


class _Started:
    """Stands for the jobs until the service has started them: the app is made at import, also by `bentoml build`."""

    real: Jobs | None = None
    online: Online | None = None

    @property
    def jobs(self) -> Jobs:
        if self.real is None:
            raise RuntimeError("the service has not started")
        return self.real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.jobs, name)


def _config() -> ServiceConfig:
    try:
        return ServiceConfig.load(os.environ.get(CONFIG) or None)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)


config = _config()
adapters = LiveAdapters(config)
started = _Started()
app = create_app(
    started,
    config,
    adapters=adapters,
    recent=lambda: recent_jobs(started.jobs),
    online=lambda: started.online,
    hook=adapters.notify if config.adapters.webhook_secret_env else None,
    guard=False,
)


@bentoml.service(
    name="musubi-ext-video",
    workers=1,  # of HTTP; the GPUs' workers are processes of serving.queue.supervisor
    http={"host": config.bind.host, "port": config.bind.port},
    traffic={"timeout": LONGEST},
    logging={"access": {"request_content_type": False}},  # it would decode it, and lose the answer where it is no text
)
class VideoService:
    """Starts the jobs, and ends them in order."""

    def __init__(self) -> None:
        with ThreadPoolExecutor(1) as aside:  # BentoML's event loop runs here, and starting waits for the database
            started.real = aside.submit(_start).result()
        _end_with_parent()
        _tell_streams()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Let a running job end within the grace period, put the others back into the queue."""
        if started.online is not None:
            started.online.close()
        if started.real is not None:
            started.real.close()
        adapters.close()

    def __is_ready__(self) -> bool:
        return bool(started.ready)

    def __metrics__(self, own: str) -> str:
        return own + render(started.stats(), recent_jobs(started.jobs), adapters.state(), watched(started.online))

    @bentoml.api  # type: ignore[untyped-decorator]
    def stats(self) -> dict[str, Any]:
        """The queue, the workers, the adapters and what is learned of their videos now."""
        return {**started.stats(), "adapters": adapters.state(), "online": watched(started.online)}


_service: Any = VideoService  # the decorator has made it a bentoml.Service
for layer in middleware(started, config):
    _service.add_asgi_middleware(layer.cls, **layer.kwargs)
_service.mount_asgi_app(app, path="/")
count_by_route(app.routes)


def _start() -> Jobs:
    """The jobs, running; what the first request would have to load is loaded before it comes."""
    jobs = Jobs(config)
    jobs.prepare()
    adapters.start()
    with suppress(UserError, RegistryDownError):  # `adapters.state` says why nothing is live
        adapters.defaults(adapters.current())
    jobs.start()
    started.online = Online(jobs, config, adapters)
    started.online.start()
    return jobs


def _end_with_parent() -> None:
    """BentoML's HTTP worker outlives a parent that is killed, and keeps the port: end when the parent has changed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _tell_streams() -> None:
    """On SIGTERM uvicorn waits for open connections: streams of events end at once, and clients ask again."""
    before = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        app.state.stopping = True
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, stop)
