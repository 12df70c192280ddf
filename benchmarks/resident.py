"""Main memory that a process took at most."""

from __future__ import annotations

from pathlib import Path


def high_water(process: int | str = "self") -> int:
    """The highest resident set of a process so far, in bytes (VmHWM, Linux); 0 of one that is ending.

    Not getrusage's ru_maxrss, which a child takes over from the process that started it.
    """
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
