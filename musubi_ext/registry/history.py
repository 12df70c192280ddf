"""Which points of a metric a run has already, asked of the store where something may have been sent before.

MLflow's SQL stores drop a second copy of (key, step, time, value); other stores keep it. Here no store sees one.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException


class History:
    """Steps and times of the metrics of runs, read once each until `forget`."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._known: dict[tuple[str, str], dict[int, int]] = {}  # (run, metric) → step → latest time

    def forget(self) -> None:
        """Read everything again: a call was lost, or another session begins."""
        self._known.clear()

    def missing(self, run: str, points: Sequence[Metric], *, by_step: bool) -> list[Metric]:
        """Those of `points` that the run lacks.

        A point that the run has at the same step and time, or later, was sent before. With `by_step` one that it has
        at the same step at all: a resumed training repeats steps, with the same numbers at other times.
        """
        return [point for point in points if not self._has(run, point, by_step)]

    def _has(self, run: str, point: Metric, by_step: bool) -> bool:
        latest = self._of(run, point.key).get(point.step)
        return latest is not None and (by_step or latest >= point.timestamp)

    def _of(self, run: str, key: str) -> dict[int, int]:
        if (run, key) not in self._known:
            steps: dict[int, int] = {}
            for point in self._points(run, key):
                steps[point.step] = max(point.timestamp, steps.get(point.step, 0))
            self._known[run, key] = steps
        return self._known[run, key]

    def _points(self, run: str, key: str) -> Sequence[Metric]:
        try:
            return list(self._client.get_metric_history(run, key))
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                raise
            return []  # a key or a run that the store will refuse in its own words
