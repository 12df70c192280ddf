"""One thing that is told about a run, and the line of a spool that keeps it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "session", "end", "run", "finished", "metrics", "params", "tags", "artifact", "text", "dataset", "status"
]
_TOGETHER = 500  # events; sending them again after a failure costs little
LOCAL: frozenset[str] = frozenset({"session", "end"})  # for whoever reads the spool; nothing is sent


@dataclass(frozen=True, slots=True)
class Event:
    """`content` is a flat JSON object whose meaning depends on `kind`; `time` is Unix time in milliseconds.

    `run` is our own key of the run, which exists before any store has been asked: `Spool.runs` says which id it has
    there. The time is taken when the event happens, so that an event that is sent twice is the same both times.
    """

    run: str
    kind: Kind
    content: dict[str, Any]
    step: int = 0
    time: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def line(self, **more: Any) -> bytes:
        """Strict JSON and a newline. NaN and infinity, which JSON lacks, are the text that float() reads back."""
        content = {key: _finite(value) for key, value in self.content.items()}
        record = {"run": self.run, "kind": self.kind, "step": self.step, "time": self.time, "content": content}
        return json.dumps({**record, **more}, allow_nan=False, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Event | None:
        """The event of a line; None for a line that is damaged, as a power cut leaves them."""
        try:
            record = json.loads(line)
            return cls(record["run"], record["kind"], record["content"], int(record["step"]), int(record["time"]))
        except (ValueError, KeyError, TypeError):
            return None


@dataclass
class Stretch:
    """Neighbouring lines of a spool that are sent together: metrics of any runs, or one event of another kind."""

    events: list[Event]
    start: int  # offset of the first line, bytes
    end: int  # where the next stretch starts

    def takes(self, event: Event) -> bool:
        """Whether `event`, which comes next, can be sent with these."""
        return 0 < len(self.events) < _TOGETHER and {event.kind, self.events[-1].kind} == {"metrics"}


def stretches(lines: Iterable[tuple[Event | None, int, int]]) -> list[Stretch]:
    """(event, start, end) of consecutive lines → what is sent together, in order. Damaged lines are stepped over."""
    found: list[Stretch] = []
    for event, start, end in lines:
        if found and event is not None and found[-1].takes(event):
            found[-1].events.append(event)
            found[-1].end = end
        else:
            found.append(Stretch([] if event is None else [event], start, end))
    return found


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
