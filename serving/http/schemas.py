"""What travels over HTTP, as pydantic models: they are the OpenAPI document's schemas, with examples.

A request's values are checked by `serving.making.request.JobRequest`, all at once; the models here describe them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["queued", "in_progress", "completed", "failed"]
EXAMPLE_ID = "video_0123456789abcdef01234567"


class Shape(BaseModel):
    """A JSON object whose fields are all named here."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Shape):
    """What went wrong, for a program (`code`), a person (`message`) and a form (`param`)."""

    code: str = Field(examples=["invalid_request"])
    message: str = Field(examples=["size: 60x64 does not divide by 16 (the nearest that does is 64x64)"])
    param: str | None = Field(default=None, examples=["size"])


class ErrorBody(Shape):
    """The one shape of every error."""

    error: ErrorDetail


class Score(Shape):
    """One metric of a finished video: a value with its unit, or the reason why there is none."""

    value: float | None = Field(examples=[2.41])
    unit: str = Field(default="", examples=["px"])
    unavailable: str | None = Field(default=None, examples=["clip_i: its weights are not here"])


class Video(Shape):
    """One job, as /v1/videos shows it. A cancelled job is `failed` with error code `cancelled`."""

    id: str = Field(pattern=r"^video_[0-9a-f]{24}$", examples=[EXAMPLE_ID])
    object: Literal["video"] = "video"
    model: str = Field(description="the base, + the pair's version", examples=["pocket-i2v+circle-rotate/3"])
    status: Status
    progress: int = Field(ge=0, le=100, description="percent of the denoising steps of all stages")
    created_at: int = Field(description="seconds since 1970", examples=[1_790_000_000])
    completed_at: int | None = None
    expires_at: int | None = Field(default=None, description="when the files are deleted")
    prompt: str | None = Field(default=None, examples=["camera circles right to left"])
    seconds: str = Field(examples=["2.125"])
    size: str = Field(examples=["64x64"])
    error: ErrorDetail | None = None
    stage: str | None = Field(default=None, description="encode, high, low, decode or evaluate", examples=["high"])
    step: int = Field(default=0, ge=0)
    steps: int = Field(default=0, ge=0)
    preview_step: int | None = Field(default=None, description="of the picture at …/content?variant=preview")
    position: int | None = Field(default=None, description="in the queue; 1 is next")
    estimated_start: int | None = None
    started_at: int | None = None
    version: dict[str, Any] | None = Field(
        default=None, description="the adapter version that makes it, fixed when the job was accepted"
    )
    scores: dict[str, Score] = Field(default_factory=dict)
    stages: dict[str, Any] = Field(default_factory=dict, description="seconds and peak memory of each stage")
    notes: list[str] = Field(default_factory=list, description="what could not be honoured in full")
    best_of: dict[str, Any] | None = Field(default=None, description="every candidate's seed and score")
    request: dict[str, Any] = Field(default_factory=dict, description="the settings it is made with")
    variants: list[str] = Field(default_factory=list, description="what …/content has", examples=[["video"]])


class VideoList(Shape):
    """One page of jobs; `last_id` is the next page's `after`."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(Shape):
    """The job and its files are gone."""

    id: str
    deleted: bool
    object: Literal["video.deleted"] = "video.deleted"


class Model(Shape):
    """A base, a pair's version or an alias: `id` is what a request names as `pair` (or `model`, for a base)."""

    id: str = Field(examples=["circle-rotate@champion"])
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "musubi-ext"
    kind: Literal["base", "folder", "version", "alias"] = "version"
    version: int | None = None
    aliases: list[str] = Field(default_factory=list)
    serving: bool = Field(default=False, description="what a request that names nothing gets")
    note: str | None = Field(default=None, description="why it could not be loaded")
    alarm: str | None = Field(default=None, description="what of its last videos is worse than it was promoted with")


class ModelList(Shape):
    """Bases, pairs, aliases and versions."""

    object: Literal["list"] = "list"
    data: list[Model]


class Scores(Shape):
    """The measurements of an uploaded video."""

    object: Literal["evaluation"] = "evaluation"
    scores: dict[str, Score]


class State(Shape):
    """An answer of /livez and /readyz."""

    status: Literal["ok", "unavailable"]


# One line per field: JSON type, lowest, highest, what it is, example.
_NUMBERS: dict[str, tuple[str, float, float, str, Any]] = {
    "width": ("integer", 16, 8192, "pixels, with height instead of size", 64),
    "height": ("integer", 16, 8192, "pixels, with width instead of size", 64),
    "num_frames": ("integer", 1, 10_000, "4n + 1; instead of seconds", 17),
    "fps": ("number", 1, 120, "frames per second", 8),
    "seed": ("integer", 0, 2**63 - 1, "the same seed gives the same video", 7),
    "num_inference_steps": ("integer", 1, 1000, "denoising steps", 12),
    "guidance_scale": ("number", 1, 30, "of the high-noise expert; 1 is none", 1),
    "guidance_scale_2": ("number", 1, 30, "of the low-noise expert; 1 is none", 1),
    "boundary_ratio": ("number", 0, 1, "where the low-noise expert takes over; only the base's own is taken", 0.9),
    "flow_shift": ("number", 0.1, 100, "of the noise schedule", 5),
    "strength_high": ("number", 0, 2, "of the pair in the high-noise expert", 1),
    "strength_low": ("number", 0, 2, "of the pair in the low-noise expert", 1),
    "best_of": ("integer", 1, 64, "make this many seeds, keep the best by rank_by", 1),
    "priority": ("integer", -100, 100, "higher starts earlier", 0),
}
_TEXTS: dict[str, tuple[str, Any]] = {
    "prompt": ("what is seen and how the camera moves", "camera circles right to left"),
    "negative_prompt": ("what should not be seen; needs a guidance above 1", ""),
    "model": ("the base that serves; any other is refused", "pocket-i2v"),
    "pair": ("registered pair: NAME@ALIAS or NAME/VERSION; none for the base alone", "circle-rotate@champion"),
    "size": ("WxH, both divisible by 16", "64x64"),
    "seconds": ("length as text; the nearest 4n + 1 frames", "2.125"),
    "rank_by": ("the metric that best_of chooses by", "drift"),
    "webhook": ("https address to call at the end; its host must be allowed by the service", None),
}
FILES = {
    "first_frame": "PNG, JPEG or WebP",
    "last_frame": "PNG, JPEG or WebP; the video ends there",
    "input_reference": "another name of first_frame",
}


def create_body(known: Iterable[str]) -> dict[str, Any]:
    """OpenAPI's requestBody of POST /v1/videos, for the fields `known` to the service and the pictures."""
    properties: dict[str, Any] = {}
    for name in known:
        properties[name] = _property(name)
    multipart = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    encoded = {"type": "string", "format": "byte", "contentEncoding": "base64"}
    forms = []
    for picture in (multipart, encoded):
        pictures = {name: {**picture, "description": text} for name, text in FILES.items()}
        forms.append({
            "type": "object",
            "required": ["prompt"],
            "additionalProperties": False,
            "properties": {**properties, **pictures},
        })  # fmt: skip
    example = {"prompt": "camera circles right to left", "size": "64x64", "num_frames": 17, "seed": 7}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": forms[0], "example": example},
            "application/json": {"schema": forms[1], "example": example},
        },
    }


def _property(name: str) -> dict[str, Any]:
    if name in _NUMBERS:
        kind, low, high, text, example = _NUMBERS[name]
        return {"type": kind, "minimum": low, "maximum": high, "description": text, "examples": [example]}
    if name in _TEXTS:
        text, example = _TEXTS[name]
        return {"type": "string", "description": text} | ({} if example is None else {"examples": [example]})
    return {"description": "an object, or its JSON as text"}


def evaluate_body() -> dict[str, Any]:
    """OpenAPI's requestBody of POST /v1/evaluate."""
    metrics = "names with commas between; without, those that every video made here gets"
    properties = {
        "video": {"type": "string", "format": "binary", "description": "mp4, webm, mkv, mov or gif"},
        "metrics": {"type": "string", "description": metrics, "examples": ["subject_drift,temporal_flicker"]},
        "caption": {"type": "string", "description": "what the video should show"},
    }
    schema = {"type": "object", "required": ["video"], "additionalProperties": False, "properties": properties}
    example = {"metrics": "subject_drift,temporal_flicker", "caption": "camera circles right to left"}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema, "example": example}}}
