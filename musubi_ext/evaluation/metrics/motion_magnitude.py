"""How fast the whole picture moves, over all frames."""

from __future__ import annotations

import numpy as np

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.result import Reading, UnavailableError


@metric(
    "motion_magnitude",
    unit="px",
    better=Better.REPORT,
    range=(0, None),
    source="Circle-Rotate motion metrics: mean Farnebäck flow magnitude over consecutive frames",
    backend=OPENCV,
)
def motion_magnitude(clip: Clip) -> Reading:
    """Mean over consecutive frames of the mean flow magnitude. A static video has 0 but for the border, see `speed`."""
    count = len(clip.frames)
    if count < 2:
        raise UnavailableError("flow needs two frames, the clip has one")
    return Reading(float(np.mean([float(clip.speed(i, i + 1).mean()) for i in range(count - 1)])), count)
