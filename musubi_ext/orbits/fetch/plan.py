"""What a fetch will do: the commit, the files asked for, which of them the folder has, lacks, or has otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from threading import Event

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.orbits.fetch.listing import Listing, RemoteFile
from musubi_ext.orbits.fetch.record import Record
from musubi_ext.orbits.fetch.transfer import part_of
from musubi_ext.orbits.fetch.workers import in_threads


class State(Enum):
    """A file of the listing, in the folder."""

    WHOLE = "whole"
    MISSING = "missing"
    DIFFERS = "differs"


@dataclass(frozen=True)
class Plan:
    """The files asked for by state, and those of the commit before that the new one lacks."""

    listing: Listing
    files: tuple[RemoteFile, ...]
    whole: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]
    differing: tuple[RemoteFile, ...]  # of those that a fetch wrote: damaged, changed, or of the commit before
    leaving: tuple[RemoteFile, ...]  # written by a fetch and unchanged: they may go
    kept: tuple[RemoteFile, ...]  # changed since: they stay

    @property
    def coming(self) -> tuple[RemoteFile, ...]:
        """What has to be fetched."""
        return self.missing + self.differing


def selected(listing: Listing, include: Sequence[str]) -> tuple[RemoteFile, ...]:
    """The files whose path matches a pattern of `include` (`*` also matches "/"); all when there is none. Raises
    UserError when a pattern matches nothing."""
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # exported lazily

    problems = Problems()
    found: set[RemoteFile] = set()
    for pattern in include:
        matching = list(filter_repo_objects(listing.files, allow_patterns=[pattern], key=lambda file: file.path))
        if not matching:
            some = ", ".join(shown(file.path) for file in listing.files[:3])
            problems.add(
                f"--include {shown(pattern)}", f"matches none of {len(listing.files)} files", f"such as {some}"
            )
        found.update(matching)
    problems.raise_if_any()
    return tuple(file for file in listing.files if file in found) if include else listing.files


def make_plan(
    folder: Path,
    listing: Listing,
    record: Record | None,
    include: Sequence[str],
    workers: int,
    seen: Callable[[int, int], None],
) -> Plan:
    """Compare `folder` with `listing`, every byte; `seen` takes the bytes compared and their total. Raises UserError
    that names every file in the way: not written by a fetch and different, or where the path leads elsewhere."""
    files = selected(listing, include)
    old = _old_files(listing, record)
    problems = Problems()
    going = {file.path for file in old}
    for file in files:
        _check_way(folder, file.path, going, problems)
    problems.raise_if_any()
    states = _states(folder, [*files, *old], workers, seen)
    ours = record.fetched if record else frozenset()
    for file in files:
        if states[file] is State.DIFFERS and file.path not in ours:
            fix = "move it away, or give another --to"
            problems.add(
                shown(folder / file.path), "is there, differs from the repository's, and no fetch wrote it", fix
            )
    problems.raise_if_any()

    def these(some: Sequence[RemoteFile], state: State) -> tuple[RemoteFile, ...]:
        return tuple(file for file in some if states[file] is state)

    split = (these(files, State.WHOLE), these(files, State.MISSING), these(files, State.DIFFERS))
    return Plan(listing, files, *split, these(old, State.WHOLE), these(old, State.DIFFERS))


def check_room(folder: Path, files: Sequence[RemoteFile]) -> None:
    """Raises UserError unless the disk has room for what `files` still lack."""
    parts = (part_of(folder, file) for file in files)
    needed = sum(file.size for file in files) - sum(part.stat().st_size for part in parts if part.is_file())
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{shown(folder)}: {size_text(needed)} are needed, {size_text(free)} are free "
            "(make room, choose a folder on another disk, or name fewer files with --include)"
        )


def size_text(count: int) -> str:
    """Bytes for people, in decimal units: "12.3 GB"."""
    from rich.filesize import decimal

    return decimal(count)


def _old_files(listing: Listing, record: Record | None) -> list[RemoteFile]:
    """What a fetch wrote of another commit and `listing` lacks."""
    now = {file.path for file in listing.files}
    before = record.listing.files if record else ()
    return [file for file in before if record and file.path in record.fetched and file.path not in now]


def _check_way(folder: Path, path: str, going: set[str], problems: Problems) -> None:
    """A problem when a link leads out of `folder`, or a folder stands where a file belongs or the other way round."""
    target = folder / path
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        problems.add(shown(target), "a link on the way leads out of the folder", "remove the link")
    if target.is_dir():
        problems.add(shown(target), "expected a file, found a folder", "move it away, or give another --to")
    for parent in PurePosixPath(path).parents:
        if (folder / parent).is_file() and str(parent) not in going:
            problems.add(shown(folder / parent), f"expected the folder of {shown(path)}, found a file", "move it away")


def _states(
    folder: Path, files: Sequence[RemoteFile], workers: int, seen: Callable[[int, int], None]
) -> dict[RemoteFile, State]:
    states: dict[RemoteFile, State] = {}
    total, done = sum(file.size for file in files), 0
    with closing(in_threads(lambda file: _state(folder, file), files, workers, Event())) as results:
        for file, state in results:
            states[file] = state.result()
            done += file.size
            seen(done, total)
    return states


def _state(folder: Path, file: RemoteFile) -> State:
    try:
        return State.WHOLE if file.is_content_of(folder / file.path) else State.DIFFERS
    except (FileNotFoundError, NotADirectoryError):
        return State.MISSING
