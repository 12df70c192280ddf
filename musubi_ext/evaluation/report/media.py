"""What the page shows of one clip: a small video, a filmstrip, mask and track, flow. Bounded in bytes and memory."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from musubi_ext.errors import UserError
from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.flow import dense_flow, one_thread
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.report.pictures import flow_pictures, jpeg, overlays, strip
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.stream import gray_of
from musubi_ext.evaluation.truth import Masks, Truth
from musubi_ext.filmstrip import frame_indices
from musubi_ext.orbits.clips import load_frames, probe
from musubi_ext.video import Frames, write_mp4

COLUMNS = 6
LONG_SIDE = 320  # pixels of the video
MOST_FRAMES = 600
MOST_BYTES = 260_000  # of one video
_TRIES = ((1.0, 28), (1.0, 36), (0.6, 36))  # scale, crf: each smaller than the one before


@dataclass
class Media:
    """Data URIs of one clip ("" where there is none) and sentences about what is missing or was cut."""

    video: str = ""
    size: tuple[int, int] = (0, 0)
    frames: str = ""
    thumb: str = ""
    overlay: str = ""
    overlay_caption: str = ""
    flow: str = ""
    flow_caption: str = ""
    indices: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What it adds to the page."""
        return sum(map(len, (self.video, self.frames, self.thumb, self.overlay, self.flow)))


def media_of(path: Path, *, masks: str = "", truth: Path | None = None, details: bool = True) -> Media:
    """Decode a clip and draw it. A clip that cannot be decoded gives notes and no pictures.

    `masks`: the provider its results name. `details`: mask, track and flow as well, not the frames alone.
    """
    media = Media()
    try:
        known = None if truth is None else Truth.load(truth)
        info = probe(path)
        size = info.size if known is not None else _fitted(info.size)
        frames = load_frames(path, size, limit=MOST_FRAMES)
    except UserError as error:
        media.notes += error.problems
        return media
    if info.frames > len(frames):
        media.notes.append(f"shown are the first {len(frames)} of {info.frames} frames")
    media.indices = frame_indices(len(frames), COLUMNS)
    media.frames = strip(list(frames[media.indices]))
    media.thumb = jpeg(_thumbnail(frames[media.indices[len(media.indices) // 2]]))
    with one_thread():
        if details:
            _draw_masks(media, frames, masks, known)
            _draw_flow(media, frames)
        _encode(media, frames, info.fps or 8.0)
    return media


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    """Even sides, the longer one at most LONG_SIDE; small clips stay what they are, odd ones lose a column."""
    scale = min(1.0, LONG_SIDE / max(size))
    return max(2, round(size[0] * scale / 2) * 2), max(2, round(size[1] * scale / 2) * 2)


def _thumbnail(frame: Frames) -> Frames:
    height, width = frame.shape[:2]
    scale = min(1.0, 120 / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def _draw_masks(media: Media, frames: Frames, provider: str, truth: Truth | None) -> None:
    source = MaskSource(provider) if provider in list(MaskSource) else MaskSource.FLOW
    said = ""
    if source in (MaskSource.TRUTH, MaskSource.COLOR) and (truth is None or truth.frames.shape != frames.shape):
        source, said = MaskSource.FLOW, f"; measured with {provider} masks, which need the truth"
    try:
        masks: Masks = Clip(frames, truth, source).masks
    except UnavailableError as reason:
        media.overlay_caption = f"no mask or track: {reason}"
        return
    media.overlay = strip(overlays(frames, masks, media.indices))
    media.overlay_caption = f"mask and track of its centre, by {source.value}{said}"


def _draw_flow(media: Media, frames: Frames) -> None:
    if len(frames) < 2:
        media.flow_caption = "no flow: the clip has one frame"
        return
    pairs = [_moving(frames, index) for index in media.indices]
    flows = [dense_flow(gray_of(frames[first]), gray_of(frames[second])) for first, second in pairs]
    pictures, bright = flow_pictures(flows)
    media.flow = strip(pictures)
    media.flow_caption = f"flow to the next different frame, brightest at {bright:.2g} px of {_size(frames)}"


def _moving(frames: Frames, index: int) -> tuple[int, int]:
    """A frame and the next that differs, at the end the one before it; twice the same where all frames are.

    Many clips show each frame twice: from one to the very next half of the flows would be black.
    """
    for other in (*range(index + 1, len(frames)), *range(index - 1, -1, -1)):
        if not np.array_equal(frames[other], frames[index]):
            return min(index, other), max(index, other)
    return index, index


def _size(frames: Frames) -> str:
    return f"{frames.shape[2]}x{frames.shape[1]}"


def _encode(media: Media, frames: Frames, fps: float) -> None:
    """H.264, smaller with each try; what still does not fit is cut short, and the page says so."""
    shown = np.stack([cv2.resize(frame, _fitted(frame.shape[1::-1])) for frame in frames])
    for scale, crf in _TRIES:
        size = _fitted((round(shown.shape[2] * scale), round(shown.shape[1] * scale)))
        tried = shown if scale == 1 else np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in shown])
        data = _h264(tried, fps, crf)
        if len(data) <= MOST_BYTES:
            break
    while len(data) > MOST_BYTES and len(tried) > 8:
        tried = tried[: max(8, int(0.9 * len(tried) * MOST_BYTES / len(data)))]
        data = _h264(tried, fps, _TRIES[-1][1])
    if len(data) > MOST_BYTES:
        media.notes.append(f"no video: more than {MOST_BYTES // 1000} kB even when cut to {len(tried)} frames")
        return
    if tried.shape[2] < shown.shape[2]:
        media.notes.append(f"the video is reduced to {_size(tried)} to keep the page small")
    if len(tried) < len(frames):
        media.notes.append(f"the video is cut to its first {len(tried)} of {len(frames)} frames to keep the page small")
    media.size = (tried.shape[2], tried.shape[1])
    media.video = "data:video/mp4;base64," + base64.b64encode(data).decode()


def _h264(frames: Frames, fps: float, crf: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, frames, min(max(fps, 1.0), 60.0), crf=crf)
        return path.read_bytes()
