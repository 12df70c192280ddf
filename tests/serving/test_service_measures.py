"""Scores of every video, and reasons where there are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from musubi_ext.errors import UserError
from serving.config import Evaluation
from serving.making.measures import CHEAP, LEARNED, measure, values


def disc(frames: int = 17, speed: float = 1.0, side: int = 64) -> np.ndarray:
    """A bright disc on noise, which moves `speed` pixels a frame to the right."""
    ground = np.random.default_rng(0).integers(0, 60, (side, side, 3))
    y, x = np.mgrid[:side, :side]
    video = [ground + 180 * (((x - 20 - speed * t) ** 2 + (y - side / 2) ** 2) < 90)[..., None] for t in range(frames)]
    return np.clip(video, 0, 255).astype(np.uint8)


def test_cheap_metrics_of_a_moving_disc() -> None:
    found = measure(disc(), "a disc, camera circles right to left", Evaluation())
    assert tuple(found) == tuple(name for name in found if name in CHEAP)
    assert set(found) == set(CHEAP)
    assert found["subject_drift"]["masks"] == "flow"
    assert values(found)["subject_drift"] == pytest.approx(4.609772, rel=0.1)  # of a disc that moves 1 px a frame
    assert values(found)["motion_magnitude"] > 0.01
    for result in found.values():
        assert (result["value"] is None) != (result["unavailable"] is None)


def test_learned_metrics_are_asked_for_where_weights_are_and_say_why_not(tmp_path: Any) -> None:
    found = measure(disc(5), "", Evaluation(weights=str(tmp_path)))
    assert {*CHEAP, *LEARNED} == set(found)
    assert all(found[name]["value"] is None and found[name]["unavailable"] for name in LEARNED)


def test_choice_and_switch() -> None:
    assert set(measure(disc(5), "", Evaluation(metrics=("sharpness",)))) == {"sharpness"}
    assert measure(disc(5), "", Evaluation(enabled=False)) == {}
    with pytest.raises(UserError, match="not a metric"):
        measure(disc(5), "", Evaluation(metrics=("nosuch",)))


def test_failing_metric_costs_the_scores_not_the_video(monkeypatch: pytest.MonkeyPatch) -> None:
    from musubi_ext.evaluation.metrics import METRICS

    def fail(_: object) -> None:
        raise ZeroDivisionError("secret/path")

    monkeypatch.setitem(METRICS, "sharpness", replace(METRICS["sharpness"], compute=fail))  # type: ignore[arg-type]
    found = measure(disc(5), "", Evaluation(metrics=("sharpness",)))
    assert found["sharpness"]["unavailable"] == "the evaluation failed: ZeroDivisionError"
