"""A job as /v1/videos shows it: the store's record in the convention's words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from musubi_ext.generation.request import nearest_frames
from serving.config import ServiceConfig
from serving.http.http_errors import public
from serving.http.schemas import ErrorDetail, Score, Status, Video
from serving.making.preview_names import step_of
from serving.queue.store import COMPLETED, JobRecord

MADE_FROM_VIDEO = ("thumbnail", "filmstrip")  # drawn when they are asked for, where the engine left none


def model_name(config: ServiceConfig) -> str:
    """The base, by the last part of its path: where it lies is nobody's business."""
    return Path(config.base).name


def version_name(version: dict[str, Any] | None) -> str:
    """NAME/3; "" for the base alone."""
    if not version or not version.get("name"):
        return ""
    return f"{version['name']}/{version['version']}" if version.get("version") else str(version["name"])


def video(job: JobRecord, config: ServiceConfig, defaults: Mapping[str, Any]) -> Video:
    """`job` as its owner may see it; `defaults` are its version's, for what the request left open."""
    result = job.result or {}
    request = {name: value for name, value in job.request.items() if value is not None}
    request = {**_settings(defaults), **request, **_settings(result.get("settings") or {})}
    version = version_name(job.version)
    return Video(
        id=job.id,
        model=model_name(config) + (f"+{version}" if version else ""),
        status=cast(Status, job.public_state),
        progress=100 if job.state == COMPLETED else min(job.progress, 99),
        created_at=int(job.created_at),
        started_at=_seconds(job.started_at),
        completed_at=_seconds(job.completed_at) if job.state == COMPLETED else None,
        expires_at=_seconds(job.expires_at),
        prompt=request.get("prompt"),
        seconds=_length(request),
        size=_size(request),
        error=_error(job),
        stage=job.stage if not job.finished else None,
        step=job.step,
        steps=job.steps,
        preview_step=None if job.finished else step_of(job.files.get("preview", "")),
        position=job.position,
        estimated_start=_seconds(job.estimated_start),
        version=job.version,
        scores={name: score(found) for name, found in (result.get("results") or {}).items()},
        stages=_stages(result.get("stages") or []),
        notes=[public(str(note)) for note in result.get("notes") or []],
        best_of=result.get("best_of"),
        request={name: value for name, value in request.items() if name not in ("first_frame", "last_frame")},
        variants=_variants(job),
    )


def score(found: dict[str, Any]) -> Score:
    """One metric's result: value and unit, or why there is none."""
    reason = found.get("unavailable")
    return Score(value=found.get("value"), unit=found.get("unit") or "", unavailable=reason and public(str(reason)))


_THEIRS = {"frames": "num_frames", "steps": "num_inference_steps", "guidance": "guidance_scale",
           "guidance_2": "guidance_scale_2", "shift": "flow_shift"}  # fmt: skip


def _settings(settled: Mapping[str, Any]) -> dict[str, Any]:
    """The settled request's settings, by the names that a client sends."""
    return {_THEIRS.get(name, name): value for name, value in settled.items() if name not in ("first", "last")}


def _error(job: JobRecord) -> ErrorDetail | None:
    if job.public_state != "failed":
        return None
    found = job.error or {}
    return ErrorDetail(code=found.get("code", "internal"), message=public(found.get("message", "")), param=None)


def _size(request: dict[str, Any]) -> str:
    size = request.get("size")
    return f"{size[0]}x{size[1]}" if size else ""


def _length(request: dict[str, Any]) -> str:
    """Seconds as text, the convention's way."""
    frames, fps = request.get("num_frames"), request.get("fps")
    if "seconds" in request and fps:  # asked for in seconds, and not settled yet
        frames = nearest_frames(round(request["seconds"] * fps))
    if frames and fps:
        return f"{frames / fps:g}"
    return ""


def _stages(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Stage → seconds of all candidates together, and the most memory."""
    stages: dict[str, Any] = {}
    for record in records:
        of = stages.setdefault(record["stage"], {"seconds": 0.0, "peak_bytes": 0, "memory": record.get("memory", "")})
        of["seconds"] = round(of["seconds"] + record["seconds"], 6)
        of["peak_bytes"] = max(of["peak_bytes"], record["peak_bytes"])
    return stages


def _variants(job: JobRecord) -> list[str]:
    if job.state != COMPLETED:
        return [name for name in job.files if name == "preview" and not job.finished]
    return list(dict.fromkeys([*job.files, *(MADE_FROM_VIDEO if "video" in job.files else ())]))


def _seconds(time: float | None) -> int | None:
    return None if time is None else int(time)
