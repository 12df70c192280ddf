"""The table of benchmarks/serving.py: each goal is judged by the figures, and its service is a service."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("bentoml", reason="bentoml is not installed")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
GOOD: dict[str, Any] = {
    "machine": "a machine",
    "rounds": 1,
    "cold_start": [9.0],
    "idle_cpu": 0.01,
    "latency": {
        "bare": [1.0], "job": [1.07], "full": [1.2], "scores": [0.1], "previews": [0.03], "encode": [0.02],
        "saved": [0.018],
    },
    "throughput": {"bare": [8.0], "jobs": [8.2]},
    "submit": {"idle": [0.01] * 20, "1280x720 JPEG": [0.03], "busy": [0.02]},
    "promotions": {"swap": [0.02], "first": [0.05]},
}  # fmt: skip


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/serving.py, under a name that is not the package's."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])  # last: there `serving` is this file
    spec = importlib.util.spec_from_file_location("serving_benchmark", BENCHMARKS / "serving.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "serving_benchmark", module)
    spec.loader.exec_module(module)
    return module


def verdicts(serving: ModuleType, found: dict[str, Any]) -> list[bool]:
    return [row.met for row in serving.rows(found) if row.met is not None]


def test_every_goal_is_met_by_good_figures_and_missed_by_bad_ones(serving: ModuleType) -> None:
    assert verdicts(serving, GOOD) == [True] * 7
    worse = [
        ("latency", "job", [1.09]), ("throughput", "jobs", [8.6]), ("latency", "saved", [0.005]),
        ("promotions", "swap", [0.11]), ("submit", "idle", [0.01] * 18 + [0.03] * 2),
    ]  # fmt: skip
    for table, name, values in worse:
        bad = copy.deepcopy(GOOD)
        bad[table][name] = values
        assert verdicts(serving, bad).count(False) == 1, name
    for name, value in (("cold_start", [10.5]), ("idle_cpu", 0.03)):
        assert verdicts(serving, GOOD | {name: value}).count(False) == 1, name
    assert serving.markdown(GOOD).count("| met |") == 7
