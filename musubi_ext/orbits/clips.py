"""Reading clips from elsewhere: probe, decode, drop frames to 16 a second, resize to cover and crop.

Sizes and frames follow `musubi_tuner/dataset/media_utils.py` (v0.3.4), so the caches hold the same pixels. What a file
can make us do is bounded: only the demuxers below and local files, a cap on the picture's size and on what is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import av
import cv2
import numpy as np
from PIL import Image

from musubi_ext.errors import UserError
from musubi_ext.orbits.buckets import Size
from musubi_ext.video import Frames

WAN_FPS = 16.0
MAX_PIXELS = 8192 * 4320  # of one source frame
MAX_BYTES = 4 << 30  # of one clip's resized frames
OPEN_OPTIONS = {  # a playlist named clip.mp4 must not make us open other files or addresses
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,gif",
    "protocol_whitelist": "file",
}
T = TypeVar("T")


@dataclass(frozen=True)
class ClipInfo:
    """What the container says: sides in pixels, number of frames, average frames per second, codec name."""

    width: int
    height: int
    frames: int
    fps: float
    codec: str

    @property
    def size(self) -> Size:
        """Width, height."""
        return self.width, self.height


def probe(path: Path | str) -> ClipInfo:
    """Read a clip's header; counts packets where the header gives no frame count. Raises UserError naming the file."""
    try:
        with av.open(str(path), options=OPEN_OPTIONS) as container:
            stream = _video_stream(path, container)
            frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            return ClipInfo(stream.width, stream.height, frames, fps, stream.codec_context.name)
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error


def load_frames(path: Path | str, size: Size, *, limit: int | None = None, source_fps: float | None = None) -> Frames:
    """Decode to uint8 RGB (F, H, W, 3), resized to cover `size` (width, height) and cropped at the centre.

    With `source_fps` frames are dropped to reach 16 a second first; decoding stops after `limit` kept frames. Raises
    UserError when the file cannot be read to that point or its resized frames exceed 4 GiB.
    """
    try:
        with av.open(str(path), options=OPEN_OPTIONS) as container:
            stream = _video_stream(path, container)
            decoded = islice(to_wan_fps(container.decode(stream), source_fps), limit)
            frames = list(_resized(path, decoded, size))
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error
    if not frames:
        raise UserError(f"{path}: expected frames, found none (re-encode or remove the clip)")
    return np.stack(frames)


def _resized(path: Path | str, decoded: Iterable[Any], size: Size) -> Iterator[Frames]:
    room = MAX_BYTES // (size[0] * size[1] * 3)
    for index, frame in enumerate(decoded):
        if index >= room:
            raise UserError(f"{path}: expected at most {room} frames at {size[0]}x{size[1]}, found more (cut the clip)")
        if frame.width * frame.height > MAX_PIXELS:  # the stream's size can change after the header
            raise _too_large(path, frame.width, frame.height)
        yield cover_crop(frame.to_ndarray(format="rgb24"), size)


def to_wan_fps(frames: Iterable[T], source_fps: float | None) -> Iterator[T]:
    """Drop frames so that `source_fps` becomes 16 a second; slower clips keep every frame. None keeps all.

    Sums the step instead of multiplying it, as upstream does: the rounding decides which frame is dropped.
    """
    if source_fps is None:
        yield from frames
        return
    step, position, previous = WAN_FPS / source_fps, 0.0, -1
    for frame in frames:
        index = int(position)
        position += step
        if index != previous:
            previous = index
            yield frame


def cover_crop(frame: Frames, size: Size) -> Frames:
    """Resize one frame (H, W, 3) to cover `size` (width, height), then crop its centre; Lanczos up, area down."""
    height, width = frame.shape[:2]
    if (width, height) == size:
        return frame
    scale = max(size[0] / width, size[1] / height)
    new = int(width * scale + 0.5), int(height * scale + 0.5)
    if scale > 1:
        resized = np.asarray(Image.fromarray(frame).resize(new, Image.Resampling.LANCZOS))
    else:
        resized = np.asarray(cv2.resize(frame, new, interpolation=cv2.INTER_AREA))
    left, top = (new[0] - size[0]) // 2, (new[1] - size[1]) // 2
    return resized[top : top + size[1], left : left + size[0]]


def _video_stream(path: Path | str, container: Any) -> Any:
    if not container.streams.video:
        raise UserError(f"{path}: expected a video stream, found none (remove the file or export it with its picture)")
    stream = container.streams.video[0]
    if not 0 < stream.width * stream.height <= MAX_PIXELS:
        raise _too_large(path, stream.width, stream.height)
    return stream


def _too_large(path: Path | str, width: int, height: int) -> UserError:
    return UserError(f"{path}: expected a picture of 1 to {MAX_PIXELS} pixels, found {width}x{height} (scale it down)")


def _unreadable(path: Path | str, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path}: expected a readable mp4, mov, mkv, webm or gif, found: {reason} (re-encode or remove)")
