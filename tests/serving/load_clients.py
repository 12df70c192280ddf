"""Clients of a service under load: each asks for videos, waits, cancels, deletes, errs; what happened is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx2 as httpx
from pocket_pairs import NAME
from serving_tree import Tree, submit, until

ENDED = ("completed", "failed")
KINDS = {  # of twenty requests
    "wait": range(0, 8), "stream": range(8, 10), "named": range(10, 13), "alias": range(13, 14), "base": range(14, 15),
    "cancel": range(15, 17), "delete": range(17, 19), "bad": range(19, 20),
}  # fmt: skip
ASKED = {"named": f"{NAME}/1", "alias": f"{NAME}@champion", "base": "none"}


@dataclass
class Asked:
    """One request: when it was sent and answered (monotonic), what it was answered, how it ended."""

    number: int
    kind: str
    sent: float
    answered: float = 0.0
    status: int = 0
    accepted: dict[str, Any] = field(default_factory=dict)
    ended: dict[str, Any] = field(default_factory=dict)
    video: Path | None = None
    trouble: str = ""


def kind(number: int) -> str:
    """What request `number` does; neighbours differ."""
    return next(name for name, of in KINDS.items() if number * 7 % 20 in of)


class Load:
    """`clients` threads send `requests`, spread over `seconds`; each stays with its job until that has ended."""

    def __init__(self, service: Tree, requests: int, clients: int, seconds: float) -> None:
        self.service, self.requests, self.seconds = service, requests, seconds
        self.asked: list[Asked] = []
        self._next, self._lock = count(), threading.Lock()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]

    def run(self) -> None:
        """Returns once every client is done."""
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()

    def _client(self) -> None:
        with self.service.client() as http:
            while (number := next(self._next)) < self.requests:
                time.sleep(max(0.0, self.began + number * self.seconds / self.requests - time.monotonic()))
                one = Asked(number, kind(number), time.monotonic())
                with self._lock:
                    self.asked.append(one)
                try:
                    self._ask(http, one)
                except (httpx.HTTPError, AssertionError, KeyError) as trouble:
                    one.trouble = f"{type(trouble).__name__}: {trouble}"

    def _ask(self, http: httpx.Client, one: Asked) -> None:
        fields = {"pair": ASKED[one.kind]} if one.kind in ASKED else {}
        fields |= {"size": "33x32"} if one.kind == "bad" else {}
        answer = submit(http, one.number, **fields)
        one.answered, one.status = time.monotonic(), answer.status_code
        if one.kind == "bad":
            return
        one.accepted = answer.raise_for_status().json()
        after: Callable[[httpx.Client, Asked, str], None] = getattr(self, f"_{one.kind}", self._wait)
        after(http, one, f"/v1/videos/{one.accepted['id']}")

    def _wait(self, http: httpx.Client, one: Asked, path: str) -> None:
        one.ended = until(lambda: _ended(http, path), 240, 0.25)
        if one.ended["status"] == "completed":
            content = http.get(f"{path}/content").raise_for_status().content
            one.video = self.service.folder / f"{one.number}.mp4"
            one.video.write_bytes(content)

    def _stream(self, http: httpx.Client, one: Asked, path: str) -> None:
        with http.stream("GET", f"{path}/events", timeout=240) as answer:
            names = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
        assert names[-1] in ENDED, names
        self._wait(http, one, path)

    def _cancel(self, http: httpx.Client, one: Asked, path: str) -> None:
        http.post(f"{path}/cancel").raise_for_status()
        self._wait(http, one, path)

    def _delete(self, http: httpx.Client, one: Asked, path: str) -> None:
        http.delete(path).raise_for_status()
        assert http.get(path).status_code == 404


def _ended(http: httpx.Client, path: str) -> dict[str, Any] | None:
    job: dict[str, Any] = http.get(path).raise_for_status().json()
    return job if job["status"] in ENDED else None
