"""One training at a time in an output directory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from musubi_ext import locks


def locked(directory: Path) -> AbstractContextManager[None]:
    """Hold `directory`, made if need be. Raises UserError when another process trains into it."""
    taken = f"--output_dir {directory}: another training is writing there (wait for it, or choose another folder)"
    return locks.locked(directory, taken)
