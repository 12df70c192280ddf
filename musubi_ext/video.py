"""Frames in, frames out: H.264 through PyAV, always uint8 RGB arrays (F, H, W, 3)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from musubi_ext.storage import atomic_path

Frames = NDArray[np.uint8]


def write_mp4(
    path: Path | str,
    frames: Frames,
    fps: float,
    *,
    crf: int = 12,
    pix_fmt: str = "yuv420p",
    comment: Mapping[str, Any] | None = None,
) -> None:
    """Encode uint8 RGB frames (F, H, W, 3) as H.264 and store `comment` as JSON in the container's metadata.

    The same frames give the same bytes: one encoder thread, and x264's plain algorithms, since its vectorised
    lookahead reads memory that it has not written (seen at 64×64). H and W must be even for yuv420p.
    """
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        if comment is not None:
            container.metadata["comment"] = json.dumps(comment, ensure_ascii=False)
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.options = {"crf": str(crf), "threads": "1", "x264-params": "cpu-independent=1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def read_video(path: Path | str) -> tuple[Frames, float]:
    """Decode every frame of a video we trust; returns frames (F, H, W, 3) and the average fps.

    Clips from elsewhere go through `musubi_ext.orbits.clips`, which bounds time and memory. Raises av.FFmpegError.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        rate = stream.average_rate
    return np.stack(frames), float(rate) if rate else 0.0


def read_comment(path: Path | str) -> dict[str, Any]:
    """The JSON that `write_mp4` stored; an empty dict when there is none."""
    with av.open(str(path)) as container:
        text = container.metadata.get("comment")
    return dict(json.loads(text)) if text else {}
