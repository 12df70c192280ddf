"""The camera's azimuth in each frame, by analysis by synthesis against a sweep of views of the same scene.

Each frame is compared with every view of the sweep; the path of azimuths through the frames is the cheapest one that
starts at 0 and turns smoothly (Viterbi); a parabola through the costs beside it gives fractions of a step.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.masks import centroids, found
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.truth import Degrees, Masks, Sweep
from musubi_ext.video import Frames

Costs = NDArray[np.float64]

# A subject may be nearer or further than in the sweep, and blur swells its silhouette.
SCALES = (0.92, 0.96, 1.0, 1.04, 1.08)
TURNING = 5.0  # degrees; a clip that sweeps less has no direction
COVERAGE = 0.9  # of the frames, and always the last: fewer sightings of the subject give no angle
NEUTRAL = 128.0  # gray level outside the subject
SOFTEN = 1.0  # pixels of 64: Gaussian on both sides, so that a decoder's blur costs little
FLOOR = 9.0  # squared levels: smallest mean squared difference taken for noise
TURN_STD = 12.0  # degrees between frames of a 17-frame clip: a weak preference for smooth turning
EVIDENCE = 20.0  # independent measurements in a frame, after correlation: weight of the picture against TURN_STD


def swept(azimuth: Degrees) -> float:
    """Signed angle of a clip, last frame minus first, from azimuths (F,) in degrees."""
    return float(azimuth[-1] - azimuth[0])


def direction_of(azimuth: Degrees) -> int:
    """+1 "right to left", −1 "left to right", 0 when less than 5° were swept."""
    angle = swept(azimuth)
    return 0 if abs(angle) < TURNING else int(np.sign(angle))


def subject_azimuths(frames: Frames, masks: Masks, sweep: Sweep) -> Degrees:
    """Degrees (F,) swept so far by frames (F, H, W, 3), seen on the subject (masks, (F, H, W)) alone.

    Subjects are moved to the centre by their masks' centroids and the background is a neutral gray, so neither a
    wandering subject nor the backdrop tells the angle. Raises UnavailableError when the subject is lost in more than
    a tenth of the frames or in the last one, or when the sweep is of another size.
    """
    present = found(masks)
    if present.mean() < COVERAGE or not present[-1]:
        last = "" if present[-1] else " and not in the last"
        raise UnavailableError(f"the subject was found in {present.sum()} of {len(present)} frames{last}")
    _check_size(frames, sweep)
    side = _side(sweep.masks)
    costs = np.zeros((len(frames), len(sweep.azimuth)))  # a frame without a subject says nothing: its costs are level
    views = _crops(sweep.frames, sweep.masks, side, 1.0)
    scaled = [_crops(frames[present], masks[present], side, scale) for scale in SCALES]
    costs[present] = np.min([_differences(crops, views) for crops in scaled], axis=0)
    return _azimuths(costs, present, sweep.azimuth)


def frame_azimuths(frames: Frames, sweep: Sweep) -> Degrees:
    """Degrees (F,) swept so far, seen on whole frames (F, H, W, 3): background included, nothing aligned."""
    _check_size(frames, sweep)
    costs = _differences(_softened(frames), _softened(sweep.frames))
    return _azimuths(costs, np.ones(len(frames), bool), sweep.azimuth)


def _check_size(frames: Frames, sweep: Sweep) -> None:
    if frames.shape[1:] != sweep.frames.shape[1:]:
        raise UnavailableError(f"frames of {frames.shape[1:3]} against a reference sweep of {sweep.frames.shape[1:3]}")
    if not (sweep.azimuth == 0).any():
        raise UnavailableError("the reference sweep has no view at azimuth 0")
    if not found(sweep.masks).all():
        raise UnavailableError("the subject is not visible in every view of the reference sweep")


def _side(masks: Masks) -> int:
    """Side in pixels of a square that holds every silhouette with some room around its centroid."""
    reach = 0.0
    for mask, centre in zip(masks, centroids(masks), strict=True):
        y, x = np.nonzero(mask)
        reach = max(reach, np.abs(x - centre[0]).max(), np.abs(y - centre[1]).max())
    return 2 * int(np.ceil(reach)) + 7


def _crops(frames: Frames, masks: Masks, side: int, scale: float) -> NDArray[np.float32]:
    """Subjects (N, side, side, 3), enlarged by `scale`, centroid in the middle, on neutral gray, softened."""
    crops = []
    for frame, mask, (x, y) in zip(frames, masks, centroids(masks), strict=True):
        alone = np.where(mask[..., None], frame, NEUTRAL).astype(np.float32)
        centre = (side - 1) / 2
        shift = np.array([[scale, 0, centre - scale * x], [0, scale, centre - scale * y]])
        border = (NEUTRAL,) * 3
        crop = cv2.warpAffine(alone, shift, (side, side), borderMode=cv2.BORDER_CONSTANT, borderValue=border)
        crops.append(_soften(np.asarray(crop, np.float32), max(mask.shape)))
    return np.stack(crops)


def _softened(frames: Frames) -> NDArray[np.float32]:
    return np.stack([_soften(frame.astype(np.float32), max(frame.shape[:2])) for frame in frames])


def _soften(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), SOFTEN * size / 64), dtype=np.float32)


def _differences(frames: NDArray[np.float32], views: NDArray[np.float32]) -> Costs:
    """Mean squared difference (F, A) of each of frames (F, …) with each of views (A, …)."""
    a, b = frames.reshape(len(frames), -1).astype(np.float64), views.reshape(len(views), -1).astype(np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.maximum(squares, 0) / a.shape[1], dtype=np.float64)


def _azimuths(costs: Costs, present: NDArray[np.bool_], azimuth: Degrees) -> Degrees:
    path = _path(costs, present, azimuth)
    found = np.array([_vertex(row, index, azimuth) for row, index in zip(costs, path, strict=True)], np.float32)
    found[~present] = azimuth[path][~present]
    found[0] = 0.0  # the first frame is given, not generated
    return found


def _path(costs: Costs, present: NDArray[np.bool_], azimuth: Degrees) -> NDArray[np.int64]:
    """Indices (F,) of the most likely azimuths: Gaussian noise in the picture, Gaussian turns, frame 0 at azimuth 0."""
    noise = max(float(np.median(costs[present].min(axis=1))), FLOOR)
    likely = costs * (EVIDENCE / (2 * noise))
    spread = TURN_STD * 16 / max(len(costs) - 1, 1)
    turns = (azimuth[:, None].astype(np.float64) - azimuth[None]) ** 2 / (2 * spread**2)
    total = np.where(azimuth == 0, 0.0, np.inf)
    back = np.zeros(costs.shape, dtype=np.int64)
    for frame in range(1, len(costs)):
        reached = total[None] + turns
        back[frame] = reached.argmin(axis=1)
        total = reached.min(axis=1) + likely[frame]
    path = np.empty(len(costs), dtype=np.int64)
    path[-1] = total.argmin()
    for frame in range(len(costs) - 1, 0, -1):
        path[frame - 1] = back[frame, path[frame]]
    return path


def _vertex(row: Costs, index: int, azimuth: Degrees) -> float:
    """Azimuth of the minimum of the parabola through the cost at `index` and its two neighbours."""
    if not 0 < index < len(row) - 1:
        return float(azimuth[index])
    before, here, after = row[index - 1 : index + 2]
    bend = before - 2 * here + after
    offset = float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend > 0 else 0.0
    step = float(azimuth[index + 1] - azimuth[index - 1]) / 2
    return float(azimuth[index]) + offset * step
