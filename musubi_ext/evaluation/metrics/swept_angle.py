"""How far the camera went round the subject, in degrees."""

from __future__ import annotations

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.orbit import swept
from musubi_ext.evaluation.result import Reading

SOURCE = "analysis by synthesis: the subject matched against views of the same scene at known azimuths"


@metric("swept_angle", unit="deg", better=Better.REPORT, range=(None, None), source=SOURCE, backend=OPENCV)
def swept_angle(clip: Clip) -> Reading:
    """Signed, last frame minus first; positive is the caption's "right to left". Ends where the sweep ends."""
    return Reading(swept(clip.subject_azimuth), len(clip.frames))


@metric("swept_angle_error", unit="deg", better=Better.LOWER, range=(0, None), source=SOURCE, backend=OPENCV)
def swept_angle_error(clip: Clip) -> Reading:
    """Absolute difference between the angle swept and the true one."""
    return Reading(abs(swept(clip.subject_azimuth) - swept(clip.truth.azimuth)), len(clip.frames))
