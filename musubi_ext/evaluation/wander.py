"""How far a subject has moved over the ground, in pixels: its place against where it would be had it stood still.

Let H(t) be the homography that takes the ground around the subject from the first frame to frame t (`ground_motion`,
chained), J(t) its derivative at a, and s(t) = sqrt(det J(t)) how much larger things at a have become. With m(t) the
centroid of the subject's mask and a the point of ground below it in the first frame,

    wander(t) = m(t) − [H(t)·a + s(t)·(m(0) − a)].

The bracket is where a subject that stands still has its centroid: it rides on its piece of ground, upright, and grows
as its ground does. A camera that circles, pans, zooms or shakes moves m and H·a alike; a camera that circles a still
subject leaves both nearly where they are while everything behind it moves, so the background's motion as a whole is
never subtracted.

a is not seen: it lies under the subject. It is expected at m(0) + `DEPTH`·(lowest point − m(0)), and may lie beside
that by d, which under an orbit looks like a wander of (J(t) − s(t))·d. That d is taken which leaves the least motion,

    minimise over d:  mean over t |wander(t) − mean|² + `TRUST`·|d|².

So a wander that turns with the camera is partly taken for a misplaced a: what is found is rather too small than too
large. A silhouette's centroid is no fixed point of a turning body either; of a still subject about 0.03 of its size
remains. docs/EVALUATION_RESULTS.md has the errors against the renderer's poses.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.camera_motion import Gray, Matrix, stands_still
from musubi_ext.evaluation.ground_motion import GroundMotion, ground_motion
from musubi_ext.evaluation.masks.regions import centroids, found
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.truth import Masks

Doubles = NDArray[np.float64]

LONG_SIDE = 256  # pixels; larger clips are reduced to it
DEPTH = 0.43  # of the way from the centroid to the lowest point: measured on rendered subjects seen from 20–26° above
TRUST = 0.1  # weight of the expected ground point against the subject's stillness (chosen on rendered clips)
GAP = 2  # frames in a row that the ground may not be followed to
KNOWN = 0.9  # of the samples must be reached
CUT_OFF = 0.1  # of the frames may have the subject's base outside the picture
IMPOSSIBLE = "the ground's motion is not one that a camera can cause"


def wander(gray: NDArray[np.uint8], masks: Masks, samples: NDArray[np.int64]) -> Doubles:
    """The subject's wander (N, 2) in pixels (x, y) at the frames `samples` (N,), from gray frames (F, H, W) and masks.

    Samples without a mask, or that the ground was not followed to, are left out. Raises UnavailableError when the base
    of the subject is out of the picture or when the ground around it does not tell how the camera moves: no ground in
    view, too little texture on it, or no one plane.
    """
    scale = min(1.0, LONG_SIDE / max(gray.shape[1:]))
    small, where = _reduced(gray, masks, scale)
    present = found(where)
    samples = np.array([sample for sample in samples if present[sample]], dtype=np.int64)
    if not len(samples):
        raise UnavailableError("the subject was found in no frame")
    if (cut := float(where[samples][:, -1].any(axis=1).mean())) > CUT_OFF:
        raise UnavailableError(f"the subject's base is below the picture in {cut:.0%} of the frames")
    chain = _chain(small, _filled(where))
    known = [(int(t), motion) for t in samples if (motion := chain[t]) is not None]
    asked, reached = len(np.unique(samples)), len({t for t, _ in known})
    if reached < KNOWN * asked:
        raise UnavailableError(f"the ground could be followed to {reached} of {asked} sampled frames, below 90%")
    path = _against_still(where, [motion for _, motion in known], np.array([t for t, _ in known])) / scale
    if not np.isfinite(path).all():
        raise UnavailableError(IMPOSSIBLE)
    return np.asarray(path, dtype=np.float64)


def _chain(gray: NDArray[np.uint8], masks: Masks) -> list[Matrix | None]:
    """H(t) of every frame, None where it is not known; the identity throughout when the picture stands still.

    A frame that the ground cannot be followed to is passed over, at most `GAP` in a row.
    """
    count = len(gray)
    if all(stands_still(gray[0], gray[t], ~(masks[0] | masks[t])) for t in range(1, count)):
        return [np.eye(3)] * count
    motions: list[Matrix | None] = [np.eye(3)]
    total, known, last = np.eye(3), 0, np.eye(3)
    for t in range(1, count):
        guess = np.linalg.matrix_power(last, t - known)
        step = ground_motion((gray[known], gray[t]), (masks[known], masks[t]), guess)
        if step is None or step.doubt:
            if t - known > GAP:
                raise UnavailableError(_reason(step, t))
            motions.append(None)
            continue
        total, last, known = step.matrix @ total, step.matrix if t - known == 1 else np.eye(3), t
        motions.append(total)
    return motions


def _reason(step: GroundMotion | None, frame: int) -> str:
    if step is None:
        return f"no ground around the subject is in view in frame {frame}"
    return f"how the camera moves cannot be told in frame {frame}: the ground around the subject {step.doubt}"


def _against_still(masks: Masks, motions: list[Matrix], samples: NDArray[np.int64]) -> Doubles:
    """`wander` (N, 2) with the ground point that leaves the least of it."""
    places = centroids(masks[samples])
    # H starts in frame 0; the first sighting may be later, so motions are taken from there on.
    back = np.linalg.inv(motions[0])
    motions = [motion @ back for motion in motions]
    lowest = float(np.nonzero(masks[samples[0]].any(axis=1))[0].max())
    anchor = places[0] + np.array([0.0, DEPTH * (lowest - places[0, 1])])
    still, slack = np.empty_like(places), np.empty((len(places), 2, 2))
    for row, motion in enumerate(motions):
        moved, turn = _carried(motion, anchor)
        area = float(np.linalg.det(turn))
        if area <= 0:
            raise UnavailableError(IMPOSSIBLE)
        still[row] = moved + np.sqrt(area) * (places[0] - anchor)
        slack[row] = turn - np.sqrt(area) * np.eye(2)
    away, free = places - still, slack - slack.mean(axis=0)
    centred = away - away.mean(axis=0)
    normal = np.einsum("tij,tik->jk", free, free) + TRUST * len(away) * np.eye(2)
    misplaced = np.linalg.solve(normal, np.einsum("tij,ti->j", free, centred))
    return np.asarray(away - slack @ misplaced, dtype=np.float64)


def _carried(motion: Matrix, point: Doubles) -> tuple[Doubles, Doubles]:
    """Where `motion` takes `point` (2,), and its derivative (2, 2) there."""
    x, y, depth = motion @ np.append(point, 1.0)
    moved = np.array([x, y]) / depth
    return moved, (motion[:2, :2] - np.outer(moved, motion[2, :2])) / depth


def _reduced(gray: NDArray[np.uint8], masks: Masks, scale: float) -> tuple[NDArray[np.uint8], Masks]:
    if scale == 1.0:
        return gray, masks
    size = (round(gray.shape[2] * scale), round(gray.shape[1] * scale))
    small: list[Gray] = [np.asarray(cv2.resize(g, size, interpolation=cv2.INTER_AREA), np.uint8) for g in gray]
    where = [cv2.resize(m.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5 for m in masks]
    return np.stack(small), np.stack(where)


def _filled(masks: Masks) -> Masks:
    """With the nearest mask in time where there is none: the subject is somewhere there and no ground."""
    seen = np.flatnonzero(found(masks))
    return masks[[seen[np.abs(seen - t).argmin()] for t in range(len(masks))]]
