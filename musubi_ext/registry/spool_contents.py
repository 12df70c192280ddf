"""What the events of a spool come to: who wrote them, which runs are open, how much is delivered."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musubi_ext.registry.events import LOCAL, Event


@dataclass
class Contents:
    """What a spool's events come to, read from the start."""

    session: dict[str, Any] = field(default_factory=dict)  # of the last process: pid, uri, experiment, …
    sessions: int = 0
    ended: bool = False  # the last process closed its runs
    resumed: bool = False  # the session that the first undelivered event belongs to repeats steps
    open_runs: list[str] = field(default_factory=list)
    first_time: int = 0  # Unix milliseconds
    last_time: int = 0
    events: int = 0
    delivered: int = 0
    damaged: int = 0
    size: int = 0  # bytes up to the end of the last whole line

    def left_open(self) -> list[str]:
        """Runs that a process which died did not close."""
        return [] if self.ended else self.open_runs

    def deaths(self) -> list[Event]:
        """What such a process could not say: that these runs were killed, unless somebody has ended them since."""
        content = {"status": "KILLED", "if_running": True}
        return [Event(run, "status", content, time=self.last_time) for run in self.left_open()]


def read_contents(path: Path, offset: int) -> Contents:
    """What the events in the file `path` come to; those before `offset` count as delivered."""
    found = Contents()
    statuses: dict[str, str] = {}
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            start, found.size = found.size, found.size + len(line)
            event = Event.read(line)
            if event is None:
                found.damaged += 1
                continue
            _count(found, statuses, event, start < offset)
    found.open_runs = [run for run, status in statuses.items() if status == "RUNNING"]
    return found


def _count(found: Contents, statuses: dict[str, str], event: Event, delivered: bool) -> None:
    found.first_time = found.first_time or event.time
    found.last_time = max(found.last_time, event.time)
    if event.kind == "session":
        found.session, found.ended = event.content, False
        found.sessions += 1
        found.resumed = event.content["resumed"] if delivered else found.resumed
        if not event.content["attached"]:
            statuses[event.run] = "RUNNING"
    elif event.kind == "end":
        found.ended = True
    elif event.kind == "run" and event.run != found.session.get("key"):
        statuses[event.run] = "RUNNING"
    elif event.kind == "status":
        statuses[event.run] = event.content["status"]
    if event.kind not in LOCAL:
        found.events += 1
        found.delivered += delivered
