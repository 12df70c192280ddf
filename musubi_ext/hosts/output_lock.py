"""One training at a time in an output directory: a lock on the directory, gone with the process that holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from musubi_ext.errors import UserError


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold `directory`, made if need be. Raises UserError when another process trains into it."""
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"--output_dir {directory}: another training is writing there (wait for it, or choose another folder)"
        ) from error
    try:
        yield
    finally:
        if made and not any(directory.iterdir()):
            directory.rmdir()
        os.close(descriptor)
