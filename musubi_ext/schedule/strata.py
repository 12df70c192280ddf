"""Quantiles that cover (0, 1) evenly: musubi-tuner's `--num_timestep_buckets` (trainer_base.get_bucketed_timestep)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Strata:
    """Draws from each of `count` equal parts of (0, 1) once, in random order, before any part comes again.

    Draws from torch's global generator. Fed to a law's inverse CDF in a range, every part of the range gets its share.
    """

    def __init__(self, count: int) -> None:
        if count < 2:
            raise ValueError(f"expected at least 2 parts, found {count}")
        self.count = count
        self._left: list[int] = []

    def draw(self, n: int) -> Tensor:
        """`n` quantiles: float64 (n,)."""
        return torch.stack([self._one() for _ in range(n)])

    def state(self) -> dict[str, Any]:
        """The parts that are left of this round, for a training that is resumed."""
        return {"left": list(self._left)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        self._left = list(state["left"])

    def _one(self) -> Tensor:
        if not self._left:
            self._left = torch.randperm(self.count).tolist()
        return (self._left.pop() + torch.rand((), dtype=torch.float64)) / self.count
