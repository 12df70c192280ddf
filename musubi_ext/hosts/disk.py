"""A disk that is full, or that cannot be written to, said in one sentence wherever a library says it in its own way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

FULL = 1 << 16  # bytes that are left when a write fails for want of space


class DiskError(OSError):
    """A file could not be written; what was written before is whole."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block a failed write is a DiskError that names `path`. Other errors stay what they are."""
    try:
        yield
    except DiskError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _reason(error, path)
        if reason is None:
            raise
        raise DiskError(f"{path}: could not be written: {reason} (files written before are whole)") from error


def _reason(error: Exception, path: Path) -> str | None:
    """What kept the file from being written; None when it was no failed write.

    safetensors and torch raise errors of their own, with the reason in the text or nowhere.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error).lower()
    if any(errno_text in text for errno_text in ("no space left", "file too large", "quota exceeded")):
        return str(error)
    if "file write failed" in text or "inline_container" in text or shutil.disk_usage(path.parent).free < FULL:
        return f"no room, or no permission ({str(error).splitlines()[0]})"
    return None
