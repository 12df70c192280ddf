"""What dead runs left in their spools, sent; and what lies there, listed."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.registry.drain import Drain, Undelivered
from musubi_ext.registry.events import LOCAL, Event
from musubi_ext.registry.runs import OFFLINE
from musubi_ext.registry.spool import EVENTS, Spool, read_delivered, refused, spools
from musubi_ext.registry.spool_contents import Contents, read_contents
from musubi_ext.registry.store import (
    STORE_ERRORS,
    StoreAway,
    connect,
    first_line,
    no_answer,
    tracking_uri,
    without_password,
)


@dataclass(frozen=True)
class Found:
    """A spool as it lies there. `held`: a process is writing or sending."""

    path: Path
    contents: Contents
    runs: dict[str, str]
    refused: int
    held: bool

    @property
    def key(self) -> str:
        """Ours for the pair's run."""
        return str(self.contents.session.get("key", self.path.name))

    @property
    def run_id(self) -> str:
        """The pair's run in the store, or the id it has until it is there."""
        return self.runs.get(self.key, OFFLINE + self.key)

    @property
    def unsent(self) -> int:
        """Events that no store has."""
        return self.contents.events - self.contents.delivered + self.refused

    @property
    def state(self) -> str:
        """ "running", "ended", or "killed": by whom nobody knows."""
        if self.held:
            return "running"
        return "killed" if self.contents.left_open() else "ended"


@dataclass(frozen=True)
class Replayed:
    """What became of one spool. `left`: events that are still there, with the reason."""

    found: Found
    run_id: str
    sent: int
    left: int
    reason: str | None


def look(folder: Path) -> list[Found]:
    """Every spool at or below `folder`. Raises UserError when there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a spool or a folder of spools, found nothing")
    return [found for path in spools(folder) if (found := _look(path)) is not None]


def waiting(found: Found) -> Counter[str]:
    """How many events of each kind are to be sent, the statuses of a process that died included."""
    counted: Counter[str] = Counter(event.kind for event, _ in refused(found.path))
    with open(found.path / EVENTS, "rb") as file:
        file.seek(read_delivered(found.path)["offset"])
        events = [event for line in file if (event := Event.read(line)) is not None]
    counted.update(event.kind for event in events if event.kind not in LOCAL)
    counted["status"] += 0 if found.held else len(found.contents.left_open())
    return +counted


def replay(found: Found, uri: str | None = None) -> Replayed:
    """Send what is left, to `uri` or where it was meant to go; runs that nobody closed end KILLED, when they died.

    The folder goes away when nothing is left. Raises UserError when the store is another one than the run began in.
    """
    if not (found.path / EVENTS).is_file():
        return Replayed(found, found.run_id, 0, 0, None)  # somebody else has sent it meanwhile
    if _goes_on(found):
        return Replayed(found, found.run_id, 0, found.unsent, "another process goes on with the run")
    spool = Spool.open(found.path)
    if spool is None:
        return Replayed(found, found.run_id, 0, found.unsent, "a process is writing there")
    try:
        target = target_uri(found, uri)
        client = connect(target)
        _check_store(client, found, target)
        before = _close_runs(spool)
        reason = _send(Drain(spool, client, target))
        run_id = spool.runs.get(found.key, found.run_id)
        return Replayed(found, run_id, before - spool.unsent, spool.unsent, reason or spool.why_refused())
    finally:
        spool.close()


def target_uri(found: Found, uri: str | None) -> str:
    """`uri`, else that of the spool; with the password of $MLFLOW_TRACKING_URI where both mean the same store."""
    kept, environment = str(found.contents.session.get("uri", "")), os.environ.get("MLFLOW_TRACKING_URI")
    if uri is not None:
        return tracking_uri(uri)
    if environment and without_password(tracking_uri()) == kept:
        return tracking_uri()
    if not kept or ":***@" in kept:
        raise UserError(f"{found.path}: the password of {kept or 'the store'} is not kept (give --mlflow_tracking_uri)")
    return kept


def _goes_on(found: Found) -> bool:
    """Whether a process that could not have this folder writes into one beside it."""
    beside = found.path.parent.glob(f"{found.key}*")
    others = [_look(path) for path in beside if path != found.path and (path / EVENTS).is_file()]
    return any(other.held for other in others if other is not None)


def _look(path: Path) -> Found | None:
    try:
        kept = read_delivered(path)
        held = Spool.open(path)
        contents = held.contents if held is not None else read_contents(path / EVENTS, kept["offset"])
        number = len(refused(path))
    except FileNotFoundError:  # its owner has just sent the last of it
        return None
    if held is not None:
        held.release()
    return Found(path, contents, dict(kept["runs"]), number, held is None)


def _close_runs(spool: Spool) -> int:
    """Events that are to be sent, among them the statuses that a process which died could not write."""
    contents = spool.contents
    if not contents.ended:
        spool.append([*contents.deaths(), Event(contents.session.get("key", ""), "end", {}, time=contents.last_time)])
        spool.sync()
    return spool.unsent


def _send(drain: Drain) -> str | None:
    """Why not everything could be sent, None when it was."""
    try:
        drain.retry_refused()
        drain.run()
    except Undelivered as error:
        return error.reason
    return None


def _check_store(client: MlflowClient, found: Found, uri: str) -> None:
    known: Any = found.runs.get(found.key)
    if known is None:
        return
    try:
        client.get_run(known)
    except STORE_ERRORS as error:
        if no_answer(error):
            raise StoreAway(f"{without_password(uri)}: {first_line(error)}") from error
        raise UserError(
            f"{found.path}: run {known} began in {found.contents.session['uri']} and is not in {without_password(uri)}"
            f": {first_line(error)} (give the --mlflow_tracking_uri it began in, or delete the folder to forget it)"
        ) from error
