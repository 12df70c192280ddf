"""What a stranger's requests may cost: bodies are counted before they are parsed, one owner leaves room for others."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient
from jobs_double import Adapters, JobsDouble, KeysDouble, served
from test_http_videos import bearer, submit
from test_security_bombs import little_memory
from test_uploads import ADDRESS, png

from serving.api import create_app
from serving.config import Evaluation, Limits, ServiceConfig
from serving.http import submission
from serving.http.body_limit import AT_ONCE, BodyLimit
from serving.http.evaluate_upload import Evaluator
from serving.http.uploads import MAX_MARKS
from serving.http.video_routes import DECODING, STREAMS_EACH
from serving.keys import SCOPES, Key
from serving.making.request import JobRequest


@pytest.fixture
def jobs(tmp_path: Path) -> JobsDouble:
    keys = KeysDouble(a=Key("1", "team-a", SCOPES), b=Key("2", "team-b", SCOPES))
    return JobsDouble(tmp_path, keys=keys)


@pytest.fixture
def client(jobs: JobsDouble) -> TestClient:
    return TestClient(create_app(jobs, ServiceConfig.of({}), adapters=Adapters()), base_url=ADDRESS)


def test_one_owner_leaves_the_evaluation_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(Evaluation(), Limits())

    async def measured(*_: Any) -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {}

    async def crowd() -> list[Any]:
        owners = ["a"] * 4 + ["b"] * 2 + ["c", "d"]
        asked = [evaluator.scores(b"", [], "", owner) for owner in owners]
        return await asyncio.gather(*asked, return_exceptions=True)

    monkeypatch.setattr(evaluator, "_measured", measured)
    answers = [getattr(one, "status", 200) for one in asyncio.run(crowd())]
    assert answers == [200, 200, 429, 429, 200, 200, 200, 503]
    assert asyncio.run(evaluator.scores(b"", [], "", "a")) == {}  # all places are free again


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":[' + b"[]," * 5_000_000 + b"1]}",
        b'{"prompt":[' + b"{}," * 5_000_000 + b"1]}",
        b"{" + b",".join(b'"%d":1' % n for n in range(1_000_000)) + b"}",
        b'{"lora":' + b'{"a":' * 500_000 + b"1" + b"}" * 500_000 + b"}",
        b'{"prompt":"a","seed":' + b"9" * 10_000_000 + b"}",
    ],
    ids=["lists", "objects", "names", "nesting", "digits"],
)
def test_a_json_body_is_not_parsed_into_gigabytes(client: TestClient, body: bytes) -> None:
    """CWE-400: 50 MB of brackets are two gigabytes of lists, and ten seconds in which nobody else is answered."""
    started = time.monotonic()
    with little_memory():
        answer = client.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert time.monotonic() - started < 1


def test_a_prompt_full_of_commas_is_no_attack(client: TestClient) -> None:
    prompt = ",:[{" * 500
    assert 2 * len(prompt) < MAX_MARKS
    body: dict[str, Any] = {"prompt": prompt, "negative_prompt": prompt, "guidance_scale": 2}
    body["first_frame"] = base64.b64encode(png()).decode()
    assert client.post("/v1/videos", json=body).status_code == 200


@pytest.mark.parametrize(
    "body", [b'{"prompt":"a","prompt":"b"}', b'{"prompt":"a","lora":{"name":"a/1","name":"b/1"}}', b'{"a":1,"a":2}']
)
def test_a_name_given_twice_is_refused(client: TestClient, body: bytes) -> None:
    """CWE-235: two values of one field, of which a proxy checks one and the service takes the other."""
    answer = client.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "given twice" in answer.json()["error"]["message"]
    assert submit(client, prompt=["a", "b"]).json()["error"]["param"] == "prompt"


def test_a_form_of_too_many_parts_is_refused(client: TestClient) -> None:
    """CWE-400: parts cost memory before any of them is looked at."""
    part = b'--x\r\nContent-Disposition: form-data; name="a"%s\r\n\r\n1\r\n'
    for filename, count in ((b"", 65), (b'; filename="a"', 5), (b"", 100_000)):
        body = part % filename * count + b"--x--\r\n"
        started = time.monotonic()
        answer = client.post("/v1/videos", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert answer.status_code == 400
        assert time.monotonic() - started < 1
    for body in (b"--x\r\n" + b"A: b\r\n" * 100_000, b"--x\r\nA: " + b"b" * 10_000_000):
        answer = client.post("/v1/videos", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert answer.status_code == 400
    plain = client.post(
        "/v1/videos", content=b"&" * 300_000, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert plain.status_code == 413


def test_bodies_that_are_sent_at_once_have_a_bound_together() -> None:
    """CWE-770: no body is too large, and a hundred of them are."""
    answers: list[int] = []
    waiting = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await waiting.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    limit = BodyLimit(app, 1_000)

    async def one() -> None:
        parts = [b"x" * 300] * 3

        async def receive() -> Any:
            await asyncio.sleep(0)
            return {"type": "http.request", "body": parts.pop() if parts else b"", "more_body": bool(parts)}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answers.append(message["status"])

        await limit({"type": "http", "headers": []}, receive, send)

    async def crowd() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(one())
            await asyncio.sleep(0.05)
            assert limit.held <= AT_ONCE * 1_000
            waiting.set()

    asyncio.run(crowd())
    assert set(answers) == {200, 503}
    assert 4 <= answers.count(200) <= AT_ONCE * 1_000 / 900
    assert limit.held == 0


def test_few_pictures_are_decoded_at_once(jobs: JobsDouble, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """CWE-770: one picture may be 50 megapixels, so forty at once may not be."""
    running, most, lock = 0, 0, threading.Lock()
    parse = JobRequest.parse

    def slow(*words: Any) -> JobRequest:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return parse(*words)

    monkeypatch.setattr(submission.JobRequest, "parse", slow)
    with served(create_app(jobs, ServiceConfig.of({}), adapters=Adapters()), free_port) as address:

        def send() -> None:
            with httpx.Client(base_url=address, timeout=30) as http:
                assert submit(http).status_code == 200

        threads = [threading.Thread(target=send) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(jobs.records) == 12
    assert most == DECODING


def test_one_owner_leaves_streams_to_others(jobs: JobsDouble, free_port: int) -> None:
    config = ServiceConfig.of({"keys": {"required": True}})
    with served(create_app(jobs, config, adapters=Adapters()), free_port) as address:
        limits = httpx.Limits(max_connections=STREAMS_EACH + 5)
        with httpx.Client(base_url=address, timeout=10, limits=limits) as http:
            made = {name: submit(http, bearer(name)).json()["id"] for name in "ab"}
            streams, heard = [], []
            for _ in range(STREAMS_EACH):
                asked = http.build_request("GET", f"/v1/videos/{made['a']}/events", headers=bearer("a"))
                streams.append(http.send(asked, stream=True))
                heard.append(streams[-1].iter_raw())
                next(heard[-1])
            more = http.get(f"/v1/videos/{made['a']}/events", headers=bearer("a"))
            assert (more.status_code, "Retry-After" in more.headers) == (503, True)
            with http.stream("GET", f"/v1/videos/{made['b']}/events", headers=bearer("b")) as other:
                assert other.status_code == 200
            for stream in streams:
                stream.close()
    assert json.loads(more.text)["error"]["code"] == "unavailable"
