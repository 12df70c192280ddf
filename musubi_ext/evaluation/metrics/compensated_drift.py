"""How far the subject wanders over the ground, the camera's motion taken out."""

from __future__ import annotations

import numpy as np

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.metrics.subject_drift import sighted
from musubi_ext.evaluation.result import Reading, UnavailableError
from musubi_ext.evaluation.wander import wander


@metric(
    "subject_drift_compensated",
    unit="px",
    better=Better.LOWER,
    range=(0, None),
    source="deviation over 16 frames of the subject's place against where it would be had it stood still on the ground",
    backend=OPENCV,
)
def subject_drift_compensated(clip: Clip) -> Reading:
    """sqrt(std(wx)² + std(wy)²) of `wander`, which defines it: near 0 for a subject that stands still on its ground.

    Unavailable below 90% mask coverage, with one frame, when the subject's base is out of the picture, and when the
    ground around it has too little texture to tell how the camera moves (rendered clips of the plain look).
    """
    if clip.shape[0] < 2:
        raise UnavailableError("motion needs two frames, the clip has one")
    sighted(clip.masks[clip.samples])
    path = wander(clip.gray, clip.masks, clip.samples)
    return Reading(float(np.sqrt((path.std(axis=0) ** 2).sum())), len(path))
