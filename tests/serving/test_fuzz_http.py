"""Requests that nobody sane sends: from the OpenAPI document, and broken multipart. No 5xx, no hang, no insides.

A few of each by default; MUSUBI_EXT_TORTURE=1000 makes that many.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs_double import Adapters, JobsDouble, served, worked
from test_uploads import claimed, encoded, png

from serving.api import create_app
from serving.config import ServiceConfig
from serving.http.submission import FIELDS

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from schemathesis import GenerationMode, checks  # noqa: E402

# Starlette leaves the files of a form that it cannot read to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")
COUNT = int(os.environ.get("MUSUBI_EXT_TORTURE", "40"))
SLOW = 5.0  # seconds; an answer that takes longer hangs
INSIDE = re.compile(rb"Traceback|File \"|site-packages|0x[0-9a-f]{6,}|/(?:home|root|tmp|usr|srv|work)/|\.py\b", re.I)
QUICK = {"sync_seconds": 1.0, "queue": 10_000}
CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)


def free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    import musubi_ext.registry.store  # noqa: F401  seconds, which the service spends at its start

    with tempfile.TemporaryDirectory() as folder:
        jobs = JobsDouble(Path(folder), most=1_000_000)
        for _ in range(3):
            _seed(jobs)
        app = create_app(jobs, ServiceConfig.of({"limits": QUICK}), adapters=Adapters())
        with served(app, free_port()) as address, worked(jobs):
            yield address


def _seed(jobs: JobsDouble) -> None:
    """A completed job under the id that the document gives as its example."""
    from PIL import Image

    from serving.adapters_live import BASE
    from serving.keys import LOCAL
    from serving.making.request import JobRequest

    request = JobRequest(prompt="a car", first_frame=Image.new("RGB", (64, 64)))
    jobs.complete(jobs.submit(request, LOCAL, version=BASE).id)


def test_the_document_holds_under_any_request(address: str) -> None:
    """Every operation of the document, with data that fits it and data that does not."""
    found = {}
    for result in schemathesis.openapi.from_url(f"{address}/openapi.json").get_all_operations():
        operation = result.ok()
        if operation.path != "/v1/evaluate":  # an evaluation takes seconds, and has tests of its own
            found[operation.label] = _fuzzed(operation)
    print("requests made from the document:", sum(map(len, found.values())), "of", len(found), "operations")
    assert len(found) >= 12
    assert not {label for label, statuses in found.items() if not statuses}


def _fuzzed(operation: Any) -> list[int]:
    """The statuses that `operation` answered with, one for each request."""
    statuses: list[int] = []
    both = st.one_of(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
    )

    @given(case=both)
    @settings(
        max_examples=max(5, COUNT // 10),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        answer = case.call(timeout=SLOW)
        statuses.append(answer.status_code)
        text = not answer.headers.get("content-type", [""])[0].startswith(("video/", "image/"))
        assert not (text and INSIDE.search(answer.content)), answer.content[:500]
        if answer.status_code != 504:  # a synchronous video that took too long: documented, and no fault
            case.validate_response(answer, checks=CHECKS)

    run()
    return statuses


PIECES = [
    b"",
    b"\r\n",
    b"\n",
    b"--",
    b"--x",
    b"--x--",
    b"\0",
    b"\xff\xfe",
    b"'\"; filename=",
    b": ",
    b"a" * 5_000,
    b"%0d%0a",
]
VALUES = [
    *("", "0", "-1", "1e400", "NaN", "inf", "９", "true", "null", "[1]", '{"name": {"a": 1}}', "17"),
    *("\u202e", "\ud7ff" * 3_000, "x" * 70_000, "64x64", "99999x99999", "16x16", "models:/a/1"),
    *("../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/"),
    *("{{7*7}}", "${jndi:ldap://x}", "'; DROP TABLE jobs;--", "<script>"),
]
NAMES = ["../../../etc/passwd", "a\0.png", "a" * 3_000, "CON", "a.png\r\nX: y", "é.png", "", ".", "/dev/zero"]


def body(random_: random.Random) -> tuple[bytes, bytes]:
    """A multipart body of the service's own fields with odd values, names and pictures, perhaps damaged; its type."""
    pictures = [b"", png(), png()[:40], claimed(60_000, 60_000), encoded("GIF"), random_.randbytes(200), b"<svg/>"]
    parts, names = [], [*FIELDS, "first_frame", "last_frame", "input_reference", "nonsense"]
    if random_.random() < 0.5:  # else most would fail for want of a picture, and nothing behind that be reached
        parts = [(b'name="prompt"', b"a car"), (b'name="first_frame"; filename="a"', png())]
        names = [name for name in names if name not in ("prompt", "first_frame", "input_reference", "nonsense")]
    for name in random_.sample(names, random_.randint(0, 6)):
        if random_.random() < 0.3 or "frame" in name:
            filename = random_.choice(NAMES).encode(errors="ignore")
            parts.append((b'name="%s"; filename="%s"' % (name.encode(), filename), random_.choice(pictures)))
        else:
            parts.append((b'name="%s"' % name.encode(), random_.choice(VALUES).encode()))
    whole = b"".join(b"--x\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % part for part in parts) + b"--x--\r\n"
    for _ in range(random_.choice([0, 0, 1, 4])):
        where = random_.randrange(len(whole))
        whole = whole[:where] + random_.choice(PIECES) + whole[where + random_.choice([0, 1, 30]) :]
    types = [b"multipart/form-data; boundary=x"] * 8 + [
        b"multipart/form-data", b"multipart/form-data; boundary=", b"multipart/form-data; boundary=" + b"y" * 300,
        b"multipart/form-data; boundary=x; charset=utf-99", b"multipart/mixed; boundary=x", b"application/json",
        b"application/x-www-form-urlencoded", b"\xff"]  # fmt: skip
    return whole, random_.choice(types)


def test_no_multipart_body_breaks_it(address: str) -> None:
    host, _, port = address.removeprefix("http://").partition(":")
    random_ = random.Random(7)
    statuses: dict[int, int] = {}
    for number in range(COUNT):
        data, kind = body(random_)
        path = random_.choice(["/v1/videos", "/v1/videos", "/v1/videos/sync", "/v1/evaluate"])
        if path == "/v1/evaluate" and number % 20:  # each one that is no nonsense costs a process
            path = "/v1/videos"
        connection = http.client.HTTPConnection(host, int(port), timeout=SLOW + 30 * path.endswith("evaluate"))
        started = time.monotonic()
        connection.request("POST", path, data, {"Content-Type": kind})  # type: ignore[dict-item]
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status < 500 or answer.status == 504, (number, kind, data[:300], text)
        assert time.monotonic() - started < SLOW or path.endswith("evaluate"), (number, kind, data[:300])
        if answer.status != 200:
            assert set(json.loads(text)["error"]) == {"code", "message", "param"}
            assert not INSIDE.search(text), (number, text)
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
    print("answers by status:", statuses)
    assert statuses[400] > COUNT // 4
    assert statuses[200] > 0
