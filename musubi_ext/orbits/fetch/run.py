"""Fetch a data set repository into a folder: what is pinned there, what is asked for, and one fetch at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.orbits.fetch.download import Means, carry_out, disk_sentence
from musubi_ext.orbits.fetch.hub import Patience, Place
from musubi_ext.orbits.fetch.listing import MAIN, list_files, repository_of
from musubi_ext.orbits.fetch.plan import Plan, check_room, make_plan
from musubi_ext.orbits.fetch.record import Record, read_record


class Watch(Protocol):
    """Who looks on. `progress` and `notice` are called from any thread."""

    def found(self, plan: Plan) -> None:
        """What will be done, before it is."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Bytes of the stage "comparing" or "fetching"."""

    def notice(self, text: str) -> None:
        """A line about what is under way."""


@dataclass(frozen=True)
class Request:
    """What to fetch: an alias or OWNER/NAME, into `folder`. `revision` None is what is pinned there, else main."""

    source: str
    folder: Path
    revision: str | None = None
    update: bool = False
    include: tuple[str, ...] = ()
    workers: int = 8
    endpoint: str | None = None  # None: HF_ENDPOINT, or the hub itself
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class Outcome:
    """What was done. `failures` has a sentence for each file that did not come, by path."""

    plan: Plan
    failures: dict[str, str]


def fetch(request: Request, watch: Watch, *, dry_run: bool = False) -> Outcome:
    """Fetch, or with `dry_run` only look. Raises UserError when it cannot begin, or when what failed for one file would
    fail for all; KeyboardInterrupt passes. In each case what came is kept and the same request goes on from there."""
    repository = _checked(request)
    try:
        with nullcontext() if dry_run else locked(request.folder):
            record = read_record(request.folder)
            place = _place(repository, request, record)
            plan = _plan(place, request, record, watch)
            watch.found(plan)
            check_room(request.folder, plan.coming)
            if dry_run:
                return Outcome(plan, {})
            means = Means(
                place,
                request.workers,
                request.patience,
                lambda done, total: watch.progress("fetching", done, total),
                watch.notice,
            )
            return Outcome(plan, carry_out(plan, record, request.folder, means))
    except BrokenPipeError:  # who reads our lines has left: no trouble with the disk
        raise
    except OSError as error:
        raise UserError(disk_sentence(request.folder, error)) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if need be, removed again if nothing came. Raises UserError when another fetch holds it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _hold(descriptor, folder)
        yield
    finally:
        for path in made:
            with suppress(OSError):  # not empty: something came
                path.rmdir()
        os.close(descriptor)


def _hold(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"--to {shown(folder)}: another fetch is writing there (wait for it)") from error


def _checked(request: Request) -> str:
    """The repository. Raises UserError with everything wrong with the request at once."""
    problems = Problems()
    repository = problems.collect(lambda: repository_of(request.source))
    if request.folder.exists() and not request.folder.is_dir():
        problems.add(f"--to {shown(request.folder)}", "expected a folder, found a file", "give another --to")
    if request.revision is not None and not request.revision.strip():
        problems.add("--revision", "expected a branch, a tag or a commit, found nothing")
    if request.workers < 1:
        problems.add(f"--workers {request.workers}", "expected at least 1")
    problems.raise_if_any()
    assert repository is not None  # None has left its problem
    return repository


def _place(repository: str, request: Request, record: Record | None) -> Place:
    """The repository and revision to ask for. Raises UserError when `record` pins the folder to something else."""
    from huggingface_hub import constants

    endpoint = (request.endpoint or constants.ENDPOINT).rstrip("/")
    if record is None:
        return Place(endpoint, repository, request.revision or MAIN)
    where, pinned = shown(request.folder), record.listing
    if pinned.repository != repository:
        raise UserError(f"{where}: holds {pinned.repository}, not {repository} (give another --to)")
    asked = request.revision or pinned.revision
    if not request.update and asked not in (pinned.revision, pinned.commit):
        raise UserError(
            f"{where}: is pinned to {pinned.revision} at commit {pinned.commit}, --revision {shown(asked)} is another "
            "(add --update to move it there, or give another --to)"
        )
    return Place(endpoint, repository, asked)


def _plan(place: Place, request: Request, record: Record | None, watch: Watch) -> Plan:
    """A pinned folder is compared with its own record: the hub is asked for what is missing only."""
    pinned = record is not None and not request.update
    listing = record.listing if record and pinned else list_files(place, request.patience, watch.notice)
    return make_plan(
        request.folder,
        listing,
        record,
        request.include,
        request.workers,
        lambda done, total: watch.progress("comparing", done, total),
    )
