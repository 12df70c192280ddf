"""Which stretches of a clip are trained on: musubi-tuner's five extractions.

Cites `musubi_tuner/dataset/image_video_dataset.py`, `VideoDataset.retrieve_latent_cache_batches` (v0.3.4).
"""

from __future__ import annotations

import numpy as np

from musubi_ext.orbits.config import VideoDataset

Window = tuple[int, int]  # first frame, number of frames (4n+1)


def windows(dataset: VideoDataset, frames: int) -> list[Window]:
    """Windows of a clip of `frames` frames, without repeats; empty when it is shorter than every target.

    head: the first t frames. chunk: one after another. slide: every `frame_stride`. uniform: `frame_sample` spread
    evenly. full: the whole clip up to `max_frames`, cut to 4n+1.
    """
    if dataset.frame_extraction == "full":
        longest = min(frames, dataset.max_frames)
        return [(0, (longest - 1) // 4 * 4 + 1)] if longest else []
    found = [
        (int(start), target)
        for target in dataset.target_frames
        if target <= frames
        for start in _starts(dataset, frames, target)
    ]
    return list(dict.fromkeys(found))


def _starts(dataset: VideoDataset, frames: int, target: int) -> list[int]:
    last = frames - target
    if dataset.frame_extraction == "chunk":
        return list(range(0, last + 1, target))
    if dataset.frame_extraction == "slide":
        return list(range(0, last + 1, dataset.frame_stride))
    if dataset.frame_extraction == "uniform":
        return [int(start) for start in np.linspace(0, last, dataset.frame_sample, dtype=int)]
    return [0]


def frames_needed(dataset: VideoDataset) -> int | None:
    """How many frames must be decoded at most; None when the windows depend on the clip's whole length."""
    if dataset.frame_extraction == "full":
        return dataset.max_frames
    whole = dataset.frame_extraction in ("chunk", "slide") or (
        dataset.frame_extraction == "uniform" and dataset.frame_sample > 1
    )
    return None if whole else max(dataset.target_frames)
