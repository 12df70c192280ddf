"""Results in the layout of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from musubi_ext.evaluation.result import ClipResults

# The name in Circle-Rotate's results, and ours: where both have one name they mean different things, so it is a table.
CIRCLE_ROTATE = {
    "subject_flow": "subject_flow",
    "global_flow": "global_flow",
    "drift": "subject_drift",
    "first_last": "clip_i_first_last",
    "global_avg": "clip_i_global_avg",
    "frame_acc": "clip_i_frame_acc",
    "psnr": "psnr_first_last",
    "ssim": "ssim_first_last",
    "lpips": "lpips_first_last",
    "vbench_sc": "vbench_sc_circle_rotate",
    "motion_magnitude": "motion_magnitude",
    "dynamic_degree": "dynamic_degree",
}


def circle_rotate(clips: Mapping[str, ClipResults]) -> dict[str, dict[str, Any]]:
    """Circle-Rotate's flat layout: by clip, its metric names and bare numbers.

    Theirs writes −1, 0, null or infinity where it has no value; here the name is left out, and `unavailable` has it
    with the reason.
    """
    return {clip: _flat(results) for clip, results in clips.items()}


def _flat(results: ClipResults) -> dict[str, Any]:
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for theirs, ours in CIRCLE_ROTATE.items():
        result = results.get(ours)
        if result is None:
            reasons[theirs] = "not measured"
        elif result.value is None:
            reasons[theirs] = str(result.unavailable)
        else:
            values[theirs] = result.value
    return {**values, "unavailable": reasons} if reasons else values
