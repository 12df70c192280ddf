"""What operators and programs read: models, metrics, probes, the OpenAPI document; and POST /v1/evaluate."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from jobs_double import Adapters, JobsDouble
from prometheus_client.parser import text_string_to_metric_families
from test_http_videos import error_of, submit
from test_uploads import ADDRESS

from musubi_ext.registry.model import register_pair
from musubi_ext.registry.store import connect
from musubi_ext.video import write_mp4
from serving.adapters_live import LiveAdapters
from serving.api import create_app
from serving.config import ServiceConfig
from serving.http import schemas
from serving.http.metrics_prometheus import render
from serving.making.fields import NUMBERS


@pytest.fixture
def jobs(tmp_path: Path) -> JobsDouble:
    return JobsDouble(tmp_path)


@pytest.fixture
def client(jobs: JobsDouble) -> Iterator[TestClient]:
    app = create_app(jobs, ServiceConfig.of({}), adapters=Adapters(), recent=lambda: list(jobs.records.values()))
    with TestClient(app, base_url=ADDRESS) as client:
        yield client


def gauges(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Family → label values → value, as Prometheus' own parser reads it."""
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(text)
    }


def test_metrics_say_what_the_queue_and_the_last_jobs_are(client: TestClient, jobs: JobsDouble) -> None:
    made = [submit(client).json()["id"] for _ in range(3)]
    jobs.complete(made[0])
    found = gauges(client.get("/metrics").text)
    assert found["musubi_ext_queue_depth"] == {(): 2}
    assert found["musubi_ext_jobs"] == {("completed",): 1, ("queued",): 2}
    assert found["musubi_ext_stage_seconds"][("high",)] == 0.5
    assert found["musubi_ext_steps_per_second"] == {(): 12 / 0.5}
    assert found["musubi_ext_stage_peak_bytes"] == {("high", "rss"): 1000}
    assert found["musubi_ext_score"] == {("circle-rotate/2", "subject_drift"): 2.5}  # the unavailable one is no number
    assert found["musubi_ext_adapter_version_info"] == {("circle-rotate/2",): 1}
    assert found["musubi_ext_adapter_refused"] == {(): 0}


def test_labels_cannot_break_the_format() -> None:
    stats = {"states": {}, "queued": 0, "queue_limit": 1, "oldest_wait": 0.0, "workers": {}, "mistakes": []}
    text = render(stats, [], {"current": 'a"} 1\nevil 1 \\', "refused": {"version": "x"}})
    found = gauges(text)
    assert found["musubi_ext_adapter_version_info"] == {('a"} 1\nevil 1 \\',): 1}
    assert found["musubi_ext_adapter_refused"] == {(): 1}
    assert "evil" not in found


def test_ready_is_what_the_workers_say(client: TestClient, jobs: JobsDouble) -> None:
    assert client.get("/readyz").status_code == 200
    jobs.ready = False
    assert error_of(client.get("/readyz"))[:2] == (503, "not_ready")
    assert client.get("/livez").status_code == 200


def test_models_are_the_base_and_the_registered_pairs(
    uri: str, make_pair: Callable[..., Any], tiny_config: Callable[..., ServiceConfig], tmp_path: Path
) -> None:
    for seed in (1, 2):
        register_pair(make_pair(seed), "orbit-pair", uri=uri)
    store = connect(uri)
    store.set_registered_model_alias("orbit-pair", "champion", "1")
    store.create_registered_model("someone-elses")
    config = tiny_config(pair="models:/orbit-pair@champion", tracking_uri=uri)
    adapters = LiveAdapters(config)
    adapters.refresh()
    client = TestClient(create_app(JobsDouble(tmp_path), config, adapters=adapters), base_url=ADDRESS)
    listed = client.get("/v1/models").json()["data"]
    shown = [(model["id"], model["kind"], model["version"], model["serving"]) for model in listed]
    assert shown == [
        ("pipeline", "base", None, False),  # the last part of the base's path, no more of it
        ("orbit-pair@champion", "alias", 1, False),
        ("orbit-pair/2", "version", 2, False),
        ("orbit-pair/1", "version", 1, True),
    ]
    assert listed[3]["aliases"] == ["champion"]
    assert str(tmp_path) not in client.get("/v1/models").text


def test_a_registry_that_does_not_answer_is_a_note(
    tiny_config: Callable[..., ServiceConfig], tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://127.0.0.1:{free_port}"
    config = tiny_config(pair="models:/orbit-pair@champion", tracking_uri=uri)
    adapters = LiveAdapters(config)
    adapters.refresh()
    client = TestClient(create_app(JobsDouble(tmp_path), config, adapters=adapters), base_url=ADDRESS)
    listed = client.get("/v1/models").json()["data"]
    assert listed[0]["kind"] == "base"
    assert any("does not answer" in str(model["note"]) for model in listed)
    assert error_of(submit(client))[0] == 503


def test_the_document_is_complete(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operations = {f"{method} {path}": one for path, of in document["paths"].items() for method, one in of.items()}
    assert set(operations) >= {
        "post /v1/videos", "get /v1/videos", "post /v1/videos/sync", "get /v1/videos/{video_id}",
        "delete /v1/videos/{video_id}", "post /v1/videos/{video_id}/cancel", "get /v1/videos/{video_id}/content",
        "get /v1/videos/{video_id}/events", "get /v1/models", "post /v1/evaluate", "get /livez", "get /readyz",
        "get /metrics"}  # fmt: skip
    for name, operation in operations.items():
        assert operation["description"], name
        assert "422" not in operation["responses"], name
    sent = operations["post /v1/videos"]["requestBody"]["content"]
    fields = sent["multipart/form-data"]["schema"]["properties"]
    assert set(fields) >= {
        "prompt", "size", "seconds", "num_frames", "fps", "seed", "num_inference_steps", "guidance_scale",
        "guidance_scale_2", "boundary_ratio", "flow_shift", "negative_prompt", "lora", "first_frame", "last_frame",
        "input_reference", "pair", "strength_high", "strength_low", "best_of", "rank_by"}  # fmt: skip
    assert all("description" in field for field in fields.values())
    assert set(sent) == {"multipart/form-data", "application/json"}
    assert not re.search(r"/(home|root|tmp|srv)/", str(document))


def test_the_documents_example_is_a_request_that_works(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    example = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["multipart/form-data"]["example"]
    assert submit(client, **example).status_code == 200


def test_every_operation_has_its_examples_and_they_hold(client: TestClient) -> None:
    """Every body has one, of its own schema; every number of a field has the range that is checked."""
    document = client.get("/openapi.json").json()
    for path, of in document["paths"].items():
        for method, operation in of.items():
            sent = operation.get("requestBody", {}).get("content", {}).items()
            got = [
                (status, *pair)
                for status, one in operation["responses"].items()
                for pair in one.get("content", {}).items()
            ]
            for kind, content in sent:
                assert "example" in content, (method, path, kind)
            for status, kind, content in got:
                if kind.startswith(("video/", "image/")) or status == "416":
                    continue
                assert "example" in content, (method, path, status)
                if kind == "application/json":
                    getattr(schemas, content["schema"]["$ref"].rpartition("/")[2]).model_validate(content["example"])
            assert {"400", "401", "403", "404", "413", "429", "503"} <= set(operation["responses"]) or path in (
                "/livez",
                "/readyz",
            )
    fields = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["application/json"]["schema"][
        "properties"
    ]
    for name, (kind_, low, high) in NUMBERS.items():
        if name != "seconds":  # OpenAI's is a text
            stated = fields[name]
            assert (stated["minimum"], stated["maximum"]) == (low, high), name
            assert stated["type"] == ("integer" if kind_ is int else "number"), name


def evaluate(client: TestClient, data: bytes, **fields: str) -> Any:
    return client.post("/v1/evaluate", data=fields, files={"video": ("../../x.mp4", data, "video/mp4")})


def test_a_video_in_its_scores_out(client: TestClient, tmp_path: Path) -> None:
    still = np.full((9, 64, 64, 3), 90, np.uint8)
    write_mp4(tmp_path / "still.mp4", still, 8.0)
    data = (tmp_path / "still.mp4").read_bytes()
    answer = evaluate(client, data, metrics="motion_magnitude, temporal_flicker, clip_i_first_last", caption="a wall")
    scores = answer.json()["scores"]
    assert set(scores) == {"motion_magnitude", "temporal_flicker", "clip_i_first_last"}
    assert scores["motion_magnitude"]["value"] == pytest.approx(0, abs=1e-6)
    assert scores["clip_i_first_last"]["value"] is None
    assert scores["clip_i_first_last"]["unavailable"]
    assert error_of(evaluate(client, data, metrics="beauty"))[::2] == (400, "metrics")
    assert error_of(client.post("/v1/evaluate", data={"metrics": "a"}))[::2] == (400, "video")


@pytest.mark.parametrize(
    "data",
    [
        b"not a video",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",  # a playlist that would have others read
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ],
)
def test_what_is_no_video_is_said_without_where_it_lay(client: TestClient, data: bytes) -> None:
    answer = evaluate(client, data, metrics="motion_magnitude")
    assert error_of(answer)[::2] == (400, "video")
    assert not re.search(r"/tmp|evaluate-|passwd|root:", answer.text)


def test_a_video_of_too_many_pixels_is_refused_before_it_is_decoded(jobs: JobsDouble, tmp_path: Path) -> None:
    write_mp4(tmp_path / "large.mp4", np.zeros((9, 64, 64, 3), np.uint8), 8.0)
    app = create_app(jobs, ServiceConfig.of({"limits": {"volume": 9 * 64 * 64 - 1}}), adapters=Adapters())
    answer = evaluate(TestClient(app, base_url=ADDRESS), (tmp_path / "large.mp4").read_bytes())
    assert error_of(answer)[::2] == (400, "video")
    assert "9 frames of 64x64" in answer.json()["error"]["message"]
