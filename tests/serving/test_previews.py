"""Pictures on the way: drawn in time, served while the job runs, gone afterwards, and without a trace in the video."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from jobs_double import Adapters, JobsDouble
from PIL import Image
from test_http_videos import error_of, submit
from test_uploads import ADDRESS

from musubi_ext.storage import sha256
from serving.adapters_live import BASE
from serving.api import create_app
from serving.config import Previews, ServiceConfig
from serving.engine import Engine, JobCancelledError
from serving.making.previews import Previewer
from serving.making.request import JobRequest
from serving.making.stages import StageStore
from serving.making.work import Progress

ALWAYS = {"every": 1, "share": 1.0}
LEVERS = [{}, {"step_cache": "first_block", "first_block_threshold": [0.5, 0.5]}, {"vae_tile": 16}]


@pytest.mark.parametrize("levers", LEVERS, ids=["plain", "cached", "tiled"])
def test_a_video_with_previews_is_the_video_without(
    tiny_config: Callable[..., ServiceConfig], make_job: Callable[..., JobRequest], tmp_path: Path, levers: Any
) -> None:
    made: dict[str, Any] = {}
    seen: list[Progress] = []
    pictures: dict[str, tuple[int, int]] = {}

    def on_step(progress: Progress) -> None:
        seen.append(progress)
        for path in (tmp_path / "with").glob("preview-*.jpg"):
            with Image.open(path) as picture:
                pictures[path.name] = picture.size

    for name, settings in (("with", ALWAYS), ("without", {"every": 0})):
        engine = Engine(tiny_config(previews=settings, levers=levers))
        job = make_job(num_inference_steps=6, guidance_scale=2.0, best_of=2, rank_by="flicker", seed=3, num_frames=9)
        store = StageStore(tmp_path / name)
        calls: dict[str, Any] = {"on_step": on_step, "cancelled": lambda: False, "stage_store": store}
        made[name] = engine.run(job, version=BASE, **calls)
        if name == "with":
            told = [progress.preview for progress in seen if progress.preview]
    assert sha256(made["with"].video) == sha256(made["without"].video)
    assert list(dict.fromkeys(told)) == [f"preview-{step}.jpg" for step in range(1, 13)]
    assert set(pictures) == set(told)
    assert set(pictures.values()) == {(32, 32)}
    assert sorted(path.name for path in (tmp_path / "with").iterdir()) == ["finished.json", "video.mp4"]
    assert made["with"].preview_seconds > 0 == made["without"].preview_seconds
    assert {record.stage for record in made["with"].stages} == {record.stage for record in made["without"].stages}


def test_a_picture_takes_no_more_than_its_share(tiny_engine: Engine, tmp_path: Path) -> None:
    drawn: list[str] = []
    previews = Previewer(tiny_engine.pipeline, tmp_path, Previews(every=2, share=0.05, side=16))
    for step in range(1, 200):
        before = previews.latest
        previews.look(step, torch.zeros(1, 16, 3, 4, 4))
        time.sleep(0.0005)
        if previews.latest != before:
            drawn.append(previews.latest)
    assert drawn[0] == "preview-2.jpg"
    assert 1 <= len(drawn) < 50
    with Image.open(tmp_path / drawn[-1]) as picture:
        assert picture.size == (16, 16)
    assert len(list(tmp_path.glob("preview-*"))) <= 2  # whoever reads the one before may finish


def test_trouble_with_a_picture_costs_no_job(
    tiny_engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder, latents in (
        (tmp_path / "nowhere", torch.zeros(1, 16, 2, 4, 4)),
        (tmp_path, torch.full((1, 16, 2, 4, 4), torch.nan)),
    ):
        previews = Previewer(tiny_engine.pipeline, folder, Previews(**ALWAYS))
        with caplog.at_level(logging.WARNING):
            previews.look(1, latents)
            previews.look(2, latents)
        assert previews.latest == ""
    assert caplog.text.count("no more previews") == 2


def test_a_job_that_goes_on_elsewhere_keeps_its_picture_and_leaves_none_at_its_end(
    tiny_config: Callable[..., ServiceConfig], make_job: Callable[..., JobRequest], tmp_path: Path
) -> None:
    engine, job = Engine(tiny_config(previews=ALWAYS)), make_job(num_inference_steps=6)
    seen: list[Progress] = []
    stop: dict[str, Any] = {"on_step": seen.append, "cancelled": lambda: seen[-1].step == 4}
    with pytest.raises(JobCancelledError):
        engine.run(job, version=BASE, stage_store=StageStore(tmp_path), **stop)
    assert {path.name for path in tmp_path.glob("*.jpg")} == {"preview-3.jpg", "preview-4.jpg"}
    again: dict[str, Any] = {"on_step": lambda _: None, "cancelled": lambda: False}
    engine.run(job, version=BASE, stage_store=StageStore(tmp_path), **again)
    assert not list(tmp_path.glob("*.jpg"))


def test_a_preview_is_served_while_the_job_runs(tmp_path: Path) -> None:
    jobs = JobsDouble(tmp_path)
    client = TestClient(create_app(jobs, ServiceConfig.of({}), adapters=Adapters()), base_url=ADDRESS)
    made = submit(client).json()["id"]
    address = f"/v1/videos/{made}/content?variant=preview"
    assert error_of(client.get(address))[0] == 404
    jobs.start(made, 4)
    answer = client.get(address)
    assert error_of(answer)[0] == 404
    assert "none was drawn so far" in answer.json()["error"]["message"]
    Image.new("RGB", (8, 8), "red").save(tmp_path / "preview-4.jpg")
    jobs.change(made, files={"preview": "preview-4.jpg"})
    shown = client.get(f"/v1/videos/{made}").json()
    assert (shown["preview_step"], shown["variants"]) == (4, ["preview"])
    answer = client.get(address)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.content == (tmp_path / "preview-4.jpg").read_bytes()
    (tmp_path / "preview-4.jpg").unlink()
    assert error_of(client.get(address))[0] == 404
    jobs.complete(made)
    shown = client.get(f"/v1/videos/{made}").json()
    assert shown["preview_step"] is None
    assert "preview" not in shown["variants"]
    assert "has ended" in client.get(address).json()["error"]["message"]
