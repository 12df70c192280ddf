"""Intervals are seeded and cover; the table's rows come from results and stay valid JSON."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.statistics import median_interval, paired_difference
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.evaluation.summary import aggregate, summarise, table


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12))
def test_the_interval_holds_the_median_and_stays_within_the_data(values: list[float]) -> None:
    interval = median_interval(values)
    assert min(values) <= interval.low <= interval.median <= interval.high <= max(values)
    assert interval.median == np.median(values)
    assert interval == median_interval(values)


def test_the_interval_covers_the_true_median() -> None:
    rng = np.random.default_rng(0)
    hits = [(i := median_interval(rng.normal(2, 1, 24).tolist())).low <= 2 <= i.high for _ in range(60)]
    assert np.mean(hits) >= 0.88


def test_pairs_remove_what_scenes_share() -> None:
    scenes = np.random.default_rng(0).normal(0, 100, 24)
    difference = paired_difference(scenes.tolist(), (scenes - 1).tolist())
    assert (difference.median, difference.low, difference.high) == pytest.approx((-1, -1, -1))
    with pytest.raises(ValueError, match="pairs are needed"):
        paired_difference([1.0], [1.0, 2.0])
    for values in ([], [float("nan")]):
        with pytest.raises(ValueError, match="expected finite values"):
            median_interval(values)


@pytest.fixture(scope="module")
def models(scene, scenes):
    truths = {f"s{n}": scene(n) for n in scenes}
    frozen = {key: np.repeat(t.frames[:1], len(t.frames), axis=0) for key, t in truths.items()}
    return {
        "truth": {key: evaluate(t.frames, truth=t, masks=MaskSource.TRUTH) for key, t in truths.items()},
        "frozen": {key: evaluate(frozen[key], truth=t) for key, t in truths.items()},
        "base": {f"s{n}": evaluate(scene(n, "wild").frames, truth=scene(n)) for n in scenes},
    }


def test_rows_of_the_table(models) -> None:
    summary = json.loads(json.dumps(summarise(models), allow_nan=False))
    keys = {"subject_drift", "psnr", "direction_accuracy", "swept_angle_error_deg", "motion_ratio"}
    for row in summary.values():
        assert set(row) - {"unavailable"} == keys
        assert set(row["subject_drift"]) == {"median", "low", "high"}
    truth, frozen, base = summary["truth"], summary["frozen"], summary["base"]
    assert truth["psnr"] is None
    assert truth["unavailable"] == {"psnr": "8 of 8 scenes: identical frames: PSNR is infinite"}
    assert (truth["direction_accuracy"], truth["motion_ratio"]) == (1, 1)
    assert truth["swept_angle_error_deg"] <= 2
    assert (frozen["direction_accuracy"], frozen["motion_ratio"]) == (0, 0)
    assert frozen["subject_drift"] == {"median": 0, "low": 0, "high": 0}
    assert base["subject_drift"]["median"] > 1.5 * truth["subject_drift"]["median"]
    assert "unavailable" not in base


def test_the_printed_table(models) -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(table(summarise(models), title="Held-out scenes"))
    text = out.getvalue()
    assert "ground truth" in text
    assert "1.00" in text
    assert "[0.00, 0.00]" in text
    assert "base + pair" not in text


def test_nothing_measured_is_none_with_a_reason() -> None:
    row = aggregate({"a": {}})
    assert row["subject_drift"] is None
    assert row["direction_accuracy"] is None
    assert row["unavailable"]["psnr"] == "1 of 1 scenes: not measured"
    Console(file=io.StringIO()).print(table({"base": row}))
