"""What a client sends is bounded and checked before anything is decoded, and nothing of it is fetched or opened."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient
from jobs_double import Adapters, JobsDouble, served
from PIL import Image

from serving.api import create_app
from serving.config import ServiceConfig
from serving.http.body_limit import BodyLimit

PART = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--'
ADDRESS = "http://127.0.0.1:3000"


def png(width: int = 64, height: int = 64) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "PNG")
    return out.getvalue()


def claimed(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, kind)
    return out.getvalue()


@pytest.fixture
def jobs(tmp_path: Path) -> JobsDouble:
    return JobsDouble(tmp_path)


@pytest.fixture
def client(jobs: JobsDouble) -> TestClient:
    limits = {"upload_bytes": 100_000, "body_bytes": 300_000, "image_pixels": 1_000_000}
    return TestClient(create_app(jobs, ServiceConfig.of({"limits": limits}), adapters=Adapters()), base_url=ADDRESS)


def send(client: TestClient, data: bytes, name: str = "first_frame", **fields: str) -> Any:
    return client.post("/v1/videos", data={"prompt": "a car", **fields}, files={name: ("a.png", data, "image/png")})


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_taken_whatever_they_are_called(client: TestClient, kind: str) -> None:
    assert send(client, encoded(kind)).status_code == 200


@pytest.mark.parametrize(
    "kind", ["GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "DDS", "PDF", "EPS"]
)
def test_other_formats_are_refused_though_pillow_reads_them(client: TestClient, jobs: JobsDouble, kind: str) -> None:
    answer = send(client, encoded(kind))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "first_frame"
    assert jobs.records == {}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"not a picture", 400),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400),
        (png()[:60], 400),  # the header is whole, the pixels are not
        (png(8, 8), 400),  # too small to keep anything of
        (claimed(40_000, 40_000), 413),
        (claimed(12_000, 8_000), 413),  # below Pillow's own cap, above ours
        (png() + b"\0" * 100_000, 413),
    ],
)
def test_a_bad_picture_is_an_answer_never_a_fault(
    client: TestClient, jobs: JobsDouble, data: bytes, status: int
) -> None:
    answer = send(client, data)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == "first_frame"
    assert "/" not in answer.json()["error"]["message"].replace("PNG, JPEG or WebP", "")
    assert jobs.records == {}


def test_nothing_of_a_huge_claim_is_decoded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(Image.Image, "load", lambda image: loaded.append(image))
    assert send(client, claimed(40_000, 40_000)).status_code == 413
    assert loaded == []


@pytest.mark.parametrize(
    "address", ["http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "/etc/passwd", "data:text/html,x"]
)
@pytest.mark.parametrize("field", ["first_frame", "last_frame", "input_reference"])
def test_addresses_and_paths_are_refused_by_name(client: TestClient, address: str, field: str) -> None:
    """CVE-2025-54381: no input makes the service fetch anything."""
    form = client.post("/v1/videos", data={"prompt": "a car", field: address})
    document = client.post("/v1/videos", json={"prompt": "a car", field: address})
    for answer in (form, document):
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field
        assert "addresses and paths are not taken" in answer.json()["error"]["message"]


def test_json_carries_pictures_as_base64(client: TestClient, jobs: JobsDouble) -> None:
    text = base64.b64encode(png()).decode()
    for value in (text, f"data:image/png;base64,{text}"):
        body = {"prompt": "a car", "first_frame": value, "num_frames": 17, "seed": 3}
        answer = client.post("/v1/videos", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["request"]["seed"] == 3
    assert len(jobs.records) == 2


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{", 400),
        ("application/json", b"[1]", 400),
        ("application/json", b'{"prompt": NaN}', 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/json", b'{"prompt": "\xff"}', 400),
        ("application/json", b'{"prompt": "\\ud800", "first_frame": ""}', 400),
        ("text/plain", b"prompt=a", 415),
        ("application/vnd.bentoml+pickle", b"\x80\x04.", 415),
        ("application/octet-stream", b"\x80\x04.", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=x", b"--y", 400),
        ("multipart/form-data; boundary=x; charset=none", PART, 400),
        ("", b"", 415),
    ],
)  # fmt: skip
def test_a_malformed_body_is_400_or_415(client: TestClient, kind: str, body: bytes, status: int) -> None:
    answer = client.post("/v1/videos", content=body, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"code", "message", "param"}


def test_unknown_and_repeated_fields_are_refused(client: TestClient) -> None:
    answer = send(client, png(), promt="a")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_field")
    assert "did you mean prompt?" in answer.json()["error"]["message"]
    two = [("first_frame", ("a", png())), ("first_frame", ("b", png()))]
    assert client.post("/v1/videos", data={"prompt": "a"}, files=two).json()["error"]["param"] == "first_frame"
    assert client.post("/v1/videos", files={"prompt": ("a", b"x")}).json()["error"]["param"] == "prompt"


def test_a_body_over_the_cap_is_refused_by_its_announced_length(client: TestClient) -> None:
    assert send(client, b"\0" * 400_000).status_code == 413


def test_a_streamed_body_is_cut_off_at_the_cap_and_the_server_lives(jobs: JobsDouble, free_port: int) -> None:
    """No Content-Length: what counts is what has come. CVE-class: unbounded upload."""
    config = ServiceConfig.of({"limits": {"body_bytes": 100_000}})
    with served(create_app(jobs, config, adapters=Adapters()), free_port) as address:
        connection = http.client.HTTPConnection("127.0.0.1", free_port, timeout=10)
        connection.putrequest("POST", "/v1/videos")
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        head = b'--x\r\nContent-Disposition: form-data; name="first_frame"; filename="a"\r\n\r\n'
        sent = 0
        try:
            for block in [head] + [b"\0" * 10_000] * 2_000:  # 20 MB, if it is let
                connection.send(b"%x\r\n%s\r\n" % (len(block), block))
                sent += len(block)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 15_000_000
        connection.close()
        assert httpx.get(f"{address}/livez").status_code == 200
    assert jobs.records == {}


def test_a_body_that_drips_is_given_up() -> None:
    answers: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async def receive() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {"type": "http", "headers": [(b"content-length", b"9" * 30)]}  # a length that is none decides nothing
    asyncio.run(BodyLimit(app, 10_000, seconds=0.2)(scope, receive, send))
    assert answers[0]["status"] == 408
    assert json.loads(answers[1]["body"])["error"]["code"] == "request_timeout"
