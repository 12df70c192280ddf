"""Reading clips from elsewhere: probe, decode, drop frames to 16 a second, turn upright, resize to cover and crop.

Sizes and frames follow `musubi_tuner/dataset/media_utils.py` (v0.3.4), so the caches hold the same pixels: its `rgb24`
conversion rounds 10 bits to 8 and drops alpha without compositing, and its choice of frames counts them, whatever a
variable rate's timestamps say. One rule differs: it ignores the rotation that phones record and trains on frames that
lie on their side; here they are turned upright. A clip without such a record, the common case, gives equal caches.

What a file can make us do is bounded (`decode.container`), but libav still runs in this process: `decode.pool` has the
same functions in a worker that is killed when it hangs or grows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import av
import cv2
import numpy as np
from PIL import Image

from musubi_ext.errors import UserError, shown
from musubi_ext.orbits.buckets import Size
from musubi_ext.orbits.decode.container import expect_bounded, open_clip, unreadable
from musubi_ext.orbits.decode.display import Turn, turn_of
from musubi_ext.video import Frames

WAN_FPS = 16.0
MAX_BYTES = 4 << 30  # of one clip's resized frames
MAX_COMMENT = 1 << 16  # characters; what generated clips carry has a few hundred
# PyAV 17 and later convert with as many threads as there are cores: the same pixels, but none starts under a limit.
ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
UNEVEN = 0.1  # of the median gap between frames: a rate that varies less is called constant
T = TypeVar("T")


@dataclass(frozen=True)
class ClipInfo:
    """What a clip is, its packets counted and its first frame decoded; nothing is taken from the header's claims.

    width, height: pixels of the upright first frame. fps: frames a second on average. rotation: clockwise degrees that
    turn the stored frames upright (0, 90, 180, 270). duration: seconds from the first frame to the end of the last.
    pixel_format: libav's name. bit_depth: bits a channel. alpha: whether the format can hold transparency (every gif).
    comment: the container's own, "" when it has none or one above 64 kB.
    """

    width: int
    height: int
    frames: int
    fps: float
    codec: str
    rotation: int = 0
    variable_rate: bool = False
    duration: float = 0.0
    pixel_format: str = ""
    bit_depth: int = 8
    alpha: bool = False
    comment: str = ""

    @property
    def size(self) -> Size:
        """Width, height."""
        return self.width, self.height


def probe(path: Path | str) -> ClipInfo:
    """Read all packets and decode the first frame. Raises UserError naming the file."""
    with open_clip(path) as (container, stream):
        times, lengths, first = array("q"), array("q"), None
        for packet in container.demux(stream):
            if first is None:
                first = next(iter(packet.decode()), None)
            if packet.size and not packet.is_discard:  # an edit list discards what was cut away
                times.append(packet.pts if packet.pts is not None else len(times))
                lengths.append(packet.duration or 0)
        if first is None:
            raise _empty(path)
        return replace(_info(path, stream, first, times, lengths), comment=_comment(container))


def _info(path: Path | str, stream: Any, first: Any, times: array[int], lengths: array[int]) -> ClipInfo:
    width, height = _checked_size(path, first)
    turn = _turn(path, first)
    ticks = np.sort(np.asarray(times))
    gaps = np.diff(ticks)
    last = lengths[int(np.argmax(times))] or (int(np.median(gaps)) if gaps.size else 0)
    alpha = any(part.is_alpha for part in first.format.components) or stream.metadata.get("alpha_mode") == "1"
    return ClipInfo(
        *((height, width) if turn.swap else (width, height)),
        frames=len(times),
        fps=float(stream.average_rate or stream.guessed_rate or 0),
        codec=stream.codec_context.name,
        rotation=turn.degrees,
        variable_rate=_uneven(gaps),
        duration=float((int(ticks[-1] - ticks[0]) + last) * stream.time_base),
        pixel_format=first.format.name,
        bit_depth=max(part.bits for part in first.format.components),
        alpha=alpha,
    )


def _comment(container: Any) -> str:
    text = container.metadata.get("comment", "")
    return text if len(text) <= MAX_COMMENT else ""


def _uneven(gaps: np.ndarray[Any, Any]) -> bool:
    """Rounding a constant rate to ticks makes gaps differ by one: 33 and 34 ms in a webm of 30 a second."""
    return bool(gaps.size) and bool(np.ptp(gaps) > max(1, UNEVEN * float(np.median(gaps))))


def load_frames(path: Path | str, size: Size, *, limit: int | None = None, source_fps: float | None = None) -> Frames:
    """Decode to uint8 RGB (F, H, W, 3), upright, resized to cover `size` (width, height) and cropped at the centre.

    With `source_fps` frames are dropped to reach 16 a second first; decoding stops after `limit` kept frames. Raises
    UserError when the file is cut short, cannot be read to that point, or its resized frames exceed 4 GiB.
    """
    return np.stack(list(iter_frames(path, size, limit=limit, source_fps=source_fps)))


def iter_frames(
    path: Path | str,
    size: Size,
    *,
    limit: int | None = None,
    source_fps: float | None = None,
    max_bytes: int = MAX_BYTES,
) -> Iterator[Frames]:
    """The frames of `load_frames` one by one, each (H, W, 3); at least one. Raises UserError as it does."""
    count = 0
    with open_clip(path) as (container, stream):
        decoded = islice(to_wan_fps(container.decode(stream), source_fps), limit)
        for count, frame in enumerate(decoded, 1):
            _expect_room(path, count, size, max_bytes)
            yield _resized(path, frame, size)
    if not count:
        raise _empty(path)


def _expect_room(path: Path | str, count: int, size: Size, max_bytes: int) -> None:
    room = max_bytes // (size[0] * size[1] * 3)
    if count > room:
        raise UserError(
            f"{shown(path)}: expected at most {room} frames at {size[0]}x{size[1]}, found more (cut the clip)"
        )


def _resized(path: Path | str, frame: Any, size: Size) -> Frames:
    _checked_size(path, frame)  # the stream's size can change after the header
    if frame.is_corrupt:
        raise unreadable(path, f"a damaged frame at {frame.time or 0:.2f} s")
    return cover_crop(_turn(path, frame).upright(frame.to_ndarray(format="rgb24", **ONE_THREAD)), size)


def to_wan_fps(frames: Iterable[T], source_fps: float | None) -> Iterator[T]:
    """Drop frames so that `source_fps` becomes 16 a second; slower clips keep every frame. None keeps all.

    Frame i is kept when ⌊s_i⌋ ≠ ⌊s_{i−1}⌋, where s_0 = 0 and s_i = s_{i−1} + 16/source_fps in double precision. Sums
    the step instead of multiplying it, as upstream does: the rounding decides which frame is dropped.
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


def _checked_size(path: Path | str, frame: Any) -> Size:
    expect_bounded(path, frame.width, frame.height)
    return frame.width, frame.height


def _turn(path: Path | str, frame: Any) -> Turn:
    try:
        return turn_of(frame)
    except ValueError as error:
        raise UserError(
            f"{shown(path)}: expected a rotation by quarter turns, found {error} (export the clip upright)"
        ) from error


def _empty(path: Path | str) -> UserError:
    return UserError(f"{shown(path)}: expected frames, found none (re-encode or remove the clip)")
