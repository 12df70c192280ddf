"""What one training costs in a process of its own: seconds of every step, peaks of the device's and of main memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from resident import high_water

TASK = "i2v-A14B"


@dataclass
class PhaseCost:
    """`seconds` from one update to the next, the first update excluded; bytes at most, 0 of a device that is none."""

    seconds: list[float] = field(default_factory=list)
    device_bytes: int = 0  # allocated at any time, loading included
    device_step_bytes: int = 0  # after the first update
    main_bytes: int = 0
    out_of_memory: bool = False


def phase_cost(words: Sequence[str], log: Path, sizes: Mapping[str, int]) -> PhaseCost:
    """Run a command of `musubi_ext.wan_train_network`; `sizes` replace those of the task's model.

    Raises RuntimeError where the process ended early; its words are in `log`.
    """
    here, there = get_context("spawn").Pipe(duplex=False)
    process = get_context("spawn").Process(target=_train, args=(words, log, dict(sizes), there))
    process.start()
    there.close()
    try:
        cost: PhaseCost = here.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"the training ended with status {process.exitcode}, see {log}") from error
    process.join()
    return cost


def _train(words: Sequence[str], log: Path, sizes: Mapping[str, int], connection: Connection) -> None:
    from rich.console import Console
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from musubi_ext.hosts.musubi.importing import import_host

    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file, redirect_stderr(file), redirect_stdout(file):
        import_host().WAN_CONFIGS[TASK].update(sizes)
        from musubi_ext.wan_train_network import run

        watch = _Watch()
        register_optimizer_step_post_hook(watch)
        try:
            run(words, Console(file=file))
        except torch.OutOfMemoryError:
            watch.cost.out_of_memory = True
        connection.send(watch.ended())


class _Watch:
    """Called after every update of the weights."""

    def __init__(self) -> None:
        self.cost = PhaseCost()
        self._before: float | None = None

    def __call__(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._before is not None:
            self.cost.seconds.append(now - self._before)
        elif torch.cuda.is_available():
            self.cost.device_bytes = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        self._before = now

    def ended(self) -> PhaseCost:
        """With the peaks, after the training."""
        if torch.cuda.is_available():
            self.cost.device_step_bytes = torch.cuda.max_memory_allocated()
            self.cost.device_bytes = max(self.cost.device_bytes, self.cost.device_step_bytes)
        self.cost.main_bytes = high_water()
        return self.cost
