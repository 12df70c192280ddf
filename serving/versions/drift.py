"""The alarm when a version's videos get worse than those that it was promoted with."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from serving.versions.promises import Promise

TOLERANCE = 0.25  # of the promise
LEAST = 5  # videos before a mean says anything


@dataclass(frozen=True)
class Standing:
    """One metric of one version beside its promise: the mean over its last `videos`, and whether the alarm rings."""

    version: str
    metric: str
    mean: float
    promised: float
    videos: int
    ringing: bool

    def __str__(self) -> str:
        name = self.metric.replace("_", " ")
        return f"{name} {self.mean:.3g} over {self.videos} videos, promoted with {self.promised:.3g}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class DriftAlarm:
    """The last `window` videos of each version against what it was promoted with. Not for several threads.

    It rings when the mean is worse than the promise by more than `tolerance` of it, and by more than two standard
    errors of the mean: prompts differ from the suite's, so a difference alone means little. Metrics without a better
    way of their own never ring.
    """

    def __init__(self, window: int, tolerance: float = TOLERANCE, least: int = LEAST) -> None:
        self._window, self._tolerance, self._least = window, tolerance, least
        self._seen: dict[tuple[str, str], deque[Mapping[str, Any]]] = {}
        self._promised: dict[str, Mapping[str, Promise]] = {}

    @property
    def versions(self) -> frozenset[str]:
        """Those that videos were noted of."""
        return frozenset(version for version, _ in self._seen)

    def promise(self, version: str, promised: Mapping[str, Promise]) -> None:
        """What `version` was promoted with; replaces what was known."""
        self._promised[version] = promised

    def add(self, version: str, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Note a video's scores: metric → result."""
        for metric, result in results.items():
            if result.get("value") is not None:
                self._seen.setdefault((version, metric), deque(maxlen=self._window)).append(result)

    def standings(self) -> list[Standing]:
        """Every metric that something was promised of and that enough videos have."""
        found = (self._judge(*key) for key in sorted(self._seen))
        return [standing for standing in found if standing is not None]

    def _judge(self, version: str, metric: str) -> Standing | None:
        from musubi_ext.evaluation.metrics import METRICS, Better

        known, promise = METRICS.get(metric), self._promised.get(version, {}).get(metric)
        if known is None or promise is None or known.better is Better.REPORT:
            return None
        values = [float(result["value"]) for result in self._seen[version, metric] if promise.speaks_of(result)]
        if len(values) < self._least:
            return None
        mean = fmean(values)
        worse = mean - promise.mean if known.better is Better.LOWER else promise.mean - mean
        doubt = 2 * stdev(values) / math.sqrt(len(values))
        ringing = worse > max(self._tolerance * abs(promise.mean), doubt)
        return Standing(version, metric, mean, promise.mean, len(values), ringing)
