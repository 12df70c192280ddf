"""Whose key it is decides what exists; and what goes wrong inside stays there. On the real queue and the real keys."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from jobs_double import Adapters
from some_jobs import ended, request, service
from test_fuzz_http import INSIDE
from test_http_videos import bearer, submit

from musubi_ext.errors import UserError
from serving import keys as keys_module
from serving.adapters_live import RegistryDownError
from serving.api import create_app
from serving.config import ServiceConfig
from serving.jobs import Jobs
from serving.keys import SCOPES, UnknownKeyError
from serving.queue.store import COMPLETED
from serving.queue.store import jobs as table

OPEN = {"GET /livez", "GET /readyz", "POST /v1/hooks/mlflow"}  # the last is believed by its signature
SECRETS = ("hunter2", "mlflow.db", "/srv", "0x7f30aa0c12d0", "site-packages", "postgres:5432", "key.pem")
FAULTS = (
    OSError(28, "No space left on device", "/srv/jobs/hunter2/video.mp4"),
    sa.exc.OperationalError("SELECT 1", {}, Exception("postgresql://musubi:hunter2@postgres:5432/x refused")),
    ValueError("in <Engine object at 0x7f30aa0c12d0> of /srv/site-packages/engine.py, line 12"),
    KeyError("/srv/key.pem"),
    UserError("pair: not in sqlite:////srv/mlflow.db, nor in '/srv/my models/x' (see /srv/site-packages/a.py)"),
    RegistryDownError("http://musubi:hunter2@mlflow:5000/api does not answer"),
)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with service(tmp_path, workers=False) as jobs:
        yield jobs


@pytest.fixture
def client(jobs: Jobs) -> TestClient:
    config = ServiceConfig.of({"keys": {"required": True}})
    app = create_app(jobs, config, adapters=Adapters())  # type: ignore[arg-type]
    return TestClient(app, base_url="http://video.example", raise_server_exceptions=False)


def completed(jobs: Jobs, job_id: str) -> None:
    """As if a worker had made it."""
    (jobs.settings.job_folder(job_id) / "video.mp4").write_bytes(b"the video")
    with jobs.database.write() as connection:
        values = {"state": COMPLETED, "files": {"video": "video.mp4"}, "completed_at": 1e9}
        connection.execute(sa.update(table).where(table.c.id == job_id).values(values))


def operations(client: TestClient, video_id: str) -> Iterator[tuple[str, str, str]]:
    """Method, path with the id in it, and name of every operation that the document knows."""
    for path, of in client.get("/openapi.json").json()["paths"].items():
        for method in of:
            yield method.upper(), path.replace("{video_id}", video_id), f"{method.upper()} {path}"


def test_every_operation_asks_for_a_key(client: TestClient) -> None:
    """CWE-306: also those that are added later, since they are read from the document."""
    names = set()
    for method, path, name in operations(client, "video_" + "0" * 24):
        for headers in ({}, bearer("mx_0000000000000000_" + "A" * 43), {"Authorization": "Basic bXg6"}):
            answer = client.request(method, path, headers=headers)
            assert answer.status_code in ((200, 404, 503) if name in OPEN else (401,)), name
        names.add(name)
    assert len(names) >= 13


def test_no_operation_shows_or_touches_anothers_job(client: TestClient, jobs: Jobs) -> None:
    """CWE-639: the answer is the one for a job that never was, to the byte."""
    mine, theirs = (bearer(jobs.keys.create(owner)[1]) for owner in ("team-a", "team-b"))
    made = submit(client, mine, prompt="a secret car").json()["id"]
    completed(jobs, made)
    before = client.get(f"/v1/videos/{made}", headers=mine).json()
    never, looked = "video_" + "f" * 24, 0
    for method, path, name in operations(client, made):
        if made not in path:
            continue
        answer = client.request(method, path, headers=theirs)
        expected = client.request(method, path.replace(made, never), headers=theirs)
        assert (answer.status_code, answer.content) == (404, expected.content), name
        looked += 1
    assert looked >= 5
    assert client.get(f"/v1/videos?after={made}", headers=theirs).status_code == 404
    assert client.get("/v1/videos", headers=theirs).json()["data"] == []
    assert client.get(f"/v1/videos/{made}", headers=mine).json() == before
    assert client.get(f"/v1/videos/{made}/content", headers=mine).content == b"the video"
    assert "secret" not in client.get("/metrics", headers=theirs).text
    same = {"Idempotency-Key": "one"}
    ids = {submit(client, {**headers, **same}).json()["id"] for headers in (mine, theirs)}
    assert len(ids) == 2  # an idempotency key is its owner's


def test_each_scope_opens_its_own_operations_and_no_others(client: TestClient, jobs: Jobs) -> None:
    """CWE-863: a key with one scope, on every operation."""
    opened = {}
    for scope in SCOPES:
        headers = bearer(jobs.keys.create("team-a", [scope])[1])
        answers = {
            name: client.request(method, path, headers=headers).status_code
            for method, path, name in operations(client, "video_" + "0" * 24)
        }
        opened[scope] = {name for name, status in answers.items() if status != 403} - OPEN
    assert opened == {
        "videos:read": {
            "GET /v1/videos",
            *(f"GET /v1/videos/{{video_id}}{more}" for more in ("", "/content", "/events")),
        },
        "videos:write": {"POST /v1/videos", "DELETE /v1/videos/{video_id}", "POST /v1/videos/{video_id}/cancel"},
        "models:read": {"GET /v1/models"},
        "evaluate": {"POST /v1/evaluate"},
        "metrics:read": {"GET /metrics"},
    }


def test_keys_are_compared_in_constant_time(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """CWE-208: a known id with a wrong secret and an unknown id cost the same comparison of digests."""
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def seen(first: str, second: str) -> bool:
        compared.append((len(first), len(second)))
        return compare(first, second)

    monkeypatch.setattr(keys_module.hmac, "compare_digest", seen)
    key, token = jobs.keys.create("team-a")
    for wrong in (f"mx_{key.id}_{'A' * 43}", f"mx_{'0' * 16}_{'A' * 43}", "x", token[:-1]):
        with pytest.raises(UnknownKeyError):
            jobs.keys.authenticate(wrong)
    assert jobs.keys.authenticate(token).owner == "team-a"
    assert compared == [(64, 64)] * 5


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_inside_tells_nothing(
    client: TestClient, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """CVE-2026-22778: addresses, paths, passwords and traces in bodies, whatever fails, on every operation."""
    headers = bearer(jobs.keys.create("team-a")[1])
    made = submit(client, headers).json()["id"]

    def fails(*_: Any, **__: Any) -> Any:
        raise fault

    for name in ("get", "list", "submit", "cancel", "delete", "file", "stats"):
        monkeypatch.setattr(jobs, name, fails)
    failed = 0
    for method, path, name in operations(client, made):
        answer = submit(client, headers) if name == "POST /v1/videos" else client.request(method, path, headers=headers)
        if answer.headers["content-type"].startswith("application/json") and answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"code", "message", "param"}
            failed += answer.status_code in (400, 500, 503)
        assert not INSIDE.search(answer.content), (name, answer.text)
        assert not [secret for secret in SECRETS if secret in answer.text], (name, answer.text)
    assert failed >= 7


def test_a_failing_engine_tells_nothing(tmp_path: Path) -> None:
    """CVE-2026-22778, from the other side: what a job ends with."""
    with service(tmp_path, retries=0) as jobs:
        app = create_app(jobs, ServiceConfig.of({}), adapters=Adapters())  # type: ignore[arg-type]
        client = TestClient(app, base_url="http://127.0.0.1:3000")
        for prompt in ("defect=1", "mistake=1", "os_faults=9"):
            made = ended(jobs, jobs.submit(request(prompt)))
            answer = client.get(f"/v1/videos/{made.id}")
            assert answer.json()["status"] == "failed"
            assert answer.json()["error"]["message"]
            assert not re.search(r"place|\.py|/|Error\b|0x", answer.json()["error"]["message"]), answer.text
            assert client.get(f"/v1/videos/{made.id}/content").status_code == 409
            assert str(tmp_path) not in answer.text + client.get(f"/v1/videos/{made.id}/events").text


def test_what_is_deleted_is_gone_from_the_disk(tmp_path: Path) -> None:
    """CWE-212: the prompt of a deleted job is in no file any more, nor is its name in one."""
    with service(tmp_path) as jobs:
        made = ended(jobs, jobs.submit(request("a very secret car")))
        found = [path for path in tmp_path.rglob("*") if path.is_file() and b"very secret" in path.read_bytes()]
        assert len(found) >= 2  # the request's file and the database: the search finds what is there
        jobs.delete(made.id)
        left = [path for path in tmp_path.rglob("*") if path.is_file() and b"very secret" in path.read_bytes()]
        assert left == []
        assert not jobs.settings.job_folder(made.id).exists()


def test_nothing_in_the_database_is_a_pickle(tmp_path: Path) -> None:
    """CVE-2025-27520's class, through the queue: DBOS would pickle what a workflow is given."""
    with service(tmp_path) as jobs:
        ended(jobs, jobs.submit(request("a car")))
        with jobs.database.read() as connection:
            names = sa.inspect(connection).get_table_names()
            for name in names:
                for row in connection.exec_driver_sql(f'SELECT * FROM "{name}"'):
                    for value in row:
                        text = value if isinstance(value, str) else ""
                        assert not isinstance(value, bytes), name
                        assert not re.match(r"gAS|gAR|gAV", text), name  # a pickle in base64 begins so
    assert "workflow_status" in names
