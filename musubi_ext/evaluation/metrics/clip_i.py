"""CLIP-I: whether the picture keeps saying the same thing, between sixteen sampled frames."""

from __future__ import annotations

from functools import partial

import numpy as np

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.features.pinned import PINNED, Network
from musubi_ext.evaluation.features.shared import Unit, backend_of, cosines, sampled_clip_image
from musubi_ext.evaluation.metrics.registry import Better, metric
from musubi_ext.evaluation.result import Reading, UnavailableError

SOURCE = "Circle-Rotate clip_i.py: cosines of CLIP ViT-B/32 embeddings of 16 sampled frames; a static video scores 1"
LICENCE = PINNED[Network.CLIP].licence
BACKEND = backend_of(Network.CLIP)
clip_i = partial(
    metric, unit="cosine", better=Better.HIGHER, range=(-1, 1), source=SOURCE, backend=BACKEND, licence=LICENCE
)


def first_last(features: Unit) -> float:
    """Cosine of the last frame and the first, of vectors of length 1 (N, D)."""
    return float(cosines(features[0], features[-1]))


def global_avg(features: Unit) -> float:
    """Mean cosine of every frame and the first, the first itself included, as published: 1/N is given away."""
    return float(cosines(features, features[0]).mean())


def frame_acc(features: Unit) -> float:
    """Mean cosine of neighbours."""
    return float(cosines(features[:-1], features[1:]).mean())


def _features(clip: Clip) -> Unit:
    if clip.shape[0] < 2:
        raise UnavailableError("similarity needs two frames, the clip has one")
    return sampled_clip_image(clip)


def _reading(clip: Clip, value: float, frames: int | None = None) -> Reading:
    used = len(np.unique(clip.samples)) if frames is None else frames
    return Reading(value, used, backend=clip.models.backend(Network.CLIP))


@clip_i("clip_i_first_last")
def clip_i_first_last(clip: Clip) -> Reading:
    """`first_last`."""
    return _reading(clip, first_last(_features(clip)), 2)


@clip_i("clip_i_global_avg")
def clip_i_global_avg(clip: Clip) -> Reading:
    """`global_avg`."""
    return _reading(clip, global_avg(_features(clip)))


@clip_i("clip_i_frame_acc")
def clip_i_frame_acc(clip: Clip) -> Reading:
    """`frame_acc`."""
    return _reading(clip, frame_acc(_features(clip)))
