"""One clip measured: decoded once, every number that the checks judge, a perceptual hash and a small filmstrip.

Runs in worker processes. What it returns is small (some 10 kB) and holds no frame.
"""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from musubi_ext.errors import UserError, shown
from musubi_ext.filmstrip import frame_indices
from musubi_ext.orbits.buckets import Size, choose_bucket
from musubi_ext.orbits.checks import measures
from musubi_ext.orbits.checks.duplicates import look
from musubi_ext.orbits.clips import WAN_FPS, ClipInfo, to_wan_fps
from musubi_ext.orbits.config import VideoDataset
from musubi_ext.orbits.decode.pool import load_frames, probe
from musubi_ext.orbits.geometry.orbit import estimate_orbit
from musubi_ext.orbits.windows import frames_needed
from musubi_ext.video import Frames

VERSION = 1  # of what is measured: a store of another version is measured again
WHOLE = 1 << 30  # bytes of frames up to which a clip is decoded to its end; beyond it, only what training reads
COUNTED = 1 << 20  # frames
STRIP_FRAMES, STRIP_HEIGHT = 6, 96  # of the filmstrip, pixels
Values = dict[str, float | None]
ORBIT = ("swept_angle", "steadiness", "centring", "centring_spread", "loop_closure", "confidence")


@dataclass(frozen=True)
class Measured:
    """What was found in a clip. `unreadable` gives the reason when nothing could be measured.

    A value that could not be measured is None and `unavailable` has its reason.
    """

    unreadable: str = ""
    width: int = 0  # pixels, as stored
    height: int = 0
    fps: float = 0.0
    codec: str = ""
    size: tuple[int, int] = (0, 0)  # width and height that training resizes it to
    direction: int = 0  # +1 right to left, −1 left to right, 0 unknown
    values: Values = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    look: str = ""  # perceptual hash, hex
    strip: str = ""  # JPEG filmstrip, base64

    def to_json(self) -> str:
        """One line of strict JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    def without_strip(self) -> Measured:
        """The numbers alone."""
        return replace(self, strip="")

    @classmethod
    def from_json(cls, text: str) -> Measured:
        """The reverse of `to_json`. Raises ValueError or TypeError on anything else."""
        fields = json.loads(text)
        return cls(**{**fields, "size": tuple(fields["size"])})


def settings_key(dataset: VideoDataset) -> str:
    """The settings of a data set that change what is measured, as text."""
    shape = [*dataset.resolution, dataset.enable_bucket, dataset.bucket_no_upscale, dataset.source_fps]
    return json.dumps([VERSION, *shape, frames_needed(dataset)])


def measure_clip(path: Path, dataset: VideoDataset) -> Measured:
    """Decode and measure one clip; one that cannot be read comes back with its reason, never as an exception."""
    try:
        info = probe(path)
        wanted = choose_bucket(
            info.size, dataset.resolution, enable_bucket=dataset.enable_bucket, no_upscale=dataset.bucket_no_upscale
        )
        frames, values = _decode(path, info, dataset, _reduced(wanted, info.size))
    except UserError as error:
        return Measured(unreadable=_without_path(path, error))
    except MemoryError:
        return Measured(unreadable="its frames do not fit in memory (cut or scale the clip)")
    return _measure(info, wanted, frames, {**values, "fps_error": _fps_error(info.fps, dataset.source_fps)})


def _reduced(wanted: Size, source: Size) -> Size:
    """`wanted`, or where the clip would be enlarged the largest size of that shape within it, sides of 2 or more."""
    scale = min(1.0, *(have / want for have, want in zip(source, wanted, strict=True)))
    width, height = (max(2, int(side * scale)) for side in wanted)
    return width, height


def _decode(path: Path, info: ClipInfo, dataset: VideoDataset, size: Size) -> tuple[Frames, Values]:
    """The frames that training may read; how many there are, and which share of those announced they are (None: not
    decoded to the end)."""
    needed, announced = frames_needed(dataset), _kept(info.frames, dataset.source_fps)
    whole = announced * size[0] * size[1] * 3 <= WHOLE
    frames = load_frames(path, size, limit=None if whole else needed, source_fps=dataset.source_fps)
    decoded = min(1.0, len(frames) / announced) if whole and announced else None
    return frames[:needed], {"decoded": decoded, "frames": float(len(frames))}


def _kept(frames: int, source_fps: float | None) -> int:
    """How many of `frames` are left at 16 a second; a header that announces more than a million is not counted out."""
    return frames if source_fps is None else sum(1 for _ in to_wan_fps(range(min(frames, COUNTED)), source_fps))


def _fps_error(fps: float, source_fps: float | None) -> float | None:
    """By which share the clip's frame rate misses the one it is read at; None when the header gives none."""
    return abs(fps / (source_fps or WAN_FPS) - 1) if fps else None


def _measure(info: ClipInfo, wanted: Size, frames: Frames, values: Values) -> Measured:
    gray = measures.gray_frames(frames)
    steps = measures.frame_steps(gray)
    values |= {
        "enlargement": max(want / have for want, have in zip(wanted, info.size, strict=True)),
        "sharpness": measures.sharpness(gray),
        "cut": measures.cut_strength(steps),
        "bars": measures.bar_share(gray),
        "frozen": measures.frozen_share(steps),
    }
    missing = {"decoded": "too long to decode to its end", "fps_error": "the header gives no frame rate"}
    unavailable = {name: reason for name, reason in missing.items() if values[name] is None}
    direction, orbit, lacking = _orbit(frames)
    return Measured(
        width=info.width,
        height=info.height,
        fps=round(info.fps, 3),
        codec=info.codec,
        size=wanted,
        direction=direction,
        values={**values, **orbit},
        unavailable={**unavailable, **lacking},
        look=look(gray),
        strip=_strip(frames),
    )


def _orbit(frames: Frames) -> tuple[int, Values, dict[str, str]]:
    """Direction, the orbit's numbers, and why any of them is missing."""
    orbit = estimate_orbit(frames)
    found = {name: getattr(orbit, name) for name in ORBIT}
    values: Values = {
        name: value if value is not None and math.isfinite(value) else None for name, value in found.items()
    }
    missing = {name: orbit.unavailable.get(name, "not finite") for name, value in values.items() if value is None}
    return orbit.direction, values, missing


def _strip(frames: Frames) -> str:
    """Six frames side by side, 96 pixels high, as a base64 JPEG."""
    height, width = frames.shape[1:3]
    cell = max(1, round(width * STRIP_HEIGHT / height)), STRIP_HEIGHT
    chosen = frames[frame_indices(len(frames), STRIP_FRAMES)]
    row = np.concatenate([cv2.resize(frame, cell, interpolation=cv2.INTER_AREA) for frame in chosen], axis=1)
    file = io.BytesIO()
    Image.fromarray(row).save(file, format="JPEG", quality=70)
    return base64.b64encode(file.getvalue()).decode()


def _without_path(path: Path, error: UserError) -> str:
    """The reason alone: the report names the clip beside it."""
    return "; ".join(problem.removeprefix(f"{shown(path)}: ") for problem in error.problems)
