"""What processes hold while they work: memory, threads and open files, looked at again and again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Held:
    """At one moment: resident bytes, threads, open files."""

    rss: int
    threads: int
    files: int


def held(pid: int) -> Held:
    """What a process holds now."""
    place = Path(f"/proc/{pid}")
    threads = next(line for line in (place / "status").read_text().splitlines() if line.startswith("Threads:"))
    return Held(
        int((place / "statm").read_text().split()[1]) * PAGE, int(threads.split()[1]), len(os.listdir(place / "fd"))
    )


class Meter:
    """A thread that looks every half second at what `pids` (name → process) names, between `with` and its end."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self.seen: dict[str, list[Held]] = {}
        self._pids, self._stop = pids, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            for name, pid in self._pids().items():
                with suppress(FileNotFoundError, ProcessLookupError, StopIteration):
                    self.seen.setdefault(name, []).append(held(pid))

    def thirds(self, name: str) -> tuple[float, float]:
        """Median resident bytes in the first and in the last third of the time."""
        values = [one.rss for one in self.seen[name]]
        third = max(1, len(values) // 3)
        return median(values[:third]), median(values[-third:])
