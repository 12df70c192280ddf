"""SIGKILL of the whole service at any moment: bentoml's parent, its HTTP worker, the process with the engine.

Every job that a client was told of ends once, with a whole video or a reason, and no finished stage is computed again.
MUSUBI_EXT_TORTURE=20 kills twenty times under forty jobs; the default is three under six, one kill of each kind.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from figures import tell
from serving_tree import CONFIG, ENDS, HTTP, PARENT, WORKER, Row, Tree, check_video, rows, submit, until

from serving.making.stages import STAGES, StageRecord

pytest.importorskip("bentoml", reason="bentoml is not installed")
KILLS = int(os.environ.get("MUSUBI_EXT_TORTURE", "3"))
SEED = int(os.environ.get("MUSUBI_EXT_TORTURE_SEED", "7"))
STEPS = 100  # a job of some seconds: a kill finds it at work


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Tree]:
    service = Tree(tmp_path, {**CONFIG, "jobs": {"retries": 10}})  # none fails for having been killed too often
    yield service
    service.stop()
    until(lambda: not service.listens(), 30)


class Client(threading.Thread):
    """Submits `count` jobs under its own keys, again and again until each was accepted; cancels every tenth.

    `more` is released for every job that it may go on to.
    """

    def __init__(self, service: Tree, count: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.service, self.count, self.rng = service, count, random.Random(seed)
        self.accepted: dict[str, set[str]] = {}  # key → ids that the service named
        self.cancelled: set[str] = set()
        self.unanswered = 0
        self.more = threading.Semaphore(0)

    def run(self) -> None:
        for number in range(self.count):
            self.more.acquire()
            key = f"job-{number}"
            job = self._asked(lambda key=key, number=number: self._submit(key, number))
            if number % 10 == 5:
                self._asked(lambda job=job: self._cancel(job))
            time.sleep(self.rng.uniform(0.0, 1.0))

    def _submit(self, key: str, number: int) -> str:
        with self.service.client() as http:
            answer = submit(http, number, key, num_inference_steps=STEPS)
        answer.raise_for_status()
        self.accepted.setdefault(key, set()).add(answer.json()["id"])
        return str(answer.json()["id"])

    def _cancel(self, job: str) -> None:
        with self.service.client() as http:
            http.post(f"/v1/videos/{job}/cancel").raise_for_status()
        self.cancelled.add(job)

    def _asked(self, ask: Any) -> Any:
        while True:
            try:
                return ask()
            except httpx.HTTPError:  # killed meanwhile: the same key again
                self.unanswered += 1
                time.sleep(0.2)


def stages_on_disk(service: Tree) -> dict[tuple[str, int, str], float]:
    """(job, candidate, stage) → the seconds it took, of every finished stage that lies in a job's folder now."""
    import json

    from safetensors import SafetensorError, safe_open

    found = {}
    for path in service.jobs_folder.glob("*/stages/*.safetensors"):
        try:
            with safe_open(path, framework="np") as file:
                record = StageRecord(**json.loads(file.metadata()["record"]))
        except (FileNotFoundError, SafetensorError):
            continue  # taken away by the stage behind it, just now
        found[path.parents[1].name, record.candidate, record.stage] = record.seconds
    return found


def working(service: Tree, since: float) -> bool:
    """Whether a job has made progress since then; one that waits for its worker's successor has not."""
    return any(
        row.values["state"] == "in_progress" and row.values["updated_at"] > since for row in rows(service).values()
    )


def kill(service: Tree, role: str, rng: random.Random) -> None:
    """Kill at a moment nobody chose; a parent is started again, the others come back by themselves."""
    until(lambda: role in service.pids())
    time.sleep(rng.uniform(0.0, 2.0))
    service.kill(role)
    if role == PARENT:
        until(lambda: not service.listens(), 30)
        service.spawn()


def test_kills_of_parent_http_worker_and_engine(service: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(SEED)
    roles = [WORKER, HTTP, PARENT] + [rng.choice([WORKER, HTTP, PARENT]) for _ in range(KILLS - 3)]
    service.start()
    client = Client(service, 2 * KILLS, SEED)
    client.start()
    client.more.release(KILLS)
    finished: list[dict[tuple[str, int, str], float]] = []
    killed_at = 0.0
    for number, role in enumerate(roles):
        client.more.release()
        if number % 4:  # three in four while a job runs, the others also while the service is only just starting
            until(service.ready)
            until(lambda: working(service, killed_at), 60, 0.1)  # noqa: B023  called at once
        kill(service, role, rng)
        killed_at = time.time()
        finished.append(stages_on_disk(service))
    client.join(240)
    assert not client.is_alive()
    found = until(lambda: all_ended(service), 240, 1.0)
    until(service.ready)

    assert len(found) == 2 * KILLS == len(client.accepted)
    assert {job for ids in client.accepted.values() for job in ids} == set(found)  # one job a key, and no other
    wrong = {job: row.history for job, row in found.items() if len(row.ends) != 1 or row.values["state"] != row.ends[0]}
    assert not wrong
    assert all(row.values["error"]["code"] for row in found.values() if row.values["state"] != "completed")
    assert {job for job, row in found.items() if row.values["state"] == "cancelled"} <= client.cancelled
    states = Counter(row.values["state"] for row in found.values())
    assert not states["failed"], [row.values["error"] for row in found.values() if row.values["state"] == "failed"]
    with service.client() as http:
        for job, row in found.items():
            if row.values["state"] == "completed":
                path = service.folder / f"{job}.mp4"
                path.write_bytes(http.get(f"/v1/videos/{job}/content").raise_for_status().content)
                assert check_video(path)["request"]["prompt"] == "a red car"
                assert sum(stage["stage"] == "evaluate" for stage in row.values["result"]["stages"]) == 1
                assert not (service.jobs_folder / job / "stages").exists()
    kept = check_not_repeated(found, finished)
    told = (
        f"{KILLS} kills ({in_words(Counter(roles))}); {len(found)} of {2 * KILLS} jobs ended, each once: "
        f"{in_words(states)}. {sum(row.values['attempt'] > 1 for row in found.values())} were interrupted at work; "
        f"{kept} finished stages lay there at a kill, none was computed again. {client.unanswered} requests got no "
        "answer and were sent again."
    )
    tell("kills", told, capsys)


def in_words(counted: Counter[str]) -> str:
    """`9 worker, 6 http`."""
    return ", ".join(f"{count} {name}" for name, count in counted.most_common())


def all_ended(service: Tree) -> dict[str, Row] | None:
    """Every job, once none waits or runs any more."""
    found = rows(service)
    return found if all(row.values["state"] in ENDS for row in found.values()) else None


def check_not_repeated(found: Any, finished: list[dict[tuple[str, int, str], float]]) -> int:
    """Each stage that lay there at a kill is in its job's record with the very seconds it took then; how many."""
    seen = {key: seconds for snapshot in reversed(finished) for key, seconds in snapshot.items()}
    count = 0
    for (job, candidate, stage), seconds in seen.items():
        if found[job].values["state"] != "completed":
            continue
        records = [StageRecord(**record) for record in found[job].values["result"]["stages"]]
        mine = {record.stage: record for record in records if record.candidate == candidate}
        if stage not in mine:  # a later stage was there already: this one was not needed any more
            later = STAGES[STAGES.index(stage) + 1 :]
            assert any(mine[name].resumed for name in later if name in mine), (job, stage, records)
            continue
        assert mine[stage].seconds == seconds, (job, stage, seconds, records)
        count += 1
    return count
