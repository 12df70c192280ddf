"""Medians over scenes with bootstrap intervals, and differences of pairs: what a claim about two models rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A median and its percentile bootstrap interval over `count` scenes."""

    median: float
    low: float
    high: float
    count: int

    def as_dict(self) -> dict[str, float]:
        """Median, low and high, without the count."""
        return {name: value for name, value in asdict(self).items() if name != "count"}


def median_interval(values: Sequence[float], *, seed: int = 0, level: float = LEVEL) -> Interval:
    """Median of finite values and its percentile bootstrap interval (Efron 1979), the same for the same seed.

    One value gives an interval of width 0: look at `count`. Raises ValueError when empty or not finite.
    Written out because scipy.stats.bootstrap refuses single values and renamed its seed argument between releases.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not sample.size or not np.isfinite(sample).all():
        raise ValueError(f"expected finite values, at least one, got {list(values)}")
    draws = np.random.default_rng(seed).integers(0, sample.size, (RESAMPLES, sample.size))
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(np.median(sample[draws], axis=1), [tail, 100 - tail])
    return Interval(float(np.median(sample)), float(low), float(high), int(sample.size))


def paired_difference(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> Interval:
    """Median of after − before, scene by scene, with its interval: negative when `after` is lower."""
    if len(before) != len(after):
        raise ValueError(f"pairs are needed, got {len(before)} and {len(after)} values")
    return median_interval([b - a for a, b in zip(before, after, strict=True)], seed=seed)
