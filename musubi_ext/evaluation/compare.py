"""Two models on the same scenes, metric by metric: paired differences with intervals, effect sizes and sign tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from musubi_ext.errors import UserError
from musubi_ext.evaluation.comparable import Pairing, ResultsFile, differing_settings, load, pair_up
from musubi_ext.evaluation.effects import (
    Estimate,
    SignTest,
    centre_of,
    cohens_dz,
    estimate,
    holm,
    rank_biserial,
    sign_test,
)
from musubi_ext.evaluation.metrics import METRICS, Better
from musubi_ext.evaluation.motion_floor import Motion, relative_motion
from musubi_ext.evaluation.result import Result

SCHEMA = "musubi-ext/comparison"
VERSION = 1
MOVES = 0.5  # of the base's motion (or the truth's); a pair below it is credited with nothing that stillness wins

READINGS = {
    "pair": "the pair is better",
    "base": "the base is better",
    "still": "better, but the pair hardly moves",
    "none": "no clear difference",
    "report": "neither way is better",
    "unavailable": "unavailable",
}


@dataclass(frozen=True)
class MetricComparison:
    """One metric over the scenes where both models have it; differences are pair − base, in the metric's unit.

    `base` and `pair` are medians (means for yes-or-no metrics). `lacking`: scene → why it is left out. `d_z` is None
    where all differences are equal. `p_holm` is the sign test's p beside the other metrics'. `reading` is a key of
    READINGS: better where the whole interval lies on that side of 0.
    """

    name: str
    unit: str
    better: Better
    differences: Mapping[str, float]
    lacking: Mapping[str, str]
    base: float | None = None
    pair: float | None = None
    difference: Estimate | None = None
    d_z: float | None = None
    rank_biserial: float | None = None
    signs: SignTest | None = None
    p_holm: float | None = None
    reading: str = "unavailable"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; `p_holm` stands beside the test's own p."""
        return asdict(self) | {"better": self.better.value, "meaning": READINGS[self.reading]}


@dataclass(frozen=True)
class Comparison:
    """Everything compared: `scenes` are labels, `base_results` and `pair_results` their results under these labels."""

    base: ResultsFile
    pair: ResultsFile
    pairing: Pairing
    metrics: tuple[MetricComparison, ...]
    motion: Motion

    @property
    def base_results(self) -> dict[str, Mapping[str, Result]]:
        """The base's results by scene."""
        return {label: self.base.clips[clip] for label, clip in self.pairing.base.items()}

    @property
    def pair_results(self) -> dict[str, Mapping[str, Result]]:
        """The pair's results by scene."""
        return {label: self.pair.clips[clip] for label, clip in self.pairing.pair.items()}

    @property
    def moves(self) -> bool | None:
        """Whether the pair moves enough to be credited; None where no scene says."""
        share = _median_share(self.motion)
        return None if share is None else share >= MOVES

    def as_dict(self) -> dict[str, Any]:
        """The comparison as a JSON document with its inputs' hashes."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "inputs": {"base": self.base.record(), "pair": self.pair.record()},
            "scenes": [{"base": clip, "pair": self.pairing.pair[label]} for label, clip in self.pairing.base.items()],
            "motion": {
                "metric": self.motion.metric,
                "of": self.motion.of,
                "median_share": _median_share(self.motion),
                "frozen": self.motion.frozen,
                "lacking": dict(self.motion.lacking),
            },
            "metrics": [metric.as_dict() for metric in self.metrics],
        }


def compare_files(base: Path | str, pair: Path | str) -> Comparison:
    """Compare two results files. Raises UserError for files that are not results, and as `compare` does."""
    return compare(load(base), load(pair))


def compare(base: ResultsFile, pair: ResultsFile) -> Comparison:
    """Every metric of either file. Raises UserError naming scenes without a partner, or all settings that differ."""
    pairing = pair_up(base, pair)
    if unlike := differing_settings(base, pair, pairing):
        raise UserError([f"not comparable: {sentence}" for sentence in unlike])
    motion = relative_motion(
        {label: base.clips[clip] for label, clip in pairing.base.items()},
        {label: pair.clips[clip] for label, clip in pairing.pair.items()},
    )
    found = [_metric(name, base, pair, pairing) for name in _names(base, pair)]
    adjusted = iter(holm([metric.signs.p for metric in found if metric.signs is not None]))
    complete = [metric if metric.signs is None else replace(metric, p_holm=next(adjusted)) for metric in found]
    share = _median_share(motion)
    read = (replace(metric, reading=_reading(metric, share is None or share >= MOVES)) for metric in complete)
    return Comparison(base, pair, pairing, tuple(read), motion)


def _names(base: ResultsFile, pair: ResultsFile) -> list[str]:
    """Metrics of either file: the registry's order, then the unknown ones."""
    there = {name for file in (base, pair) for of in file.clips.values() for name in of}
    return [name for name in METRICS if name in there] + sorted(there - METRICS.keys())


def _metric(name: str, base: ResultsFile, pair: ResultsFile, pairing: Pairing) -> MetricComparison:
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    lacking: dict[str, str] = {}
    unit = ""
    for label in pairing.base:
        a = base.clips[pairing.base[label]].get(name)
        b = pair.clips[pairing.pair[label]].get(name)
        unit = next((result.unit for result in (a, b) if result is not None), unit)
        if a is not None and b is not None and a.value is not None and b.value is not None:
            before[label], after[label] = a.value, b.value
        else:
            lacking[label] = _reasons(a, b)
    better = METRICS[name].better if name in METRICS else Better.REPORT
    differences = {label: after[label] - before[label] for label in before}
    if not differences:
        return MetricComparison(name, unit, better, {}, lacking)
    values, centre = list(differences.values()), centre_of(unit)
    middle = np.mean if centre == "mean" else np.median
    return MetricComparison(
        name,
        unit,
        better,
        differences,
        lacking,
        float(middle(list(before.values()))),
        float(middle(list(after.values()))),
        estimate(values, centre),
        cohens_dz(values),
        rank_biserial(values),
        sign_test(values),
    )


def _reasons(base: Result | None, pair: Result | None) -> str:
    """Why a scene has no difference: once where both models lack the metric for the same reason."""
    why = {
        who: "not measured" if result is None else str(result.unavailable)
        for who, result in (("base", base), ("pair", pair))
        if result is None or result.value is None
    }
    if len(why) == 2 and why["base"] == why["pair"]:
        return f"both: {why['base']}"
    return "; ".join(f"{who}: {reason}" for who, reason in why.items())


def _reading(metric: MetricComparison, moves: bool) -> str:
    if metric.difference is None:
        return "unavailable"
    if metric.better is Better.REPORT:
        return "report"
    sign = 1 if metric.better is Better.HIGHER else -1
    ends = (sign * metric.difference.low, sign * metric.difference.high)
    if min(ends) > 0:
        return "pair" if moves else "still"
    return "base" if max(ends) < 0 else "none"


def _median_share(motion: Motion) -> float | None:
    return float(np.median(list(motion.shares.values()))) if motion.shares else None
