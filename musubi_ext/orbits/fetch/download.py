"""Carry out a plan: files side by side, one that fails never stops the rest, what stops all of them is said once."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

from musubi_ext.errors import UserError, shown
from musubi_ext.orbits.fetch.hub import HUB_ERRORS, Patience, Place, concerns_all, sentence
from musubi_ext.orbits.fetch.listing import RemoteFile
from musubi_ext.orbits.fetch.paths import PARTS
from musubi_ext.orbits.fetch.plan import Plan
from musubi_ext.orbits.fetch.record import Record
from musubi_ext.orbits.fetch.transfer import DamagedError, StoppedError, Transfer, part_of
from musubi_ext.orbits.fetch.workers import in_threads

SAVED_EVERY = 5.0  # seconds; a killed run forgets no more than this of what it wrote


@dataclass(frozen=True)
class Means:
    """How files are fetched. `progress` takes bytes there and their total, `notice` a line; both from any thread."""

    place: Place
    workers: int
    patience: Patience
    progress: Callable[[int, int], None]
    notice: Callable[[str], None]


def carry_out(plan: Plan, record: Record | None, folder: Path, means: Means) -> dict[str, str]:
    """Bring `folder` to the plan's commit; returns a sentence for each file that did not come, by path. Raises
    UserError when what failed for one file fails for all, OSError when the record cannot be written."""
    for file in plan.leaving:
        _remove(folder, file)
    now = record.moved_to(plan.listing) if record else Record(plan.listing)
    if now != record:
        now.write(folder)  # pinned, before anything comes
    _sweep_parts(folder, set(plan.listing.files).difference(plan.whole))
    failures = _download(plan, now, folder, means) if plan.coming else {}
    with suppress(OSError):  # parts of files that failed, or were not asked for this time
        (folder / PARTS).rmdir()
    return failures


def disk_sentence(folder: Path, error: OSError) -> str:
    """What the disk refused, with the remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{shown(folder)}: the disk is full (make room, then the same command goes on where it stopped)"
    where = shown(error.filename or folder)
    return f"{where}: {error.strerror or error} (make it readable and writable, or give another --to)"


def _download(plan: Plan, record: Record, folder: Path, means: Means) -> dict[str, str]:
    stop, came = Event(), list[str]()
    transfer = _transfer(plan, folder, means, stop, came)
    failures: dict[str, str] = {}
    saved = time.monotonic()
    (folder / PARTS).mkdir(exist_ok=True)
    try:
        with closing(in_threads(transfer.fetch, plan.coming, means.workers, stop)) as results:
            for file, future in results:
                if reason := _failure(future, file, transfer, f"{len(came)} of {len(plan.coming)} files came"):
                    failures[file.path] = reason
                if time.monotonic() - saved > SAVED_EVERY:
                    record.with_fetched(came).write(folder)
                    saved = time.monotonic()
    except UserError as error:
        raise UserError(
            [*(f"{shown(path)}: {reason}" for path, reason in failures.items()), *error.problems]
        ) from error
    finally:
        if came:
            record.with_fetched(came).write(folder)
    return failures


def _failure(future: Future[None], file: RemoteFile, transfer: Transfer, so_far: str) -> str | None:
    """Why this file did not come, None when it did. Raises UserError when no other can come either."""
    try:
        future.result()
    except DamagedError as error:
        return str(error)
    except StoppedError:  # by what befell another file, which comes next
        return None
    except HUB_ERRORS as error:
        if concerns_all(error):
            raise UserError(f"{sentence(error, transfer.place)}; {so_far}") from error
        return sentence(error, transfer.place, file.path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{disk_sentence(transfer.folder, error)}; {so_far}") from error
        return disk_sentence(transfer.folder / file.path, error)
    return None


def _transfer(plan: Plan, folder: Path, means: Means, stop: Event, came: list[str]) -> Transfer:
    """What the threads share. Progress counts what parts already hold."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported lazily

    total = sum(file.size for file in plan.coming)
    done = sum(part.stat().st_size for file in plan.coming if (part := part_of(folder, file)).is_file())
    lock = Lock()
    means.progress(done, total)

    def advance(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            means.progress(done, total)

    place = Place(means.place.endpoint, means.place.repository, plan.listing.commit)
    return Transfer(place, folder, build_hf_headers(), means.patience, stop, advance, means.notice, came)


def _remove(folder: Path, file: RemoteFile) -> None:
    """Remove a file, and the folders that are empty without it."""
    path = folder / file.path
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == folder or any(parent.iterdir()):
            return
        parent.rmdir()


def _sweep_parts(folder: Path, lacking: Iterable[RemoteFile]) -> None:
    """Remove the parts of other commits, of files that are whole, and those longer than what they are named for."""
    sizes = {part_of(folder, file): file.size for file in lacking}
    for part in (folder / PARTS).glob("*.part"):
        if part.stat().st_size > sizes.get(part, -1):
            part.unlink()
