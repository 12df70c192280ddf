"""Main memory that a process took at most."""

from __future__ import annotations

import resource
from pathlib import Path


def high_water(process: int | str = "self") -> int:
    """The highest resident set of a process so far, in bytes (VmHWM, Linux); 0 of one that is ending.

    Not getrusage's ru_maxrss, which a child takes over from the process that started it.
    """
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def with_children(process: int) -> int:
    """Resident bytes of a process and all that it started, now (Linux). Pages that they share count for each."""
    total, waiting = 0, [process]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            total += int((folder / "statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
            for task in (folder / "task").iterdir():
                waiting += map(int, (task / "children").read_text(encoding="ascii").split())
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    return total
