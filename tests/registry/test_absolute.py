"""MLflow's own validation judges the absolute thresholds again, and what is missing fails there too."""

from __future__ import annotations

import pytest

from musubi_ext.evaluation.gate import decide
from musubi_ext.evaluation.result import Result
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.registry.absolute import CHECK, validated

LIMITS = Thresholds.parse(
    {
        "gate": {"min_scenes": 3},
        "motion": {"metric": "motion_ratio", "min": 0.7},
        "metrics": {
            "psnr": {"min": 18, "max": 40, "min_effect": 0.1},
            "ssim": {"min": 0.2},
            "temporal_flicker": {"max": 5, "required": False},
        },
    }
)


def scenes(**values: float | None) -> dict[str, dict[str, Result]]:
    defaults = {"motion_ratio": 1.0, "psnr": 25.0, "ssim": 0.5}
    found = {
        name: Result(value, "", 17, "64x64", "test", None if value is not None else "it was lost")
        for name, value in (defaults | values).items()
    }
    return {f"scene {index}": found for index in range(3)}


def said(**values: float | None) -> tuple[bool, str]:
    check = validated(decide(scenes(psnr=20.0), scenes(**values), LIMITS)).checks[-1]
    assert check.name == CHECK
    return check.passed, check.message


def test_every_absolute_threshold_is_asked() -> None:
    passed, message = said()
    assert passed
    assert message.endswith("absolute threshold met: motion, psnr.max, psnr.min, scenes, ssim.min")
    assert said(temporal_flicker=4.0)[1].endswith("ssim.min, temporal_flicker.max")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"psnr": 17.0}, "Metric psnr.min value threshold check failed: candidate model psnr.min = 17.0"),
        ({"psnr": 41.0}, "Metric psnr.max value threshold check failed: candidate model psnr.max = 41.0"),
        ({"motion_ratio": 0.3}, "Metric motion value threshold check failed"),
        ({"temporal_flicker": 6.0}, "Metric temporal_flicker.max value threshold check failed"),
        ({"ssim": None}, "metric ssim.min was missing from the evaluation result of the candidate model"),
    ],
)
def test_each_fails_alone(values: dict[str, float | None], reason: str) -> None:
    passed, message = said(**values)
    assert not passed
    assert reason in message
    assert ";" not in message, "one reason"


def test_what_is_lost_is_missing_for_both_bounds() -> None:
    passed, message = said(psnr=None)
    assert not passed
    assert message.count("was missing") == 2
