"""The processes that share one caching run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

LONGEST = timedelta(days=30)  # a process that has ended waits for the others, however long they decode


class Processes(Protocol):
    """Who shares the work: this process's place, how many there are, and everyone's results in order."""

    index: int
    count: int

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, in order; returns when all have called."""


@dataclass
class Alone:
    """One process."""

    index: int = 0
    count: int = 1

    def gather(self, value: Any) -> list[Any]:
        """The value itself."""
        return [value]


class Accelerated:
    """The processes that `accelerate launch` started, or this one alone; `device` is this one's."""

    def __init__(self, *, cpu: bool) -> None:
        from accelerate import PartialState

        self._state = PartialState(cpu=cpu, timeout=LONGEST)
        self.index: int = self._state.process_index
        self.count: int = self._state.num_processes
        self.device = str(self._state.device)

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, in order."""
        if self.count == 1:
            return [value]
        import torch

        everyone: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(everyone, value)
        return everyone
