"""Sixteen clients at once while two pairs are promoted: nothing fails, and every video is its own version's.

MUSUBI_EXT_LOAD=200 asks two hundred times within a minute; the default is forty times within twelve seconds.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from figures import tell
from load_clients import Asked, Load
from pocket_pairs import NAME, make_champion, register
from process_meter import Held, Meter, held
from serving_tree import CONFIG, HTTP, WORKER, Tree, check_video, rows, submit, until

from musubi_ext.registry.store import connect
from musubi_ext.registry.versions import checksums

pytest.importorskip("bentoml", reason="bentoml is not installed")
REQUESTS = int(os.environ.get("MUSUBI_EXT_LOAD", "40"))
CLIENTS = 16
SECONDS = 0.3 * REQUESTS
NOTICED = 10.0  # seconds in which a promotion has to be taken
FLAT = 1.05  # of the first third's memory, and
SLACK = 16e6  # bytes beside it
POOLED = 5 * 3  # files: the pool keeps five connections, each with the database, its log and their index


@pytest.fixture
def service(uri: str, tmp_path: Path) -> Iterator[Tree]:
    """One that follows `NAME`@champion, of whose three versions the first is champion."""
    for seed in (1, 2, 3):
        assert register(tmp_path / "pairs" / str(seed), seed, uri) == seed
    make_champion(1, uri)
    follow = {"pair": f"models:/{NAME}@champion", "tracking_uri": uri, "adapters": {"every": 0.5}}
    service = Tree(tmp_path / "service", {**CONFIG, **follow})
    service.start()
    yield service
    service.stop()


class Promotions(threading.Thread):
    """Makes versions 2 and 3 champion after a third and two thirds of `seconds`; when, and when it was noticed."""

    def __init__(self, service: Tree, uri: str, seconds: float) -> None:
        super().__init__(daemon=True)
        self.service, self.uri, self.seconds = service, uri, seconds
        self.moved: dict[int, float] = {}
        self.taken: dict[int, float] = {}

    def run(self) -> None:
        began = time.monotonic()
        with self.service.client() as http:
            for version in (2, 3):
                time.sleep(max(0.0, began + (version - 1) * self.seconds / 3 - time.monotonic()))
                self.moved[version] = time.monotonic()
                make_champion(version, self.uri)
                until(lambda: str(version) == live(http), 60)  # noqa: B023  called at once
                self.taken[version] = time.monotonic()

    def possible(self, one: Asked) -> set[int]:
        """The versions that may have been live while a request was under way."""
        first = max([1, *(version for version, at in self.taken.items() if at <= one.sent)])
        last = max([1, *(version for version, at in self.moved.items() if at <= one.answered)])
        return set(range(first, last + 1))


def live(http: Any) -> str:
    """The number of the version that serves."""
    return str(http.post("/stats", json={}).json()["adapters"]["current"]).rpartition("/")[2]


def test_load_with_two_promotions(service: Tree, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with service.client() as http:  # what is loaded at a first request is not memory that grows
        warm = submit(http, 10_000).json()["id"]
        until(lambda: http.get(f"/v1/videos/{warm}").json()["status"] == "completed")
    load, promotions = Load(service, REQUESTS, CLIENTS, SECONDS), Promotions(service, uri, SECONDS)
    pids = {name: pid for name, pid in service.pids().items() if name in (HTTP, WORKER)}
    before = {name: held(pid) for name, pid in pids.items()}
    with Meter(lambda: pids) as meter:
        promotions.start()
        load.run()
        promotions.join()
    took = time.monotonic() - load.began
    until(lambda: all(row.values["state"] not in ("queued", "in_progress") for row in rows(service).values()), 60)

    assert not [(one.number, one.kind, one.trouble) for one in load.asked if one.trouble]
    assert len(load.asked) == REQUESTS
    assert {one.status for one in load.asked if one.kind == "bad"} == {400}
    assert {one.status for one in load.asked if one.kind != "bad"} == {200}
    made = [one for one in load.asked if one.ended]
    assert {one.ended["status"] for one in made if one.kind != "cancel"} == {"completed"}
    assert {one.ended["error"]["code"] for one in made if one.ended["status"] == "failed"} <= {"cancelled"}
    check_versions(load.asked, promotions, uri)
    check_nothing_left(service, load.asked)
    check_flat(meter, service, before)
    check_remade(service, load.asked)
    check_metrics(service)
    late = {version: promotions.taken[version] - promotions.moved[version] for version in promotions.moved}
    assert max(late.values()) < NOTICED
    waits = sorted(one.answered - one.sent for one in load.asked if one.kind != "bad")
    memory = {name: " to ".join(f"{rss / 1e6:.0f}" for rss in meter.thirds(name)) for name in pids}
    told = (
        f"{REQUESTS} requests by {CLIENTS} clients, the last after {load.asked[-1].sent - load.began:.0f} s, all done "
        f"after {took:.0f} s ({in_words(one.kind for one in load.asked)}): none failed that should not. Version of the "
        f"videos: {in_words(one.accepted['version']['version'] for one in made)}; promotions were taken after "
        f"{' and '.join(f'{value:.1f} s' for value in late.values())}. Accepted in {1000 * waits[len(waits) // 2]:.0f} "
        f"ms, 95% within {1000 * waits[int(0.95 * len(waits))]:.0f} ms. Resident memory, first to last third: HTTP "
        f"{memory[HTTP]} MB, engine {memory[WORKER]} MB."
    )
    tell("load", told, capsys)


def in_words(names: Iterable[object]) -> str:
    """`8 wait, 3 named`."""
    return ", ".join(f"{count} × {name}" for name, count in Counter(names).most_common())


def check_versions(asked: list[Asked], promotions: Promotions, uri: str) -> None:
    """Accepted with a version that was live then, or the one named; job and mp4 say the same to the end."""
    client = connect(uri)
    registered = {number: checksums(client.get_model_version(NAME, str(number))) for number in (1, 2, 3)}
    for one in asked:
        if not one.accepted:
            continue
        version = one.accepted["version"]
        number = version["version"]
        expected = {"named": {1}, "base": {0}}.get(one.kind, promotions.possible(one))
        assert number in expected, (one.number, one.kind, number, expected)
        assert version["checksums"] == registered.get(number, {})
        if one.ended:
            assert one.ended["version"] == version
        if one.video is not None:
            said = check_video(one.video)
            assert said["version"] == (f"models:/{NAME}/{number}" if number else "base")
            assert said["request"]["seed"] == one.number
            weights = {sum_ for name, sum_ in version["checksums"].items() if name.endswith(".safetensors")}
            pair = said["versions"]["pair"] or {}
            assert weights == {value for name, value in pair.items() if name.startswith("sha256")}


def check_nothing_left(service: Tree, asked: list[Asked]) -> None:
    """Deleted jobs have no folder, completed ones neither pictures nor stages, and no file is half written."""
    found = rows(service)
    kept = {job for job, row in found.items() if row.values["deleted_at"] is None}
    made = {job for job in kept if found[job].values["state"] == "completed"}
    deleted = {one.accepted["id"] for one in asked if one.kind == "delete"}
    until(lambda: {path.name for path in service.jobs_folder.iterdir()} == kept, 30)
    assert not kept & deleted
    for job in made:
        assert {path.name for path in (service.jobs_folder / job).iterdir()} == {"video.mp4", "finished.json"}


def check_flat(meter: Meter, service: Tree, before: dict[str, Held]) -> None:
    """Memory does not grow with the requests; threads and open files go when the clients have."""
    for name, pid in service.pids().items():
        if name not in before:
            continue
        first, last = meter.thirds(name)
        assert last <= FLAT * first + SLACK, (name, first, last)
        until(lambda: held(pid).files <= before[name].files + POOLED, 30)  # noqa: B023  called at once
        assert held(pid).threads <= before[name].threads + CLIENTS  # the pool grows to as many as ask at once


def check_metrics(service: Tree) -> None:
    """Nothing is counted by job, nor by a path that a stranger makes up."""
    with service.client() as http:
        for number in range(20):
            assert http.get(f"/guess/{number}").status_code == 404
        lines = http.get("/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("bentoml_service_request_total")]
    assert any('endpoint="/v1/videos/{video_id}"' in line for line in counted)
    assert sum('endpoint="other"' in line for line in counted) == 1
    assert not [line for line in lines if re.search("video_[0-9a-f]{24}|guess", line)]


def check_remade(service: Tree, asked: list[Asked]) -> None:
    """What a job says of its version is what its frames show: one of each again, by name, is the same to the byte."""
    samples = {one.accepted["version"]["version"]: one for one in asked if one.video is not None and one.kind == "wait"}
    assert set(samples) == {1, 2, 3}
    with service.client() as http:
        for number, one in samples.items():
            assert one.video is not None
            again, other = (made(http, one.number, f"{NAME}/{named}") for named in (number, number % 3 + 1))
            assert again == one.video.read_bytes()
            assert other != again


def made(http: httpx.Client, number: int, pair: str) -> bytes:
    """The mp4 of request `number` by the version named."""
    job = submit(http, number, pair=pair).json()["id"]
    until(lambda: http.get(f"/v1/videos/{job}").json()["status"] == "completed")
    return http.get(f"/v1/videos/{job}/content").raise_for_status().content
