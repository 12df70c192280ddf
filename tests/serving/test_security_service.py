"""`bentoml serve` as it runs, with keys required: its own routes, its sockets, what it logs, what its videos carry."""

from __future__ import annotations

import base64
import http.client
import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from test_fuzz_http import INSIDE
from test_http_videos import bearer
from test_security_checklist import PICKLES, Bomb
from test_uploads import png

from serving.queue.process import ServiceProcess

pytest.importorskip("bentoml", reason="bentoml is not installed")
NATIVE = (
    "/stats",
    "/metrics",
    "/docs.json",
    "/schema.json",
    "/static_content/x",
    "/assets/x",
    "/healthz",
    "/x/../metrics",
)
SMALL = {"prompt": "a car\r\nX: y", "size": "32x32", "num_frames": "5", "num_inference_steps": "2"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Iterator[ServiceProcess]:
    values = {
        "base": str(tiny_pipeline),
        "pair": "",
        "threads": 1,
        "keys": {"required": True},
        "limits": {"grace_seconds": 1.0},
        "evaluation": {"metrics": ["temporal_flicker"], "threads": 1},
    }
    with ServiceProcess(tmp_path_factory.mktemp("service"), values) as running:
        yield running


@pytest.fixture(scope="module")
def token(service: ServiceProcess) -> str:
    """Made as the documentation says, while the service runs."""
    words = ["-m", "serving.keys", "--config", str(service.config), "create", "--owner", "team-a"]
    root = Path(__file__).resolve().parents[2]
    made = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, check=True)
    return made.stdout.strip()


@pytest.fixture
def http_(service: ServiceProcess, token: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.address, headers=bearer(token), timeout=60) as client:
        yield client


def family(pid: int) -> set[int]:
    """A process and all below it."""
    found, looked = {pid}, [pid]
    while looked:
        one = looked.pop()
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            children = {int(child) for child in task.read_text().split()} - found
            found |= children
            looked += children
    return found


def sockets(service: ServiceProcess) -> list[tuple[str, str, str]]:
    """Local address, remote address and state of every TCP socket of the service's processes."""
    assert service.process is not None
    inodes = set()
    for pid in family(service.process.pid):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            if (link := os.readlink(descriptor)).startswith("socket:"):
                inodes.add(link[8:-1])
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [(row[1], row[2], row[3]) for row in rows if row[9] in inodes]


def test_bentomls_own_routes_ask_for_a_key_and_take_no_pickle(
    service: ServiceProcess, http_: httpx.Client, tmp_path: Path
) -> None:
    """CVE-2025-27520, CVE-2024-2912, CVE-2025-54381, on every route there is."""
    bomb = pickle.dumps(Bomb(tmp_path / "mark"))
    for path in NATIVE:
        for kind in PICKLES:
            with httpx.Client(base_url=service.address) as nobody:
                answer = nobody.post(path, content=bomb, headers={"Content-Type": kind})
                assert answer.status_code in (401, 404, 405, 415), (path, kind)
            known = http_.post(path, content=bomb, headers={"Content-Type": kind})
            assert known.status_code in (400, 404, 405, 415), (path, kind, known.text)
            assert not INSIDE.search(known.content), known.text
    address = {"x": f"{service.address}/livez"}
    for sent in ({"data": address}, {"files": {"x": ("a", bomb, PICKLES[0])}}, {"files": {"x": b"\xff"}}):
        assert http_.post("/stats", **sent).status_code == 415  # type: ignore[arg-type]
    assert http_.post("/stats", json=address).status_code == 200
    for broken in (b"\xff", b"[1]", b"[" * 100_000, b'{"a":'):
        assert http_.post("/stats", content=broken, headers={"Content-Type": "application/json"}).status_code == 400
    assert not (tmp_path / "mark").exists()
    nobody = httpx.get(f"{service.address}/metrics")
    assert nobody.status_code == 401
    assert http_.get("/metrics").status_code == 200


def test_a_whole_job_leaves_nothing_of_this_machine_in_what_it_gives(
    service: ServiceProcess, http_: httpx.Client
) -> None:
    """CVE-2026-22778: bodies, headers and the mp4 itself."""
    answer = http_.post("/v1/videos/sync", data=SMALL, files={"first_frame": ("../../x\r\nX: y", png())})
    assert answer.status_code == 200, answer.text
    shown = http_.get(f"/v1/videos/{answer.headers['x-video-id']}")
    assert shown.json()["prompt"] == SMALL["prompt"]
    secrets = [str(service.folder), str(Path.home()), sys.prefix, "site-packages"]
    for content in (answer.content, shown.content, http_.get("/v1/models").content, http_.get("/openapi.json").content):
        assert not [secret for secret in secrets if secret.encode() in content]
    assert "x" not in answer.headers
    for path in (
        "/v1/videos/video_%00",
        "/v1/%0d%0aX:y",
        "/v1/videos/" + "a" * 60_000,
        "/%ff",
        "/ui/..%2f..%2fservice.py",
    ):
        assert http_.get(path).status_code in (400, 404, 414)


def test_nothing_listens_beyond_loopback_and_nothing_is_called(service: ServiceProcess, http_: httpx.Client) -> None:
    """CWE-1327: one address is served; DBOS's own server, BentoML's reports and MLflow's stay off."""
    for _ in range(3):
        assert http_.get("/v1/models").status_code == 200
    found = sockets(service)
    port = f"{service.port:04X}"
    loopback = ("0100007F:", "00000000000000000000000001000000:", "0000000000000000FFFF00000100007F:")
    assert any(local.endswith(port) and state == "0A" for local, _, state in found)
    assert [one for one in found if not one[0].startswith(loopback)] == []
    assert [one for one in found if one[2] == "01" and not one[1].startswith(loopback)] == []


def test_what_is_sent_is_not_logged(service: ServiceProcess, http_: httpx.Client, token: str) -> None:
    """CWE-532, CWE-117: no key, no prompt, and no line that a client has written."""
    http_.get("/v1/videos/%0a2026-01-01T00:00:00+0000%20[INFO]%20forged")
    http_.post("/v1/videos", data={**SMALL, "prompt": "a very secret car", "size": "1x1"}, files={"first_frame": png()})
    time.sleep(0.3)
    log = service.log()
    assert token not in log
    assert token.split("_", 2)[2] not in log
    assert "very secret" not in log
    assert "forged" in log or "trace=" in log
    assert not re.search(r"^2026-01-01", log, re.MULTILINE)


def test_requests_that_no_parser_agrees_on(service: ServiceProcess, token: str) -> None:
    """CWE-444: two lengths, a length and chunks: refused, or read in one way."""
    head = f"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    head += "Content-Type: application/json\r\n"
    smuggled = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for more in (
        f"Content-Length: 2\r\nContent-Length: {2 + len(smuggled)}\r\n\r\n{{}}{smuggled}",
        f"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
        f"Transfer-Encoding: xchunked\r\n\r\n{{}}{smuggled}",
        f"Content-Length: +2\r\n\r\n{{}}{smuggled}",
    ):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        connection.connect()
        connection.sock.sendall((head + more).encode())
        answer = connection.sock.recv(65_536)
        connection.close()
        assert not answer.startswith(b"HTTP/1.1 2"), more
        assert b'"object":"list"' not in answer


def test_a_header_that_is_no_text_is_answered_like_any_other(service: ServiceProcess, token: str) -> None:
    """CWE-248: BentoML's access log would decode the content type, fail, and cut the answer off."""
    for headers in ({"Content-Type": b"\xff"}, {"Content-Type": b"\xff", **bearer(token)}, {"X-Any": b"\xff\xfe"}):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        connection.request("POST", "/v1/videos", b"x", headers)  # type: ignore[arg-type]
        answer = connection.getresponse()
        assert answer.status in (401, 415)
        assert set(json.loads(answer.read())["error"]) == {"code", "message", "param"}
        connection.close()
    assert "Exception in ASGI application" not in service.log()


def test_a_key_is_shown_once_and_revoked_at_once(service: ServiceProcess, token: str) -> None:
    root = Path(__file__).resolve().parents[2]

    def keys(*words: str) -> str:
        command = [sys.executable, "-m", "serving.keys", "--config", str(service.config), *words]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout

    second = keys("create", "--owner", "team-b", "--scope", "models:read").strip()
    assert second not in keys("list")
    assert httpx.get(f"{service.address}/v1/models", headers=bearer(second)).status_code == 200
    keys("revoke", second.split("_")[1])
    assert httpx.get(f"{service.address}/v1/models", headers=bearer(second)).status_code == 401
    basic = base64.b64encode(f"team-a:{token}".encode()).decode()
    assert httpx.get(f"{service.address}/v1/models", headers={"Authorization": f"Basic {basic}"}).status_code == 401


def test_others_on_this_machine_cannot_read_its_files(service: ServiceProcess) -> None:
    """CWE-732: prompts, pictures and the keys' hashes lie in a folder of the service's own."""
    folder: Any = Path(service.values["folder"])
    assert folder.stat().st_mode & 0o077 == 0
