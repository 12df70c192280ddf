"""What BentoML counts requests by: routes, never paths."""

from __future__ import annotations

import pytest

pytest.importorskip("bentoml", reason="bentoml is not installed")
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from serving.http.bounded_metrics import OTHER, Endpoints


@pytest.fixture
def endpoints(tmp_path) -> Endpoints:
    app = FastAPI(docs_url=None, redoc_url=None)
    for path in ("/", "/v1/videos", "/v1/videos/sync", "/v1/videos/{video_id}", "/v1/videos/{video_id}/content"):
        app.add_api_route(path, lambda: None)
    app.mount("/ui", StaticFiles(directory=tmp_path))
    return Endpoints(app.routes)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", "/"),
        ("/v1/videos", "/v1/videos"),
        ("/v1/videos/sync", "/v1/videos/sync"),
        ("/v1/videos/video_0123456789abcdef01234567", "/v1/videos/{video_id}"),
        ("/v1/videos/anything", "/v1/videos/{video_id}"),
        ("/v1/videos/a/content", "/v1/videos/{video_id}/content"),
        ("/ui/app.js", "/ui"),
        ("/livez", "/livez"),
        ("/metrics", "/metrics"),
        ("/v1/videos/a/b/c", OTHER),
        ("/.env", OTHER),
    ],
)
def test_a_path_is_counted_as_its_route(endpoints: Endpoints, path: str, name: str) -> None:
    assert endpoints.of(path) == name
