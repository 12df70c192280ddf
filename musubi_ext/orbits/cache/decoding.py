"""Decoding beside the encoding: worker processes, and threads that wait for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from musubi_ext.errors import UserError, shown
from musubi_ext.orbits.buckets import choose_bucket
from musubi_ext.orbits.config import VideoDataset
from musubi_ext.orbits.decode.pool import DecodePool
from musubi_ext.orbits.sources import Clip
from musubi_ext.orbits.windows import frames_needed, windows
from musubi_ext.video import Frames

DECODERS = 2  # processes, killed when they hang


@contextmanager
def decoders() -> Iterator[tuple[DecodePool, ThreadPoolExecutor]]:
    """Workers and as many threads; when the block ends, however it does, processes end and what waits is left."""
    threads = ThreadPoolExecutor(DECODERS, "decode")
    try:
        with DecodePool(DECODERS) as pool:  # closed first: a thread does not wait for a clip that hangs
            yield pool, threads
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def decode(dataset: VideoDataset, clip: Clip, pool: DecodePool) -> Frames:
    """The clip's frames at its bucket's size: uint8 (F, H, W, 3). Raises UserError when it cannot be used."""
    info = pool.probe(clip.path)
    size = choose_bucket(
        info.size, dataset.resolution, enable_bucket=dataset.enable_bucket, no_upscale=dataset.bucket_no_upscale
    )
    frames = pool.load(clip.path, size, limit=frames_needed(dataset), source_fps=dataset.source_fps)
    if not windows(dataset, len(frames)):
        raise UserError(
            f"{shown(clip.path)}: expected at least {min(dataset.target_frames)} frames, found {len(frames)}"
            " (use a longer clip or fewer target_frames)"
        )
    return frames
