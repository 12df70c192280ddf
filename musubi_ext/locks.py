"""One writer at a time in a directory: a lock on the directory itself, gone with the process that holds it.

flock(2) of the directory's own descriptor: a kill leaves nothing behind, and a folder that cannot be written to can be
held as well. On a network file system it holds among the processes of one machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from musubi_ext.errors import UserError

PATIENCE = 1.0  # seconds before `waiting` is told
POLL = 0.05  # seconds between two attempts


@contextlib.contextmanager
def locked(directory: Path, taken: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold `directory`, made if need be and, if made and still empty, removed again.

    Where another process holds it: raises UserError saying `taken`, or, with `waiting`, calls that once and waits.
    Raises UserError also when the directory cannot be made.
    """
    made = not directory.exists()
    descriptor = _hold(directory, taken, waiting)
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it holds something now
                directory.rmdir()
        os.close(descriptor)


def _hold(directory: Path, taken: str, waiting: Callable[[], None] | None) -> int:
    """A descriptor of the locked directory: of the one that stands there now, not of one removed while we waited."""
    while True:
        descriptor = _open(directory)
        try:
            _lock(descriptor, taken, waiting)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(directory)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(directory: Path) -> int:
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            return os.open(directory, os.O_RDONLY)
        except FileNotFoundError:
            continue  # removed in between
        except OSError as error:
            raise UserError(
                f"{directory}: expected a folder to write to, found: {error.strerror} (choose another)"
            ) from error


def _lock(descriptor: int, taken: str, waiting: Callable[[], None] | None) -> None:
    told_at = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if waiting is None:
                raise UserError(taken) from error
        if time.monotonic() >= told_at:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return
        time.sleep(POLL)
