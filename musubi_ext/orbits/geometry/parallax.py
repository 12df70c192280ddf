"""Whether the camera changed its place: a camera that only turns moves all directions alike, near and far."""

from __future__ import annotations

import numpy as np

from musubi_ext.orbits.geometry.turntable import Doubles

LEAST = 8  # tracks that two frames must share
ROUNDS = 5  # of reweighting


def parallax(xy: Doubles, focal: float) -> float:
    """Share of the motion that no turning on the spot explains: 0 for a pan, about 0.6 for an orbit.

    `xy` (N, K, 2) in widths from the centre, NaN where unseen; `focal` in widths. Between neighbouring frames the best
    rotation of the viewing directions is taken out (W. Kabsch, 1976, reweighted to the median); the share is the
    median left over the median motion. Give long tracks: short ones are often edges crossing, not places. Raises
    ValueError when no two neighbours share 8 tracks.
    """
    left, moved = [], []
    for before, after in zip(xy[:, :-1].swapaxes(0, 1), xy[:, 1:].swapaxes(0, 1), strict=True):
        both = ~np.isnan(before[:, 0]) & ~np.isnan(after[:, 0])
        if both.sum() >= LEAST:
            a, b = _directions(before[both], focal), _directions(after[both], focal)
            left.append(_without_rotation(a, b))
            moved.append(np.linalg.norm(a - b, axis=1))
    if not left:
        raise ValueError("fewer than 8 corners could be followed from a frame to the next")
    return float(np.median(np.concatenate(left)) / max(np.median(np.concatenate(moved)), 1e-9))


def _directions(xy: Doubles, focal: float) -> Doubles:
    rays = np.concatenate([xy / focal, np.ones((len(xy), 1))], axis=1)
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))


def _without_rotation(before: Doubles, after: Doubles) -> Doubles:
    """Lengths (N,) left between directions (N, 3) once the rotation that fits most of them is taken out."""
    left = weight = np.ones(len(before))
    for _ in range(ROUNDS):
        u, _, vt = np.linalg.svd((before * weight[:, None]).T @ after)
        rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        left = np.linalg.norm(before @ rotation - after, axis=1)
        weight = 1 / np.maximum(left, 0.1 * np.median(left) + 1e-6)
    return np.asarray(left)
