"""How fast the picture, or the subject in it, moves between sixteen sampled frames."""

from __future__ import annotations

import numpy as np

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.metrics.subject_drift import sighted
from musubi_ext.evaluation.result import Reading, UnavailableError

SOURCE = "Circle-Rotate subject_drift.py: Farnebäck flow between 16 sampled frames"


def _pairs(clip: Clip) -> list[tuple[int, int]]:
    if clip.shape[0] < 2:
        raise UnavailableError("flow needs two frames, the clip has one")
    return list(zip(clip.samples[:-1].tolist(), clip.samples[1:].tolist(), strict=True))


@metric("global_flow", unit="px", better=Better.REPORT, range=(0, None), source=SOURCE, backend=OPENCV)
def global_flow(clip: Clip) -> Reading:
    """Mean over the 15 pairs of the mean flow magnitude over the frame."""
    speeds = [float(clip.speed(*pair).mean()) for pair in _pairs(clip)]
    return Reading(float(np.mean(speeds)), len(set(clip.samples.tolist())))


@metric("subject_flow", unit="px", better=Better.REPORT, range=(0, None), source=SOURCE, backend=OPENCV)
def subject_flow(clip: Clip) -> Reading:
    """Mean over the pairs of the mean flow magnitude inside the earlier frame's subject mask."""
    pairs = _pairs(clip)
    frames = len(sighted(clip.masks[clip.samples]))
    speeds = [float(clip.speed(i, j)[clip.masks[i]].mean()) for i, j in pairs if clip.masks[i].any()]
    return Reading(float(np.mean(speeds)), frames)
