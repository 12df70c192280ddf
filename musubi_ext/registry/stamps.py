"""A file that was hashed once need not be hashed again while nothing has touched it.

What is compared: device, inode, size, time of modification and time of change (st_ctime, which a program cannot set
back). A file changed twice within one tick of the clock keeps its times through the second change (git's "racy"
entries), so a stamp is taken one tick after the last change, and one that was taken earlier is not trusted.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from musubi_ext.storage import sha256

_TICK = 50_000_000  # ns; the kernel's clock for file times ticks every 1 to 10 ms


def stamp(path: Path) -> dict[str, Any]:
    """Hash the file and note what it looked like, as JSON: `sha256` and the figures above.

    The figures are read first: what changes the file while it is hashed leaves a stamp that no longer fits.
    """
    age = time.time_ns() - _touched(_figures(os.stat(path)))
    if 0 <= age <= _TICK:
        time.sleep((_TICK - age) / 1e9 + 0.001)
    before, taken = _figures(os.stat(path)), time.time_ns()
    return {"sha256": sha256(path), "taken_ns": taken, **before}


def settled(path: Path, noted: Any) -> bool:
    """Whether the file still is what `noted`, from `stamp`, describes. False for anything that is no stamp."""
    if not isinstance(noted, dict):
        return False
    figures = _figures(os.stat(path))
    taken = noted.get("taken_ns")
    if not (isinstance(taken, int) and isinstance(noted.get("sha256"), str)):
        return False
    if any(noted.get(key) != value for key, value in figures.items()):
        return False
    return taken - _touched(figures) > _TICK


def _touched(figures: dict[str, int]) -> int:
    return max(figures["mtime_ns"], figures["ctime_ns"])


def _figures(found: os.stat_result) -> dict[str, int]:
    return {
        "device": found.st_dev,
        "inode": found.st_ino,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }
