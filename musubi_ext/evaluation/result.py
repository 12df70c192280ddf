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
VERSION = 2
READ = (1, VERSION)  # a result of version 1 has no stride, licence, masks and coverage


class UnavailableError(Exception):
    """A metric cannot be measured on this clip; the message is the reason shown to the reader."""


@dataclass(frozen=True)
class Reading:
    """A metric's raw answer: the value and the number of frames it was computed from.

    `stride`: frames from one of them to the next, on average. None: they spread evenly over the whole clip. `backend`:
    what measured, where the metric's general one does not say it all.
    """

    value: float
    frames: int
    stride: float | None = None
    backend: str = ""


@dataclass(frozen=True)
class Result:
    """One metric of one clip. Exactly one of `value` and `unavailable` is set; `value` is always finite.

    `frames` counts the frames used and `stride` is the distance from one to the next, on average: 1 when all are used,
    0 when there is only one. `resolution` is "WxH". `backend` names the library that measured, `licence` that of the
    weights behind it ("": none). `masks` names who found the subject ("": the metric needs no masks), `coverage` is the
    share of frames in which it was found.
    """

    value: float | None
    unit: str
    frames: int
    resolution: str
    backend: str
    unavailable: str | None = None
    stride: float = 0
    licence: str = ""
    masks: str = ""
    coverage: float | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.unavailable is None):
            raise ValueError("a result has either a value or a reason why it is unavailable")
        for name in ("value", "stride", "coverage"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"a result's {name} is finite, got {number}: give the reason instead")


ClipResults = Mapping[str, Result]


def results_document(
    clips: Mapping[str, ClipResults],
    settings: Mapping[str, Any] | None = None,
    *,
    scenes: Mapping[str, Any] | None = None,
    sets: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The results of several clips, by clip and metric name, as plain JSON values with a schema version.

    `settings`: what the run was asked for (profile, masks, …); `scenes`: prompt, first frame and seed of the clips that
    state them; `sets`: what was measured of all clips together (FID, FVD). All plain JSON values, left out when empty.
    """
    beside = {"settings": settings, "scenes": scenes, "sets": sets}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        **{name: dict(of) for name, of in beside.items() if of},
        "clips": {clip: {name: asdict(result) for name, result in of.items()} for clip, of in clips.items()},
    }


def write_results(
    path: Path | str, clips: Mapping[str, ClipResults], settings: Mapping[str, Any] | None = None, **beside: Any
) -> None:
    """Write `results_document` of the same arguments atomically; always valid JSON, since results are finite."""
    write_json(path, results_document(clips, settings, **beside))


def read_results(path: Path | str) -> dict[str, dict[str, Result]]:
    """Read what `write_results` wrote. Raises UserError for another schema, version or layout."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected results JSON, found text that is not JSON ({error})") from error
    found = (document.get("schema"), document.get("version")) if isinstance(document, dict) else None
    if found not in [(SCHEMA, version) for version in READ]:
        raise UserError(f"{path}: expected schema {SCHEMA} version {' or '.join(map(str, READ))}, found {found}")
    try:
        clips = document["clips"].items()
        return {clip: {name: Result(**fields) for name, fields in of.items()} for clip, of in clips}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: a result is malformed: {error}") from error
