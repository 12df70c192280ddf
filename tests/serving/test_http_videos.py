"""/v1/videos by its shape: the convention's objects, pages, ranges, events, errors; and nobody sees another's jobs."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient
from jobs_double import Adapters, JobsDouble, KeysDouble, served, worked
from test_uploads import ADDRESS, png

from musubi_ext.video import read_video
from serving.api import create_app
from serving.config import ServiceConfig
from serving.keys import SCOPES, Key

ID = "video_" + "0" * 24


@pytest.fixture
def jobs(tmp_path: Path) -> JobsDouble:
    return JobsDouble(tmp_path)


def app_of(jobs: JobsDouble, **values: Any) -> Any:
    return create_app(jobs, ServiceConfig.of(values), adapters=Adapters())


@pytest.fixture
def client(jobs: JobsDouble) -> Iterator[TestClient]:
    with TestClient(app_of(jobs), base_url=ADDRESS) as client:
        yield client


def submit(client: Any, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    files = {"first_frame": ("a.png", png(), "image/png")}
    return client.post("/v1/videos", data={"prompt": "a car", **fields}, files=files, headers=headers)


def submit_to(address: str) -> str:
    with httpx.Client(base_url=address, timeout=10) as client:
        return str(submit(client).json()["id"])


def error_of(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "param"}
    return answer.status_code, error["code"], error["param"]


def test_a_job_from_queued_to_its_files(client: TestClient, jobs: JobsDouble, tmp_path: Path) -> None:
    made = submit(client, seed=5, seconds="2", fps="8", strength_high="0.5").json()
    assert {
        "object": "video",
        "status": "queued",
        "progress": 0,
        "size": "64x64",
        "seconds": "2.125",
    }.items() <= made.items()
    assert made["model"] == "pocket-i2v+circle-rotate/2"
    assert client.get(f"/v1/videos/{made['id']}/content").status_code == 409
    jobs.start(made["id"], 6)
    assert client.get(f"/v1/videos/{made['id']}").json()["progress"] == 50
    jobs.complete(made["id"])
    done = client.get(f"/v1/videos/{made['id']}").json()
    assert (done["status"], done["progress"], done["scores"]["subject_drift"]) == (
        "completed", 100, {"value": 2.5, "unit": "px", "unavailable": None})  # fmt: skip
    content = client.get(f"/v1/videos/{made['id']}/content")
    assert content.headers["content-type"] == "video/mp4"
    (tmp_path / "o.mp4").write_bytes(content.content)
    assert read_video(tmp_path / "o.mp4")[0].shape == (17, 64, 64, 3)
    for variant in ("thumbnail", "filmstrip", "spritesheet"):
        assert client.get(f"/v1/videos/{made['id']}/content?variant={variant}").content.startswith(b"\x89PNG")


def test_ranges_are_honoured_and_many_of_them_cost_nothing(client: TestClient, jobs: JobsDouble) -> None:
    """CVE-2025-62727: a header of thousands of ranges."""
    made = submit(client).json()["id"]
    jobs.complete(made)
    url = f"/v1/videos/{made}/content"
    whole = client.get(url).content
    part = client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert client.get(url, headers={"Range": f"bytes={len(whole) + 5}-"}).status_code == 416
    started = time.monotonic()
    many = "bytes=" + ",".join(f"{n}-" for n in range(7_000))
    assert client.get(url, headers={"Range": many}).status_code in (200, 206, 400, 416)
    assert time.monotonic() - started < 2


def test_cancelled_is_failed_in_the_conventions_words(client: TestClient) -> None:
    made = submit(client).json()["id"]
    cancelled = client.post(f"/v1/videos/{made}/cancel").json()
    assert (cancelled["status"], cancelled["error"]["code"]) == ("failed", "cancelled")
    assert client.post(f"/v1/videos/{made}/cancel").json()["status"] == "failed"  # twice is no mistake
    assert client.delete(f"/v1/videos/{made}").json() == {"id": made, "deleted": True, "object": "video.deleted"}
    assert error_of(client.get(f"/v1/videos/{made}"))[:2] == (404, "not_found")
    assert error_of(client.delete(f"/v1/videos/{made}"))[:2] == (404, "not_found")


def test_pages_follow_after(client: TestClient) -> None:
    made = [submit(client).json()["id"] for _ in range(5)]
    first = client.get("/v1/videos?limit=2").json()
    assert ([job["id"] for job in first["data"]], first["has_more"]) == (made[:2:-1], True)
    rest = client.get(f"/v1/videos?limit=3&after={first['last_id']}").json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (made[2::-1], False)
    assert client.get("/v1/videos?order=asc&limit=1").json()["data"][0]["id"] == made[0]
    for query in ("limit=0", "limit=101", "limit=x", "order=up", "after=../../etc/passwd"):
        assert error_of(client.get(f"/v1/videos?{query}"))[::2] == (400, query.partition("=")[0])
    assert client.get(f"/v1/videos?after=video_{'f' * 24}").status_code == 404


def test_every_mistake_is_said_at_once(client: TestClient) -> None:
    answer = submit(client, size="60x64", num_frames="16", flow_shift="x", guidance_scale="99")
    message = answer.json()["error"]["message"]
    assert answer.status_code == 400
    assert all(name in message for name in ("flow_shift", "guidance_scale"))
    settled = submit(client, size="60x64", num_frames="16").json()["error"]["message"]
    assert all(text in settled for text in ("64x64", "17"))
    assert error_of(submit(client, model="sora-2"))[:] == (400, "model_not_found", "model")
    assert error_of(submit(client, pair="unknown/7"))[::2] == (400, "pair")
    assert "/srv" not in submit(client, pair="unknown/7").text


@pytest.mark.parametrize("value", ["1.5", "x", "١", "10000"])
def test_priority_is_a_small_whole_number(client: TestClient, value: str) -> None:
    assert error_of(submit(client, priority=value))[::2] == (400, "priority")


def test_a_version_is_named_by_the_job_and_kept(client: TestClient) -> None:
    assert submit(client, pair="circle-rotate/1").json()["version"]["version"] == 1
    assert submit(client, pair="circle-rotate@champion").json()["model"].endswith("+circle-rotate/2")
    assert submit(client, lora=json.dumps({"name": "circle-rotate/1", "scale": 0.5})).json()["version"]["version"] == 1
    assert submit(client, pair="none").json()["model"] == "pocket-i2v"


def test_the_same_idempotency_key_is_the_same_job(client: TestClient, jobs: JobsDouble) -> None:
    key = {"Idempotency-Key": "once"}
    ids = {submit(client, key, seed=1).json()["id"] for _ in range(3)}
    assert len(ids) == len(jobs.records) == 1
    assert error_of(submit(client, key, seed=2))[:2] == (409, "conflict")


def test_a_full_queue_is_503_with_retry_after(tmp_path: Path) -> None:
    client = TestClient(app_of(JobsDouble(tmp_path, most=1)), base_url=ADDRESS)
    submit(client)
    answer = submit(client)
    assert error_of(answer)[:2] == (503, "queue_full")
    assert int(answer.headers["Retry-After"]) > 0


def test_what_went_wrong_inside_stays_inside(
    client: TestClient, jobs: JobsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2026-22778: no addresses, paths or traces in a body."""
    made = submit(client).json()["id"]
    jobs.fail(made, "OSError in /home/user/serving/engine.py at 0x7f30aa0c12: C:\\models\\a.safetensors")
    shown = client.get(f"/v1/videos/{made}").text
    assert not any(text in shown for text in ("/home", "0x7f30", "C:\\", ".py"))

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret 0x7f30aa0c12 /srv/key.pem")

    monkeypatch.setattr(jobs, "get", broken)
    quiet = TestClient(client.app, base_url=ADDRESS, raise_server_exceptions=False)
    answer = quiet.get(f"/v1/videos/{made}")
    assert answer.status_code == 500
    assert error_of(answer)[:2] == (500, "internal_error")
    assert not any(text in answer.text for text in ("secret", "0x7f", "key.pem", "ZeroDivision"))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/videos/..%2f..%2fetc%2fpasswd",
        "/v1/videos/video_x/content",
        "/ui/..%2fapi.py",
        "/ui/%2e%2e/api.py",
        "/v1/nothing",
    ],
)
def test_names_never_become_paths(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert "root:" not in answer.text
    assert "create_app" not in answer.text


def test_events_tell_every_move_until_the_end(jobs: JobsDouble, free_port: int) -> None:
    with served(app_of(jobs), free_port) as address, worked(jobs):
        made = submit_to(address)
        with httpx.stream("GET", f"{address}/v1/videos/{made}/events", timeout=20) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = list(answer.iter_lines())
    states = [line.removeprefix("event: ") for line in lines if line.startswith("event:")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data:")]
    assert states[-1] == "completed"
    assert set(states) <= {"queued", "in_progress", "completed"}
    assert [job["progress"] for job in data] == sorted(job["progress"] for job in data)


def test_events_of_a_deleted_job_end_with_an_error(jobs: JobsDouble, free_port: int) -> None:
    with served(app_of(jobs), free_port) as address:
        made = submit_to(address)
        threading.Timer(0.3, jobs.delete, [made]).start()
        text = httpx.get(f"{address}/v1/videos/{made}/events", timeout=20).text
    assert text.split("\n\n")[-2].startswith("event: error\n")


def test_sync_answers_with_the_video_and_refuses_large_ones(jobs: JobsDouble, free_port: int) -> None:
    files = {"first_frame": ("a.png", png())}
    with served(app_of(jobs, limits={"sync_volume": 70_000}), free_port) as address, worked(jobs):
        sync = f"{address}/v1/videos/sync"
        answer = httpx.post(sync, data={"prompt": "a"}, files=files, timeout=20)
        assert answer.headers["content-type"] == "video/mp4"
        assert answer.headers["x-video-id"] in jobs.records
        large = httpx.post(sync, data={"prompt": "a", "num_frames": "21"}, files=files)
        assert error_of(large)[0] == 413


def test_sync_that_nobody_waits_for_is_cancelled(jobs: JobsDouble, free_port: int) -> None:
    with served(app_of(jobs), free_port) as address:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/videos/sync", data={"prompt": "a"}, files={"first_frame": png()}, timeout=0.5)
        deadline = time.monotonic() + 10
        while not all(job.finished for job in jobs.records.values()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert [job.state for job in jobs.records.values()] == ["cancelled"]


def test_sync_that_takes_too_long_is_504_and_cancelled(jobs: JobsDouble) -> None:
    client = TestClient(app_of(jobs, limits={"sync_seconds": 0.2}), base_url=ADDRESS)
    answer = client.post("/v1/videos/sync", data={"prompt": "a"}, files={"first_frame": png()})
    assert error_of(answer)[:2] == (504, "timeout")
    assert [job.state for job in jobs.records.values()] == ["cancelled"]


@pytest.fixture
def keyed(tmp_path: Path) -> tuple[TestClient, JobsDouble]:
    keys = KeysDouble(
        a=Key("1", "team-a", SCOPES), b=Key("2", "team-b", SCOPES), r=Key("3", "team-a", ("videos:read",))
    )
    jobs = JobsDouble(tmp_path, keys=keys)
    return TestClient(app_of(jobs, keys={"required": True}), base_url="http://video.example"), jobs


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_without_a_key_only_the_page_and_the_probes_answer(keyed: tuple[TestClient, JobsDouble]) -> None:
    client, _ = keyed
    for path in ("/", "/ui/app.js", "/livez", "/readyz", "/openapi.json"):
        assert client.get(path).status_code == 200
    for path in ("/v1/videos", f"/v1/videos/{ID}", "/v1/models", "/metrics", f"/v1/videos/{ID}/events"):
        answer = client.get(path)
        assert error_of(answer)[:2] == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.get(path, headers=bearer("wrong")).status_code == 401
    assert submit(client).status_code == 401


def test_one_key_cannot_see_or_touch_anothers_jobs(keyed: tuple[TestClient, JobsDouble]) -> None:
    client, jobs = keyed
    made = submit(client, bearer("a")).json()["id"]
    jobs.complete(made)
    other = bearer("b")
    assert client.get("/v1/videos", headers=other).json()["data"] == []
    never = client.get(f"/v1/videos/{ID[:-1]}f", headers=other).json()
    for method, path in (("GET", ""), ("GET", "/content"), ("GET", "/events"), ("POST", "/cancel"), ("DELETE", "")):
        answer = client.request(method, f"/v1/videos/{made}{path}", headers=other)
        assert (answer.status_code, answer.json()) == (404, never)  # the same answer as for a job that never was
    assert client.get(f"/v1/videos/{made}", headers=bearer("a")).json()["status"] == "completed"


def test_a_key_does_only_what_its_scopes_say(keyed: tuple[TestClient, JobsDouble]) -> None:
    client, _ = keyed
    assert client.get("/v1/videos", headers=bearer("r")).status_code == 200
    assert error_of(submit(client, bearer("r")))[:2] == (403, "forbidden")
    assert client.get("/metrics", headers=bearer("r")).status_code == 403
    assert client.get("/v1/models", headers=bearer("r")).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # DNS rebinding: a name that turned into 127.0.0.1
        {"Host": "127.0.0.1.evil.example:3000"},
        {"Origin": "https://evil.example"},  # another site's form
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of localhost
    ],
)
def test_without_keys_no_other_site_reaches_the_service(
    client: TestClient, jobs: JobsDouble, headers: dict[str, str]
) -> None:
    assert submit(client, headers).status_code == 403
    assert client.get("/", headers=headers).status_code == 403
    assert client.get("/livez", headers=headers).status_code == 200
    assert jobs.records == {}


def test_the_services_own_page_is_no_other_site(client: TestClient) -> None:
    assert submit(client, {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert client.get("/v1/videos", headers={"Host": "[::1]:3000"}).status_code == 200


def test_a_connection_from_beyond_loopback_needs_a_key_whatever_was_configured(jobs: JobsDouble) -> None:
    """`bentoml serve --host 0.0.0.0` with a configuration for loopback opens nothing, and Host: localhost neither."""
    outside = TestClient(app_of(jobs), base_url="http://192.0.2.7:3000")
    assert submit(outside).status_code == 401
    assert submit(outside, {"Host": "localhost"}).status_code == 401


def test_an_open_connection_without_a_request_does_not_stop_others(jobs: JobsDouble, free_port: int) -> None:
    with served(app_of(jobs), free_port) as address:
        head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        idle = [socket.create_connection(("127.0.0.1", free_port)) for _ in range(50)]
        for one in idle:
            one.sendall(head + b"Content-Length: 1000\r\n\r\n--x")
        assert httpx.get(f"{address}/livez", timeout=5).status_code == 200
        assert submit_to(address) in jobs.records
        for one in idle:
            one.close()
