"""Whether the camera circles the way the caption says: seen on the subject alone, and on the whole picture."""

from __future__ import annotations

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.orbit import direction_of
from musubi_ext.evaluation.result import Reading

SOURCE = 'sign of the swept angle, 0 below 5°; +1 is the caption\'s "right to left"'
CORRECT = "1 when the direction is the captioned one, else 0; a clip that does not turn is not correct"
SIGN: tuple[float, float] = (-1, 1)


@metric("direction_subject", unit="sign", better=Better.REPORT, range=SIGN, source=SOURCE, backend=OPENCV)
def direction_subject(clip: Clip) -> Reading:
    """Direction seen on the subject alone: background brightness cannot give it away."""
    return Reading(direction_of(clip.subject_azimuth), len(clip.frames))


@metric("direction", unit="sign", better=Better.REPORT, range=SIGN, source=SOURCE, backend=OPENCV)
def direction(clip: Clip) -> Reading:
    """Direction seen on whole frames, background included."""
    return Reading(direction_of(clip.frame_azimuth), len(clip.frames))


@metric("direction_subject_correct", unit="0/1", better=Better.HIGHER, range=(0, 1), source=CORRECT, backend=OPENCV)
def direction_subject_correct(clip: Clip) -> Reading:
    """Captioned direction, subject alone."""
    return Reading(float(direction_of(clip.subject_azimuth) == clip.truth.direction), len(clip.frames))


@metric("direction_correct", unit="0/1", better=Better.HIGHER, range=(0, 1), source=CORRECT, backend=OPENCV)
def direction_correct(clip: Clip) -> Reading:
    """Captioned direction, whole frames."""
    return Reading(float(direction_of(clip.frame_azimuth) == clip.truth.direction), len(clip.frames))
