"""How far the view's pan, zoom and roll are from what was asked of the camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.asked import CameraPoses
from musubi_ext.evaluation.camera_path import View, measure_view
from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.per_clip import once
from musubi_ext.evaluation.result import Reading, UnavailableError
from musubi_ext.evaluation.truth import Masks

COVERAGE = 0.9
SOURCE = (
    "camera motion of LightMotion (arXiv 2503.06508) asked against realised, mean over the frames after the first; "
    "view from corners of the background"
)

Doubles = NDArray[np.float64]


def pan_errors(asked: View, realised: View) -> Doubles:
    """Distance (F,) of two pans in pixels of the first frame."""
    return np.asarray(np.linalg.norm(asked.pan - realised.pan, axis=1))


def zoom_errors(asked: View, realised: View) -> Doubles:
    """By what share (F,) the larger zoom exceeds the smaller: 0.1 for 1.1 asked and 1 shown, or the other way."""
    return np.asarray(np.exp(np.abs(np.log(asked.zoom / realised.zoom))) - 1)


def roll_errors(asked: View, realised: View) -> Doubles:
    """Difference (F,) of two rolls in degrees, 0 to 180."""
    return np.asarray(np.abs((asked.roll - realised.roll + 180) % 360 - 180))


def _subject(clip: Clip) -> Masks | None:
    """The subject's masks where there are any; without them the background is what most corners agree on."""
    try:
        return clip.masks
    except UnavailableError:
        return None


@once
def _realised(clip: Clip) -> View:
    return measure_view(clip.gray, _subject(clip))


def _views(clip: Clip) -> tuple[View, View, NDArray[np.bool_]]:
    """Asked, realised, and the frames in which both are known, the first left out: there is nothing to get wrong."""
    camera = clip.asked.camera
    if camera is None:
        raise UnavailableError("no camera move was asked for")
    if isinstance(camera, CameraPoses):
        raise UnavailableError("the camera was asked for by R and T, which are no pan, zoom and roll of the picture")
    count, height, width, _ = clip.shape
    asked = clip.asked.fitted(count, (width, height), clip.fps).view
    assert asked is not None
    wanted = asked.known & (np.arange(count) > 0)
    if not wanted.any():
        raise UnavailableError("a camera's move needs two frames, the clip has one")
    _subject(clip)  # also where the view is known already: results name the masks they rest on
    realised = _realised(clip)
    both = wanted & realised.known
    if both.sum() < COVERAGE * wanted.sum():
        raise UnavailableError(f"the background could be followed in {both.sum()} of {wanted.sum()} frames, below 90%")
    return asked, realised, both


def _mean(errors: Doubles, known: NDArray[np.bool_]) -> Reading:
    return Reading(float(errors[known].mean()), int(known.sum()))


@metric("camera_pan_error", unit="px", better=Better.LOWER, range=(0, None), source=SOURCE, backend=OPENCV)
def camera_pan_error(clip: Clip) -> Reading:
    """Mean distance of the pans, in pixels of the first frame."""
    asked, realised, known = _views(clip)
    return _mean(pan_errors(asked, realised), known)


@metric("camera_zoom_error", unit="fraction", better=Better.LOWER, range=(0, None), source=SOURCE, backend=OPENCV)
def camera_zoom_error(clip: Clip) -> Reading:
    """Mean share by which the larger of the two zooms exceeds the smaller."""
    asked, realised, known = _views(clip)
    return _mean(zoom_errors(asked, realised), known)


@metric("camera_roll_error", unit="deg", better=Better.LOWER, range=(0, 180), source=SOURCE, backend=OPENCV)
def camera_roll_error(clip: Clip) -> Reading:
    """Mean difference of the rolls."""
    asked, realised, known = _views(clip)
    return _mean(roll_errors(asked, realised), known)
