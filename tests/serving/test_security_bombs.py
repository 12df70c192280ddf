"""Small uploads that would be large once decoded: nothing is decoded or allocated before it is known to fit."""

from __future__ import annotations

import asyncio
import io
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from jobs_double import Adapters, JobsDouble, KeysDouble
from PIL import Image
from test_http_videos import submit
from test_uploads import ADDRESS, claimed, png

from serving.api import create_app
from serving.config import Evaluation, Limits, ServiceConfig
from serving.http.evaluate_upload import Evaluator
from serving.http.http_errors import HttpError
from serving.keys import SCOPES, Key

ROOM = 200 * 2**20  # bytes that a refused request may take at most: torch and others are loaded in this process


@pytest.fixture
def jobs(tmp_path: Path) -> JobsDouble:
    keys = KeysDouble(a=Key("1", "team-a", SCOPES), b=Key("2", "team-b", SCOPES))
    return JobsDouble(tmp_path, keys=keys)


@pytest.fixture
def client(jobs: JobsDouble) -> TestClient:
    return TestClient(create_app(jobs, ServiceConfig.of({}), adapters=Adapters()), base_url=ADDRESS)


@contextmanager
def little_memory() -> Iterator[None]:
    """What happens inside touches less than ROOM that was not touched before."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident size begins anew
    before = _status("VmRSS")
    yield
    assert _status("VmHWM") - before < ROOM


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A good PNG with one chunk more, behind its header."""
    whole = png()
    return whole[:33] + chunk(kind, data) + whole[33:]


def webp(width: int, height: int) -> bytes:
    """A WebP of 60 bytes that says it is huge."""
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + size
    frame = b"VP8L" + struct.pack("<I", 18) + b"\x2f" + struct.pack("<I", (width - 1) & 0x3FFF) + b"\0" * 13
    body = b"WEBP" + extended + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header says it is huge."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "JPEG")
    data = out.getvalue()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


BLOWN_UP = zlib.compress(b"\0" * 300_000_000, 9)  # 300 MB in 300 kB


@pytest.mark.parametrize(
    "data",
    [
        claimed(60_000, 60_000),
        webp(16_000, 16_000),
        jpeg(65_000, 65_000),
        with_chunk(b"zTXt", b"a\0\0" + BLOWN_UP),
        with_chunk(b"iTXt", b"a\0\1\0\0\0" + BLOWN_UP),
        with_chunk(b"iCCP", b"a\0\0" + BLOWN_UP),
        with_chunk(b"eXIf", b"MM\0*" + b"\0" * 300_000),
    ],
    ids=["png", "webp", "jpeg", "zTXt", "iTXt", "iCCP", "eXIf"],
)  # fmt: skip
def test_a_picture_that_grows_is_not_let_grow(client: TestClient, data: bytes) -> None:
    """CVE-2026-34755's class: pixels, and texts and profiles beside them, that are much larger once decoded."""
    with little_memory():
        answer = client.post("/v1/videos", data={"prompt": "a"}, files={"first_frame": ("a", data)})
    assert answer.status_code in (200, 400, 413)
    assert answer.status_code == 200 or answer.json()["error"]["param"] == "first_frame"


def test_frames_times_pixels_are_counted_before_anything_is_made(jobs: JobsDouble) -> None:
    """CVE-2026-34755: a request for more frames than memory. Nothing is accepted that the limits forbid together."""
    config = ServiceConfig.of({"limits": {"volume": 20 * 64 * 64}})
    client = TestClient(create_app(jobs, config, adapters=Adapters()), base_url=ADDRESS)
    with little_memory():
        for fields in (
            {"num_frames": "21"},  # each number is allowed, all of them together are not
            {"num_frames": "9997"},
            {"size": "8192x8192"},
            {"width": "8192", "height": "8192"},
            {"seconds": "3600"},
            {"seconds": "1e300"},
            {"best_of": "64"},
            {"num_inference_steps": "1000"},
        ):
            assert submit(client, **fields).status_code == 400, fields
    assert jobs.records == {}


def gif(width: int, height: int) -> bytes:
    """A GIF of one pixel on a canvas of width × height."""
    screen = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    return screen + b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0" + b"\x02\x02\x44\x01\x00" + b";"


def test_a_video_that_grows_is_measured_elsewhere_and_refused(client: TestClient) -> None:
    """CVE-2026-34755's class, /v1/evaluate: a canvas of 4 gigapixels in 40 bytes."""
    with little_memory():
        answer = client.post("/v1/evaluate", data={"metrics": "motion_magnitude"}, files={"video": gif(65_000, 65_000)})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "video"


def test_an_evaluation_that_takes_too_long_leaves_no_process(tmp_path: Path) -> None:
    evaluator = Evaluator(Evaluation(threads=1), Limits(), seconds=0.3)
    with pytest.raises(HttpError, match="not measured within"):
        asyncio.run(evaluator.scores(gif(64, 64), ["motion_magnitude"], ""))
    end = time.monotonic() + 5
    while any("evaluate-" in line for line in _commands()):
        assert time.monotonic() < end
        time.sleep(0.05)


def _commands() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
