"""What is known of the batches since the last update of the weights: loss, timestep, loss by frequency band."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from torch import Tensor

AVERAGE = 0.98  # decay of the moving average that a progress bar shows


class StepLog:
    """Collects batches; `update` turns them into the numbers of one step."""

    def __init__(self) -> None:
        self.average: float | None = None
        self._losses: list[float] = []
        self._times: list[float] = []
        self._clips = 0
        self._gradient: Tensor | None = None
        self._bands: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._since = time.perf_counter()

    def add(self, loss: float, t: float, bands: Mapping[str, Tensor], clips: int) -> None:
        """Note one batch of `clips`: loss, mean t, loss by band (left on the device until the step is told)."""
        self._losses.append(loss)
        self._clips += clips
        self._times.append(t)
        for name, value in bands.items():
            self._bands[name].append(value)

    def gradient(self, norm: Tensor) -> None:
        """Note the norm of the whole gradient, before it was clipped (left on the device as well)."""
        self._gradient = norm

    def update(self, rate: float) -> dict[str, float]:
        """The step's numbers; `rate` is the learning rate it was made with."""
        loss = fmean(self._losses)
        self.average = loss if self.average is None else AVERAGE * self.average + (1 - AVERAGE) * loss
        bands = {f"band/{name}": fmean(float(value) for value in values) for name, values in self._bands.items()}
        seconds = time.perf_counter() - self._since
        numbers = {"loss": loss, "lr": rate, "timestep/mean": fmean(self._times), **bands}
        numbers |= {"step_seconds": seconds, "seconds_per_clip": seconds / self._clips}
        if self._gradient is not None:
            numbers["gradient_norm"] = float(self._gradient)
        self._losses.clear()
        self._times.clear()
        self._clips, self._gradient = 0, None
        self._bands.clear()
        self.restart()
        return numbers

    def restart(self) -> None:
        """Measure the next step from now: what was done in between is no part of it."""
        self._since = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """What a resumed training needs: between two updates, the average alone."""
        return {"average": self.average}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        self.average = state["average"]
