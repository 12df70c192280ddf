"""The public OpenAI client's `videos` calls against our server, as its documentation has them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs_double import Adapters, JobsDouble, KeysDouble, served, worked
from test_uploads import png

from musubi_ext.video import read_video
from serving.api import create_app
from serving.config import ServiceConfig
from serving.keys import SCOPES, Key

openai = pytest.importorskip("openai", reason="the OpenAI client is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")  # theirs, not ours


@pytest.fixture
def jobs(tmp_path: Path) -> JobsDouble:
    return JobsDouble(tmp_path, keys=KeysDouble(sesame=Key("1", "team-a", SCOPES)))


@pytest.fixture
def client(jobs: JobsDouble, free_port: int) -> Iterator[Any]:
    """Against a server that asks for keys: the client sends its api_key."""
    app = create_app(jobs, ServiceConfig.of({"keys": {"required": True}}), adapters=Adapters())
    with served(app, free_port) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="sesame") as client:
        yield client


def create(client: Any, **options: Any) -> Any:
    picture = ("first.png", png(), "image/png")
    return client.videos.create(prompt="camera circles", input_reference=picture, model="pocket-i2v", **options)


def test_a_whole_job(client: Any, jobs: JobsDouble, tmp_path: Path) -> None:
    made = create(client, seconds="2", size="64x64", extra_body={"num_inference_steps": 6, "seed": 3, "fps": 8})
    assert (made.object, made.status, made.size, made.seconds) == ("video", "queued", "64x64", "2.125")
    assert jobs.records[made.id].request["num_inference_steps"] == 6
    with worked(jobs):
        done = made
        while done.status in ("queued", "in_progress"):
            done = client.videos.retrieve(made.id)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    client.videos.download_content(made.id).write_to_file(tmp_path / "o.mp4")
    assert read_video(tmp_path / "o.mp4")[0].shape == (17, 64, 64, 3)
    for variant in ("thumbnail", "spritesheet"):
        assert client.videos.download_content(made.id, variant=variant).content.startswith(b"\x89PNG")
    assert client.videos.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(made.id)


def test_create_and_poll(client: Any, jobs: JobsDouble) -> None:
    with worked(jobs), warnings.catch_warnings():
        picture = ("first.png", png(), "image/png")
        done = client.videos.create_and_poll(prompt="a", input_reference=picture, poll_interval_ms=100)
    assert done.status == "completed"


def test_pages_are_walked(client: Any) -> None:
    made = {create(client).id for _ in range(5)}
    assert {video.id for video in client.videos.list(limit=2)} == made


def test_its_errors_are_ours(client: Any, jobs: JobsDouble) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, size="60x64", extra_body={"num_frames": 16})
    assert (refused.value.code, refused.value.param) == ("invalid_request", "size")
    assert "the nearest that does is 64x64" in str(refused.value)
    with pytest.raises(openai.BadRequestError, match="unknown field"):
        create(client, extra_body={"image_url": "http://169.254.169.254/"})
    made = create(client)
    jobs.fail(made.id, "no memory was left")
    failed = client.videos.retrieve(made.id)
    assert (failed.status, failed.error.code, failed.error.message) == ("failed", "internal", "no memory was left")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").videos.retrieve(made.id)


def test_models_are_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["pocket-i2v"]
