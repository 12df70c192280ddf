"""Features of a clip's frames: each frame is embedded once, however many metrics look at it."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.features.pinned import PINNED, Network
from musubi_ext.evaluation.features.source import Features
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.video import Frames

Unit = NDArray[np.float64]

_KEPT: WeakKeyDictionary[Clip, dict[str, Unit | UnavailableError]] = WeakKeyDictionary()


def sampled_clip_image(clip: Clip) -> Unit:
    """CLIP's embeddings (16, D) of the sampled frames, of length 1."""
    return _kept(clip, "clip", lambda: _of_samples(clip, clip.models.clip_image))


def sampled_dino(clip: Clip) -> Unit:
    """DINO's features (16, D) of the sampled frames as Circle-Rotate prepares them, of length 1."""
    return _kept(clip, "dino", lambda: _of_samples(clip, clip.models.dino))


def every_dino(clip: Clip) -> Unit:
    """DINO's features (F, D) of every frame as VBench prepares them, of length 1."""
    return _kept(clip, "vbench", lambda: _unit(clip.models.dino_vbench(clip.frames)))


def cosines(first: Unit, second: Unit) -> Unit:
    """Cosines (N,) of vectors of length 1 (N, D), or (D,) against each, within [−1, 1] also after rounding."""
    return np.asarray(np.clip((first * second).sum(axis=-1), -1, 1), dtype=np.float64)


def backend_of(network: Network) -> str:
    """What an unavailable result says would have measured."""
    pinned = PINNED[network]
    return f"{pinned.name}@{pinned.revision[:12]}" if pinned.revision else pinned.name


def _of_samples(clip: Clip, embed: Callable[[Frames], Features]) -> Unit:
    """A clip of fewer than sixteen frames repeats some; those are embedded once."""
    _, places, back = np.unique(clip.samples, return_index=True, return_inverse=True)
    return _unit(embed(clip.sampled[places]))[back]


def _kept(clip: Clip, name: str, compute: Callable[[], Unit]) -> Unit:
    """What `compute` gave for this clip, or why it gave nothing: absent weights are looked for once a clip."""
    of_clip = _KEPT.setdefault(clip, {})
    if name not in of_clip:
        try:
            of_clip[name] = compute()
        except UnavailableError as reason:
            of_clip[name] = UnavailableError(str(reason))  # its traceback would hold the clip
    found = of_clip[name]
    if isinstance(found, UnavailableError):
        raise UnavailableError(str(found))
    return found


def _unit(features: Features) -> Unit:
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    if not lengths.all():
        raise UnavailableError("a frame's features are all zero: they have no direction")
    return np.asarray(features / lengths, dtype=np.float64)
