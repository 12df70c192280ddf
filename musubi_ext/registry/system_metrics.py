"""Processor, memory, disk, network and GPUs while a run lasts, by MLflow's own monitors, told like any other metric."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

_PREFIX = "system/"  # where MLflow's page looks for them
_FIRST_SECONDS = 1.0  # a run that is over before the first interval has a sample as well

Told = Callable[[Mapping[str, float], int], None]


class SystemMetrics:
    """Samples every `every` seconds from a thread; the step is whole seconds since `began` (Unix seconds).

    Seconds, not a count: a resumed run goes on without having to know how far it was.
    """

    def __init__(self, told: Told, began: float, every: float) -> None:
        self._told, self._began, self._every = told, began, every
        self._monitors = monitors()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more samples."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        wait = min(_FIRST_SECONDS, self._every)
        while not self._over.wait(wait):
            self._told(sample(self._monitors), round(time.time() - self._began))
            wait = self._every


def monitors() -> list[Any]:
    """Those of MLflow that work on this machine."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # no nvidia-ml-py, or no driver
        found.append(GPUMonitor())
    return found


def sample(monitors: list[Any]) -> dict[str, float]:
    """`system/cpu_utilization_percentage`, `system/gpu_0_utilization_percentage`, …"""
    taken: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        taken |= {_PREFIX + name: float(value) for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return taken
