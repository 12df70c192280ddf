"""The folder that holds what one process tells about a pair's runs until a store has it.

    events.jsonl     every event, appended, never changed
    delivered.json   how far they were sent, and which ids our runs have in the store; replaced as a whole
    refused.jsonl    events that the store will not have, each with its reason

Whoever writes or sends holds the folder (`musubi_ext.locks`), which a kill lets go of: a folder that is free and whose
last session has no end was left by a process that died.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

from musubi_ext.errors import UserError
from musubi_ext.locks import locked
from musubi_ext.registry.events import LOCAL, Event
from musubi_ext.registry.runs import OFFLINE
from musubi_ext.registry.spool_contents import Contents, read_contents
from musubi_ext.storage import write_json

SPOOLS = "mlflow_spool"  # in the working directory, unless another folder is named
EVENTS, DELIVERED, REFUSED = "events.jsonl", "delivered.json", "refused.jsonl"
_READ_BYTES = 1 << 20
Line = tuple[Event | None, int, int]  # what it says, where it starts, where it ends


class Spool:
    """One folder, held by this process from `create` or `open` until `close`."""

    def __init__(self, path: Path, hold: ExitStack) -> None:
        self.path = path
        self._hold = hold
        self._file = os.open(path / EVENTS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        kept = read_delivered(path)
        self.offset: int = kept["offset"]
        self.runs: dict[str, str] = kept["runs"]  # our key → id in the store
        self.contents: Contents = read_contents(path / EVENTS, self.offset)
        os.ftruncate(self._file, self.contents.size)  # a line that a dying process did not finish
        self.offset = min(self.offset, self.contents.size)  # after a power cut the acknowledgement may know more
        self.refused = len(refused(path))
        self._size = self.contents.size
        self._session: Event | None = None  # the last that this process wrote

    @classmethod
    def create(cls, root: Path, key: str) -> Spool:
        """The folder of `key` below `root`, with what an earlier process left in it; the next free name if it is held.

        Raises UserError when the folder cannot be written to.
        """
        for number in count(1):
            path = root / (key if number == 1 else f"{key}-{number}")
            if spool := _held(path, f"{path}: another process is writing there"):
                return spool
        raise AssertionError

    @classmethod
    def open(cls, path: Path) -> Spool | None:
        """The spool in the folder `path`; None while another process holds it."""
        return _held(path, f"{path}: another process is writing there")

    def append(self, events: Sequence[Event]) -> None:
        """Write events; but for a power cut they are safe from then on. Raises OSError, and then none of them stays."""
        lines, written = b"".join(event.line() for event in events), 0
        try:
            while written < len(lines):
                written += os.write(self._file, lines[written:])
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(lines)
        self._session = next((event for event in events if event.kind == "session"), self._session)
        self.contents.events += sum(event.kind not in LOCAL for event in events)
        self.contents.ended = events[-1].kind == "end"

    def sync(self) -> None:
        """Have the disk keep what was written."""
        os.fsync(self._file)

    def unread(self) -> list[Line]:
        """The next lines that are not delivered; nothing at the end."""
        data = os.pread(self._file, _READ_BYTES, self.offset)
        while data and b"\n" not in data and self.offset + len(data) < self._size:  # a line longer than a read
            data += os.pread(self._file, _READ_BYTES, self.offset + len(data))
        return _lines(data, self.offset)

    def acknowledge(self, offset: int, events: int) -> None:
        """Remember that the store has everything before `offset`, `events` more than before, and the ids it gave."""
        self.offset = offset
        self.contents.delivered += events
        self.remember()

    def remember(self) -> None:
        """Write the ids and the offset down."""
        write_json(self.path / DELIVERED, {"offset": self.offset, "runs": self.runs})

    def refuse(self, event: Event, reason: str) -> None:
        """Keep one event aside that the store will not have."""
        with open(self.path / REFUSED, "ab") as file:
            file.write(event.line(reason=reason))
            file.flush()
            os.fsync(file.fileno())
        self.refused += 1

    def keep_late(self, event: Event) -> None:
        """Keep an event that comes after `close`. Raises OSError and UserError when that is not possible."""
        assert self._session is not None  # the first event there is
        late = Spool.create(self.path.parent, self.path.name)
        late.runs |= self.runs
        late.remember()
        late.append([self._session, event, Event(event.run, "end", {})])
        late.sync()
        late.close()

    def why_refused(self) -> str | None:
        """The first reason why something was refused."""
        return next((reason for _, reason in refused(self.path)), None)

    def forget_refused(self) -> list[tuple[Event, str]]:
        """Take out what was refused: it is tried again."""
        taken = refused(self.path)
        (self.path / REFUSED).unlink(missing_ok=True)
        self.refused = 0
        return taken

    @property
    def unsent(self) -> int:
        """Events that no store has: not yet delivered, or refused."""
        return self.contents.events - self.contents.delivered + self.refused

    def close(self) -> None:
        """Let go of the folder; it goes away when nothing in it is still to be sent."""
        if self.unsent == 0 and self.contents.ended:
            shutil.rmtree(self.path)
            if self.path.parent.name == SPOOLS:
                with suppress(OSError):  # there are others
                    self.path.parent.rmdir()
        self.release()

    def release(self) -> None:
        """Let go of the folder and leave it as it is."""
        os.close(self._file)
        self._hold.close()


def _held(path: Path, taken: str) -> Spool | None:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, taken))
        except UserError as error:
            if error.problems == (taken,):
                return None
            raise
        return Spool(path, stack.pop_all())


def find(root: Path, run_id: str) -> str | None:
    """The key under which a folder below `root` keeps the run `run_id`; None when there is none."""
    for path in spools(root):
        key = path.name.partition("-")[0]
        if run_id in (key, OFFLINE + key, read_delivered(path)["runs"].get(key)):
            return key
    return None


def spools(folder: Path) -> list[Path]:
    """`folder` itself when it is a spool, else the spools in it or in its `mlflow_spool`, by name."""
    if (folder / EVENTS).is_file():
        return [folder]
    places = [*folder.glob(f"*/{EVENTS}"), *folder.glob(f"{SPOOLS}/*/{EVENTS}")]
    return sorted({place.parent for place in places})


def refused(path: Path) -> list[tuple[Event, str]]:
    """What was refused, with reasons. An event that was refused again after a crash stands there once."""
    if not (path / REFUSED).is_file():
        return []
    lines = dict.fromkeys((path / REFUSED).read_bytes().splitlines())
    return [(event, str(json.loads(line)["reason"])) for line in lines if (event := Event.read(line)) is not None]


def read_delivered(path: Path) -> dict[str, Any]:
    """`offset`, before which everything is in the store, and `runs`, our keys' ids there."""
    try:
        return dict(json.loads((path / DELIVERED).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {"offset": 0, "runs": {}}


def _lines(data: bytes, offset: int) -> list[Line]:
    found: list[Line] = []
    for line in data.split(b"\n")[:-1]:
        found.append((Event.read(line), offset, offset + len(line) + 1))
        offset += len(line) + 1
    return found
