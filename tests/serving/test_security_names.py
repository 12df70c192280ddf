"""Names, headers and addresses that a client chooses: none becomes a path, a header or a place to look."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient
from jobs_double import Adapters, JobsDouble, served
from test_adapters_live import NAME, damage
from test_http_videos import submit
from test_uploads import ADDRESS, png

from musubi_ext.registry.model import register_pair
from musubi_ext.registry.store import connect
from serving.adapters_live import LiveAdapters
from serving.api import create_app
from serving.config import ServiceConfig


@pytest.fixture
def jobs(tmp_path: Path) -> JobsDouble:
    return JobsDouble(tmp_path)


@pytest.fixture
def client(jobs: JobsDouble) -> TestClient:
    return TestClient(create_app(jobs, ServiceConfig.of({}), adapters=Adapters()), base_url=ADDRESS)


@pytest.mark.parametrize(
    "name", ["../../x/1", "..%2fx/1", "a/../b/1", "/etc/passwd", "x@../../y", "x\n/1", "a'or'1'='1/1"]
)
def test_registered_names_never_become_paths(client: TestClient, jobs: JobsDouble, name: str) -> None:
    """CVE-2026-4137, CVE-2026-0545, CVE-2026-2614: names and ids of a registry that became paths."""
    for field, value in (
        ("pair", name),
        ("pair", f"models:/{name}"),
        ("lora", name),
        ("lora", json.dumps({"name": name})),
    ):
        answer = submit(client, **{field: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "pair"), answer.text
    assert jobs.records == {}


def test_a_file_that_was_changed_is_refused_and_what_served_stays(
    uri: str, make_pair: Callable[..., Any], tiny_config: Callable[..., ServiceConfig], tmp_path: Path
) -> None:
    """CVE-2026-2651: weights that were not what had been registered. The request fails; nothing else changes."""
    config = tiny_config(pair=f"models:/{NAME}@champion", tracking_uri=uri)
    store, live = connect(uri), LiveAdapters(config)
    for seed in (1, 2):
        register_pair(make_pair(seed, f"orbit{seed}"), NAME, uri=uri)
        store.set_registered_model_alias(NAME, "champion", str(seed))
        if seed == 2:
            damage(tmp_path, "orbit2_h.safetensors")
        live.refresh()
    client = TestClient(create_app(JobsDouble(tmp_path), config, adapters=live), base_url=ADDRESS)
    refused = submit(client, pair=f"{NAME}/2")
    assert refused.status_code == 400
    assert "orbit2_h.safetensors" in refused.text
    assert str(tmp_path) not in refused.text
    assert submit(client).json()["version"]["version"] == 1
    shown = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert shown[f"{NAME}/1"]["serving"]
    assert shown[f"{NAME}/2"]["note"].startswith("not taken, another serves")
    assert str(tmp_path) not in client.get("/v1/models").text
    unknown = submit(client, pair="nobody/7")
    assert unknown.status_code == 400
    assert str(tmp_path) not in unknown.text


def test_many_ranges_cost_no_more_than_the_file(client: TestClient, jobs: JobsDouble) -> None:
    """CVE-2025-62727: a Range header that took quadratic time."""
    made = submit(client).json()["id"]
    jobs.complete(made)
    path = jobs.folder / jobs.records[made].files["video"]
    with path.open("ab") as file:
        file.truncate(2_000_000)
    url, slowest = f"/v1/videos/{made}/content", 0.0
    for ranges in (
        ",".join(f"{n}-" for n in range(10_000)),
        ",".join("0-1999999" for _ in range(5_000)),
        ",".join(f"{n}-{n}" for n in range(0, 20_000, 2)),
        ",".join(f"-{n}" for n in range(1, 10_000)),
        "-" * 60_000,
        "0-," * 20_000,
    ):
        started = time.monotonic()
        answer = client.get(url, headers={"Range": f"bytes={ranges}"})
        slowest = max(slowest, time.monotonic() - started)
        assert answer.status_code in (200, 206, 400, 416)
        assert len(answer.content) < 4_000_000
    assert slowest < 2


def test_a_prompt_or_a_name_never_becomes_a_header(client: TestClient, jobs: JobsDouble) -> None:
    """CWE-113: line ends in what a client sends, in what it gets back."""
    evil = 'x\r\nSet-Cookie: a=b\r\n\r\n<script>"; filename="evil.html'
    files = {"first_frame": (evil, png(), "image/png")}
    made = client.post("/v1/videos", data={"prompt": evil}, files=files)
    assert made.json()["prompt"] == evil
    jobs.complete(made.json()["id"])
    video = f"/v1/videos/{made.json()['id']}"
    for answer in (
        made,
        client.get(video),
        client.get(f"{video}/content"),
        client.get(f"{video}/content?variant=thumbnail"),
    ):
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert not any("evil" in value for value in answer.headers.values())
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.get("/v1/videos", headers={"Origin": "https://evil.example"}).status_code == 403
    assert "access-control-allow-origin" not in client.get(video).headers


def test_a_proxy_on_this_machine_is_not_this_machine(client: TestClient, jobs: JobsDouble) -> None:
    """CWE-290: behind a proxy on loopback, every stranger comes from loopback; what it adds says so."""
    assert submit(client).status_code == 200
    for name in ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP"):
        assert submit(client, {name: "203.0.113.9"}).status_code == 401
        assert client.get("/metrics", headers={name: "203.0.113.9"}).status_code == 401
    assert len(jobs.records) == 1


def test_many_slow_connections_keep_nobody_out(jobs: JobsDouble, free_port: int) -> None:
    """CWE-400, slowloris: connections that never end their headers, or their bodies."""
    head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\n"
    body = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n--x"
    with served(create_app(jobs, ServiceConfig.of({}), adapters=Adapters()), free_port) as address:
        idle = [socket.create_connection(("127.0.0.1", free_port)) for _ in range(200)]
        for number, one in enumerate(idle):
            one.sendall(head + body * (number % 2))
        started = time.monotonic()
        with httpx.Client(base_url=address, timeout=5) as http:
            assert submit(http).status_code == 200
        assert time.monotonic() - started < 2
        for one in idle:
            one.close()
