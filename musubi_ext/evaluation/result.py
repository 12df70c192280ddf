"""What a metric answers: a finite number with its unit and conditions, or the reason why there is none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from musubi_ext.errors import UserError
from musubi_ext.storage import write_json

SCHEMA = "musubi-ext/results"
VERSION = 1


class UnavailableError(Exception):
    """A metric cannot be measured on this clip; the message is the reason shown to the reader."""


@dataclass(frozen=True)
class Reading:
    """A metric's raw answer: the value and the number of frames it was computed from."""

    value: float
    frames: int


@dataclass(frozen=True)
class Result:
    """One metric of one clip. Exactly one of `value` and `unavailable` is set; `value` is always finite.

    `frames` counts the frames used, `resolution` is "WxH", `backend` names the library that measured.
    """

    value: float | None
    unit: str
    frames: int
    resolution: str
    backend: str
    unavailable: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.unavailable is None):
            raise ValueError("a result has either a value or a reason why it is unavailable")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a result's value is finite, got {self.value}: give the reason instead")


ClipResults = Mapping[str, Result]


def results_document(clips: Mapping[str, ClipResults]) -> dict[str, Any]:
    """The results of several clips, by clip and metric name, as plain JSON values with a schema version."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "clips": {clip: {name: asdict(result) for name, result in of.items()} for clip, of in clips.items()},
    }


def write_results(path: Path | str, clips: Mapping[str, ClipResults]) -> None:
    """Write `results_document` atomically; always valid JSON, since results are finite."""
    write_json(path, results_document(clips))


def read_results(path: Path | str) -> dict[str, dict[str, Result]]:
    """Read what `write_results` wrote. Raises UserError for another schema, version or layout."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected results JSON, found text that is not JSON ({error})") from error
    found = (document.get("schema"), document.get("version")) if isinstance(document, dict) else None
    if found != (SCHEMA, VERSION):
        raise UserError(f"{path}: expected schema {SCHEMA} version {VERSION}, found {found}")
    try:
        clips = document["clips"].items()
        return {clip: {name: Result(**fields) for name, fields in of.items()} for clip, of in clips}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: a result is malformed: {error}") from error
