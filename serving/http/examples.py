"""The OpenAPI document's examples: one of each error, by status, and one of each answer, by its schema."""

from __future__ import annotations

from typing import Any

from serving.http.schemas import EXAMPLE_ID


def _error(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "param": param}}


ERRORS: dict[int, dict[str, Any]] = {
    400: _error("invalid_request", "size: 60x64 does not divide by 16 (the nearest that does is 64x64)", "size"),
    401: _error("unauthorized", "this service asks for an API key (Authorization: Bearer …)"),
    403: _error("forbidden", "this API key has no scope videos:write"),
    404: _error("not_found", "no such job"),
    405: _error("method_not_allowed", "Method Not Allowed"),
    408: _error("request_timeout", "the body did not arrive within 120 seconds"),
    409: _error("conflict", "this Idempotency-Key was used for another request"),
    413: _error("too_large", "the body is larger than 50,000,000 bytes"),
    415: _error("unsupported_media_type", "expected multipart/form-data or application/json"),
    429: _error("quota_exceeded", "16 of your jobs wait or run already, the most that may"),
    503: _error("queue_full", "64 jobs wait already, the most that may; ask again later"),
    504: _error("timeout", "not made within 120 seconds: use POST /v1/videos"),
}
REQUEST = {"prompt": "camera circles right to left", "size": "64x64", "num_frames": 17, "seed": 7}
VIDEO: dict[str, Any] = {
    "id": EXAMPLE_ID,
    "object": "video",
    "model": "pocket-i2v+circle-rotate/3",
    "status": "completed",
    "progress": 100,
    "created_at": 1_790_000_000,
    "started_at": 1_790_000_001,
    "completed_at": 1_790_000_004,
    "expires_at": 1_790_259_204,
    "prompt": REQUEST["prompt"],
    "seconds": "2.125",
    "size": "64x64",
    "step": 12,
    "steps": 12,
    "version": {"name": "circle-rotate", "version": 3, "checksums": {"orbit_h.safetensors": "9f86d081…"}},
    "scores": {"subject_drift": {"value": 2.41, "unit": "px", "unavailable": None}},
    "stages": {"high": {"seconds": 0.4, "peak_bytes": 912_000_000, "memory": "rss"}},
    "request": {**REQUEST, "size": [64, 64], "fps": 8, "num_inference_steps": 12},
    "variants": ["video", "thumbnail", "filmstrip"],
}
ANSWERS: dict[str, dict[str, Any]] = {
    "Video": VIDEO,
    "VideoList": {"object": "list", "data": [VIDEO], "first_id": EXAMPLE_ID, "last_id": EXAMPLE_ID, "has_more": False},
    "Deleted": {"id": EXAMPLE_ID, "deleted": True, "object": "video.deleted"},
    "ModelList": {
        "object": "list",
        "data": [
            {"id": "pocket-i2v", "object": "model", "kind": "base"},
            {"id": "circle-rotate@champion", "object": "model", "kind": "alias", "version": 3},
            {"id": "circle-rotate/3", "object": "model", "kind": "version", "version": 3, "serving": True},
        ],
    },
    "Scores": {
        "object": "evaluation",
        "scores": {"temporal_flicker": {"value": 0.39, "unit": "px", "unavailable": None}},
    },
    "State": {"status": "ok"},
}
TEXTS = {
    "text/event-stream": 'event: in_progress\ndata: {"id": "video_…", "status": "in_progress", "progress": 50}\n\n',
    "text/plain": "# TYPE musubi_ext_queue_depth gauge\nmusubi_ext_queue_depth 2\n",
}
NOTIFICATION = {
    "entity": "model_version_alias",
    "action": "created",
    "timestamp": "2026-01-01T00:00:00+00:00",
    "data": {"name": "circle-rotate", "alias": "champion", "version": "3"},
}
