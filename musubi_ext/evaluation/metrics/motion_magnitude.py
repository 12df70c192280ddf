"""How fast the whole picture moves, over all frames."""

from __future__ import annotations

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.result import Reading
from musubi_ext.evaluation.stream import MEAN_SPEED


@metric(
    "motion_magnitude",
    unit="px",
    better=Better.REPORT,
    range=(0, None),
    source="Circle-Rotate motion metrics: mean Farnebäck flow magnitude over consecutive frames",
    backend=OPENCV,
    pairs=(MEAN_SPEED,),
)
def motion_magnitude(clip: Clip) -> Reading:
    """Mean over consecutive frames of the mean flow magnitude. A static video has 0 but for the border, see `flow`."""
    return Reading(float(clip.over_pairs(MEAN_SPEED).mean()), clip.shape[0])
