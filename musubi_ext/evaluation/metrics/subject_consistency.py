"""Subject consistency by DINO, as Circle-Rotate measures it and as VBench does. The two are not comparable.

VBench (github.com/Vchitect/VBench, vbench/subject_consistency.py at commit 45e79ec) scores every frame, prepared by its
`dino_transform`; Circle-Rotate (circle_rotate/metrics/vbench_sc.py, scripts/eval_vbench_sc.py) sixteen frames, prepared
by the usual crop. The formula is one.
"""

from __future__ import annotations

import numpy as np

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.features.pinned import PINNED, Network
from musubi_ext.evaluation.features.shared import Unit, backend_of, cosines, every_dino, sampled_dino
from musubi_ext.evaluation.metrics.registry import Better, metric
from musubi_ext.evaluation.result import Reading, UnavailableError

LICENCE = PINNED[Network.DINO].licence
BACKEND = backend_of(Network.DINO)


def consistency(features: Unit) -> float:
    """Mean over i ≥ 1 of ½(max(0, cos(i − 1, i)) + max(0, cos(0, i))), of vectors of length 1 (N, D), N ≥ 2."""
    before = np.maximum(0, cosines(features[:-1], features[1:]))
    first = np.maximum(0, cosines(features[1:], features[0]))
    return float(((before + first) / 2).mean())


def _needs_two(clip: Clip) -> None:
    if clip.shape[0] < 2:
        raise UnavailableError("consistency needs two frames, the clip has one")


@metric(
    "vbench_sc_circle_rotate",
    unit="cosine",
    better=Better.HIGHER,
    range=(0, 1),
    source="Circle-Rotate vbench_sc.py: DINO ViT-B/16 on 16 sampled frames, cropped to 224; a static video scores 1",
    backend=BACKEND,
    licence=LICENCE,
)
def vbench_sc_circle_rotate(clip: Clip) -> Reading:
    """`consistency` of the sixteen sampled frames."""
    _needs_two(clip)
    value = consistency(sampled_dino(clip))
    return Reading(value, len(np.unique(clip.samples)), backend=clip.models.backend(Network.DINO))


@metric(
    "subject_consistency",
    unit="cosine",
    better=Better.HIGHER,
    range=(0, 1),
    source="VBench subject_consistency: DINO ViT-B/16 on every frame, uncropped; a static video scores 1",
    backend=BACKEND,
    licence=LICENCE,
)
def subject_consistency(clip: Clip) -> Reading:
    """`consistency` of every frame."""
    _needs_two(clip)
    return Reading(consistency(every_dino(clip)), clip.shape[0], backend=clip.models.backend(Network.DINO))
