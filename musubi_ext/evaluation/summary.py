"""From results per scene to the table that a reader sees: one row per model, medians over scenes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from musubi_ext.evaluation.gate import Scenes
from musubi_ext.evaluation.statistics import median_interval

NONE = "-"
LABELS = {
    "truth": "ground truth",
    "vae": "truth through the VAE",
    "frozen": "frozen first frame",
    "base": "base",
    "pair": "base + pair",
}


def aggregate(scenes: Scenes) -> dict[str, Any]:
    """One model's row: medians over the scenes where a metric is available, direction from the subject alone.

    A metric available nowhere is None. `unavailable` names, by metric, how many scenes lack it and why; it is left
    out when nothing is lacking.
    """
    drift = _values(scenes, "subject_drift")
    correct = _values(scenes, "direction_subject_correct")
    row: dict[str, Any] = {
        "subject_drift": median_interval(drift).as_dict() if drift else None,
        "psnr": _median(scenes, "psnr"),
        "direction_accuracy": float(np.mean(correct)) if correct else None,
        "swept_angle_error_deg": _median(scenes, "swept_angle_error"),
        "motion_ratio": _median(scenes, "motion_ratio"),
    }
    lacking = {name: reason for name in MEASURED if (reason := _lacking(scenes, name))}
    return row | ({"unavailable": lacking} if lacking else {})


MEASURED = ("subject_drift", "psnr", "direction_subject_correct", "swept_angle_error", "motion_ratio")


def summarise(models: Mapping[str, Scenes]) -> dict[str, dict[str, Any]]:
    """Rows by model name (truth, vae, frozen, base, pair), for summary.json."""
    return {name: aggregate(scenes) for name, scenes in models.items()}


def table(summary: Mapping[str, Any], *, title: str | None = None) -> Table:
    """The rows of a summary as a rich table; drift also as a multiple of the truth's."""
    drawn = Table(title=title)
    drawn.add_column("")
    for heading in ("drift px", "of truth", "PSNR dB", "direction", "angle error", "motion ratio"):
        drawn.add_column(heading, justify="right")
    true_drift = (summary.get("truth") or {}).get("subject_drift")
    for name, label in LABELS.items():
        if name in summary:
            drawn.add_row(label, *_cells(summary[name], true_drift["median"] if true_drift else None))
    return drawn


def _cells(row: Mapping[str, Any], true_drift: float | None) -> list[str]:
    drift = row["subject_drift"]
    ratio = drift["median"] / true_drift if drift and true_drift else None
    return [
        f"{drift['median']:.2f} \\[{drift['low']:.2f}, {drift['high']:.2f}]" if drift else NONE,
        _cell(ratio, ".2f"),
        _cell(row["psnr"], ".2f"),
        _cell(row["direction_accuracy"], ".2f"),
        _cell(row["swept_angle_error_deg"], ".1f", "°"),
        _cell(row["motion_ratio"], ".2f"),
    ]


def _cell(value: float | None, form: str, unit: str = "") -> str:
    return NONE if value is None else f"{value:{form}}{unit}"


def _values(scenes: Scenes, name: str) -> list[float]:
    found = [results[name].value for results in scenes.values() if name in results]
    return [value for value in found if value is not None]


def _median(scenes: Scenes, name: str) -> float | None:
    values = _values(scenes, name)
    return float(np.median(values)) if values else None


def _lacking(scenes: Scenes, name: str) -> str | None:
    reasons = [r[name].unavailable if name in r else "not measured" for r in scenes.values()]
    missing = [reason for reason in reasons if reason is not None]
    return f"{len(missing)} of {len(reasons)} scenes: {missing[0]}" if missing else None
