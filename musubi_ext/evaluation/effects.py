"""How large and how sure a paired difference is: mean or median with its interval, effect sizes, the sign test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binomtest, rankdata

from musubi_ext.evaluation.statistics import LEVEL, RESAMPLES, median_interval

Centre = Literal["median", "mean"]


@dataclass(frozen=True)
class Estimate:
    """A mean or median with its 95% percentile bootstrap interval over `count` scenes."""

    centre: Centre
    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class SignTest:
    """How many scenes rose, fell and stayed equal, and the two-sided p of "as many rise as fall" without the equal."""

    rose: int
    fell: int
    equal: int
    p: float


def centre_of(unit: str) -> Centre:
    """The mean for yes-or-no metrics, whose median is 0 or 1 whatever changed in fewer than half; else the median."""
    return "mean" if unit == "0/1" else "median"


def estimate(values: Sequence[float], centre: Centre = "median") -> Estimate:
    """Mean or median of finite values with its interval. Raises ValueError when there are none, or not finite ones."""
    if centre == "median":
        found = median_interval(values)
        return Estimate(centre, found.median, found.low, found.high, found.count)
    sample = np.asarray(values, dtype=np.float64)
    if not sample.size or not np.isfinite(sample).all():
        raise ValueError(f"expected finite values, at least one, got {list(values)}")
    draws = np.random.default_rng(0).integers(0, sample.size, (RESAMPLES, sample.size))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(sample[draws].mean(axis=1), [tail, 100 - tail])
    return Estimate(centre, float(sample.mean()), float(low), float(high), int(sample.size))


def cohens_dz(differences: Sequence[float]) -> float | None:
    """Cohen's d of paired differences, mean / sample deviation (Cohen 1988, p. 48; Lakens 2013, eq. 6).

    None for fewer than two differences, or where all are equal: there is no deviation to measure by.
    """
    sample = np.asarray(differences, dtype=np.float64)
    # Equality first: the deviation of equal numbers is not exactly 0 when their sum rounds.
    if sample.size < 2 or np.all(sample == sample[0]):
        return None
    return float(sample.mean() / sample.std(ddof=1))


def rank_biserial(differences: Sequence[float]) -> float:
    """Matched-pairs rank-biserial correlation, (R₊ − R₋) / (R₊ + R₋) over ranks of |d| ≠ 0 (Kerby 2014).

    1 when every scene rose, −1 when every one fell, 0 without any difference. One outlier counts as one rank only.
    """
    sample = np.asarray(differences, dtype=np.float64)
    sample = sample[sample != 0]
    if not sample.size:
        return 0.0
    ranks = rankdata(np.abs(sample))
    return float((ranks * np.sign(sample)).sum() / ranks.sum())


def sign_test(differences: Sequence[float]) -> SignTest:
    """Exact binomial sign test, two-sided; p = 1 where nothing changed."""
    sample = np.asarray(differences, dtype=np.float64)
    rose, fell = int((sample > 0).sum()), int((sample < 0).sum())
    p = float(binomtest(rose, rose + fell).pvalue) if rose + fell else 1.0
    return SignTest(rose, fell, int(sample.size) - rose - fell, p)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979): p values of several tests, each valid beside the others."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = highest
    return adjusted
