"""One video to make: prompt, first frame, perhaps a last frame, settings. A request that exists is a valid one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from musubi_ext.errors import Problems
from musubi_ext.generation.images import ImageSource, cover, fingerprint, load_image

MAX_PROMPT = 2_000  # characters; far beyond the 512 tokens that any Wan text encoder reads
MAX_VOLUME = 2**27  # frames × width × height of one request: 145 frames of 1280×720
SIZE_STEP = 16  # 8 pixels to a latent cell, 2 latent cells to a transformer patch
FRAME_STEP = 4  # pixel frames to a latent frame, after the first

_RANGES: dict[str, tuple[float, float, str]] = {  # field: lowest, highest, what it is
    "shift": (0.1, 100.0, "flow shift"),
    "guidance": (1.0, 30.0, "guidance of the high-noise expert; 1 is none"),
    "guidance_2": (1.0, 30.0, "guidance of the low-noise expert; 1 is none"),
    "fps": (1.0, 120.0, "frames per second"),
    "strength_high": (0.0, 2.0, "the pair's strength in the high-noise expert"),
    "strength_low": (0.0, 2.0, "the pair's strength in the low-noise expert"),
}


@dataclass(frozen=True)
class GenerationRequest:
    """Everything that decides the pixels of a video. Building one checks all of it and raises one UserError.

    `first` and `last` are files (PNG, JPEG, WebP), PIL images or uint8 arrays (H, W, 3); pictures of another size are
    scaled until they cover `size` (width, height, multiples of 16) and cropped about the centre. `frames` is 4n + 1.
    `guidance` is the high-noise expert's classifier-free guidance scale, `guidance_2` the low-noise expert's.
    """

    prompt: str
    first: ImageSource = field(compare=False)
    last: ImageSource | None = field(default=None, compare=False)
    size: tuple[int, int] = (64, 64)
    frames: int = 17
    steps: int = 12
    seed: int = 0
    shift: float = 5.0
    guidance: float = 1.0
    guidance_2: float = 1.0
    negative_prompt: str = ""
    fps: float = 8.0
    strength_high: float = 1.0
    strength_low: float = 1.0
    first_frame: Image.Image = field(init=False, repr=False)  # RGB, exactly `size`
    last_frame: Image.Image | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        problems = Problems()
        _check_prompts(self, problems)
        size_is_right = _check_size(self, problems)
        _check_counts(self, problems)
        _check_ranges(self, problems)
        first = load_image(self.first, "first", problems)
        last = None if self.last is None else load_image(self.last, "last", problems)
        problems.raise_if_any()
        assert first is not None
        assert size_is_right
        object.__setattr__(self, "first_frame", cover(first, self.size))
        object.__setattr__(self, "last_frame", None if last is None else cover(last, self.size))

    def record(self) -> dict[str, Any]:
        """The request as JSON: pictures by file name (never a path) and the SHA-256 of the pixels that were used."""
        value = {item.name: getattr(self, item.name) for item in fields(self) if item.init}
        value["size"] = list(self.size)
        value["first"] = _picture(self.first, self.first_frame)
        value["last"] = None if self.last_frame is None else _picture(self.last, self.last_frame)
        return value


def nearest_frames(frames: int) -> int:
    """The count of the form 4n + 1 closest to `frames` (the larger of two), at least 1."""
    return max(1, (frames - 1 + FRAME_STEP // 2) // FRAME_STEP * FRAME_STEP + 1)


def nearest_side(side: int) -> int:
    """The multiple of 16 closest to `side`, at least 16."""
    return max(SIZE_STEP, (side + SIZE_STEP // 2) // SIZE_STEP * SIZE_STEP)


def _picture(source: ImageSource | None, frame: Image.Image) -> dict[str, Any]:
    name = Path(source).name if isinstance(source, (str, Path)) else None
    return {"name": name, "sha256": fingerprint(frame)}


def _check_prompts(request: GenerationRequest, problems: Problems) -> None:
    for name in ("prompt", "negative_prompt"):
        text = getattr(request, name)
        if not isinstance(text, str):
            problems.add(name, f"expected text, found {type(text).__name__}")
        elif len(text) > MAX_PROMPT:
            problems.add(name, f"{len(text):,} characters, at most {MAX_PROMPT:,}", "shorten it")
    if isinstance(request.prompt, str) and not request.prompt.strip():
        problems.add("prompt", "is empty", "say what is seen and how the camera moves")
    if request.negative_prompt and request.guidance == 1:
        problems.add("negative_prompt", "has no effect at guidance 1", "give a guidance above 1, or no negative prompt")


def _check_size(request: GenerationRequest, problems: Problems) -> bool:
    size = request.size
    if not (isinstance(size, tuple) and len(size) == 2 and all(_is_count(side) for side in size)):
        problems.add("size", f"expected width and height in pixels, found {size!r}", "for example 64x64")
        return False
    width, height = size
    if min(size) < SIZE_STEP or width % SIZE_STEP or height % SIZE_STEP:
        nearest = f"{nearest_side(width)}x{nearest_side(height)}"
        problems.add("size", f"{width}x{height} does not divide by {SIZE_STEP}", f"the nearest that does is {nearest}")
        return False
    return True


def _check_counts(request: GenerationRequest, problems: Problems) -> None:
    if not _is_count(request.frames) or request.frames < 1 or request.frames % FRAME_STEP != 1:
        fix = f"the nearest is {nearest_frames(request.frames)}" if _is_count(request.frames) else "for example 17"
        problems.add("frames", f"expected 4n+1, found {request.frames!r}", fix)
    elif request.last is not None and request.frames == 1:
        problems.add("frames", "a first and a last frame need at least 5 frames, found 1", "the nearest is 5")
    if not _is_count(request.steps) or not 1 <= request.steps <= 1000:
        problems.add("steps", f"expected a whole number from 1 to 1000, found {request.steps!r}")
    if not _is_count(request.seed) or not 0 <= request.seed < 2**63:
        problems.add("seed", f"expected a whole number from 0 to 2^63 - 1, found {request.seed!r}")
    _check_volume(request, problems)


def _check_volume(request: GenerationRequest, problems: Problems) -> None:
    """Frames × pixels, before anything is allocated (CVE-2026-34755)."""
    counts = (request.frames, *request.size) if isinstance(request.size, tuple) else ()
    if all(_is_count(count) for count in counts) and math.prod(counts) > MAX_VOLUME:
        found = " x ".join(str(count) for count in counts)
        problems.add("size and frames", f"{found} is more than {MAX_VOLUME:,} pixels", "fewer frames or a smaller size")


def _check_ranges(request: GenerationRequest, problems: Problems) -> None:
    for name, (low, high, meaning) in _RANGES.items():
        value = getattr(request, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            problems.add(name, f"expected {low:g} to {high:g}, found {value!r}", meaning)
    if request.guidance == 1 and isinstance(request.guidance_2, (int, float)) and request.guidance_2 > 1:
        # diffusers decides from the high expert's scale alone whether the unconditional pass runs at all
        problems.add("guidance_2", f"{request.guidance_2:g} has no effect at guidance 1", "give both a scale above 1")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
