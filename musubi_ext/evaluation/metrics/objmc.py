"""Object motion control: how far objects are from where they were asked to be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.asked import AskedObject
from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics.registry import OPENCV, Better, metric
from musubi_ext.evaluation.object_path import follow_point
from musubi_ext.evaluation.per_clip import once
from musubi_ext.evaluation.result import Reading, UnavailableError

COVERAGE = 0.9  # of what was asked; below it an object that dissolves would count only where it is still right
SOURCE = (
    "ObjMC (MotionCtrl; DragAnything, utils/Eval_ObjMC/ObjMC.py; PoseTraj): mean distance of asked and tracked point "
    "over all objects and frames; tracked by corners, without weights, where they take ParticleSfM or CoTracker"
)

Doubles = NDArray[np.float64]


def distances(gray: NDArray[np.uint8], objects: tuple[AskedObject, ...]) -> Doubles:
    """Pixels (N, F) between where each object was asked to be and where it is; NaN where it was not found.

    `gray` (F, H, W); paths (F, 2) as `Asked.fitted` gives them. The point followed is where the path begins, so that
    the first frame counts 0, as it does in theirs. Infinite where nothing is asked: hidden, or on its way out of the
    picture. Raises UnavailableError for an object that does not begin in the picture.
    """
    height, width = gray.shape[1:]
    away = np.full((len(objects), len(gray)), np.inf)
    for row, one in zip(away, objects, strict=True):
        asked = _inside(one, np.array([width - 1.0, height - 1.0]))
        if not asked[0]:
            start = "hidden" if np.isnan(one.path[0]).any() else f"at {np.round(one.path[0]).astype(int).tolist()}"
            raise UnavailableError(f"object {one.name!r} begins {start}, not in the picture of {width}x{height}")
        found = follow_point(gray, one.path[0], one.box)
        row[asked] = np.linalg.norm(found - one.path, axis=1)[asked]
    return away


def _inside(one: AskedObject, last: Doubles) -> NDArray[np.bool_]:
    """Frames (F,) in which the point is to be in the picture, and no nearer to its edge than a quarter of its box.

    Nearer, too little of the object is left to be found; one that begins nearer may stay so.
    """
    quarter = np.zeros(2) if one.box is None else (np.array(one.box[2:]) - one.box[:2]) / 4
    margin = np.clip(np.minimum(one.path[0], last - one.path[0]), 0, quarter)
    with np.errstate(invalid="ignore"):
        return np.asarray(((one.path >= margin) & (one.path <= last - margin)).all(axis=1))


@once
def _distances(clip: Clip) -> Doubles:
    if not clip.asked.objects:
        raise UnavailableError("no object was asked to move")
    count, height, width, _ = clip.shape
    return distances(clip.gray, clip.asked.fitted(count, (width, height), clip.fps).objects)


def _coverage(away: Doubles) -> float:
    return float(np.isfinite(away).sum() / (~np.isinf(away)).sum())


@metric("objmc", unit="px", better=Better.LOWER, range=(0, None), source=SOURCE, backend=OPENCV)
def objmc(clip: Clip) -> Reading:
    """Mean over objects and frames, pooled; unavailable where less than 90% of what was asked could be followed."""
    away = _distances(clip)
    if _coverage(away) < COVERAGE:
        raise UnavailableError(f"objects were followed in {_coverage(away):.0%} of the frames asked for, below 90%")
    return Reading(float(away[np.isfinite(away)].mean()), int(np.isfinite(away).any(axis=0).sum()))


@metric(
    "objmc_coverage",
    unit="fraction",
    better=Better.REPORT,
    range=(0, 1),
    source="share of what `objmc` was asked for in which the object was found",
    backend=OPENCV,
)
def objmc_coverage(clip: Clip) -> Reading:
    """Over objects and frames in which the object was asked to be in the picture."""
    away = _distances(clip)
    return Reading(_coverage(away), int((~np.isinf(away)).any(axis=0).sum()))
