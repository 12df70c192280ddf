"""The fields of a request as they come over the wire: names, types, ranges, pictures. Nothing here is trusted.

Every mistake is one line in `problems`; paths, addresses and names of files are never read as such.
"""

from __future__ import annotations

import difflib
import io
import json
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

from PIL import Image

from musubi_ext.errors import Problems
from musubi_ext.generation.images import FORMATS, load_image
from serving.config import Limits

NUMBERS: dict[str, tuple[type, float, float]] = {  # field: its type, lowest, highest; the limits say more of some
    "num_frames": (int, 1, 10_000),
    "seconds": (float, 0.01, 3_600),
    "fps": (float, 1, 120),
    "seed": (int, 0, 2**63 - 1),
    "num_inference_steps": (int, 1, 1_000),
    "guidance_scale": (float, 1, 30),
    "guidance_scale_2": (float, 1, 30),
    "boundary_ratio": (float, 0, 1),
    "flow_shift": (float, 0.1, 100),
    "strength_high": (float, 0, 2),
    "strength_low": (float, 0, 2),
    "best_of": (int, 1, 64),
    "width": (int, 16, 8_192),
    "height": (int, 16, 8_192),
}
TEXTS = ("prompt", "negative_prompt", "size", "model", "pair", "lora", "rank_by")
FILES = ("first_frame", "last_frame", "input_reference")  # the last is OpenAI's name of the first

_PAIR = re.compile(r"(models:/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[A-Za-z][A-Za-z0-9_-]{0,63}|/[1-9][0-9]{0,8})|none")
_METRIC = re.compile(r"[a-z0-9_]{1,64}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}")


def check_names(given: Mapping[str, Any], files: Mapping[str, Any], problems: Problems) -> None:
    """Unknown fields and files, with the nearest known name."""
    known = [*NUMBERS, *TEXTS]
    for name in given.keys() - set(known):
        if name in FILES:
            problems.add(name, "expected an uploaded file, found text", "no paths and no addresses: send the bytes")
            continue
        near = difflib.get_close_matches(str(name), known, n=1)
        problems.add(_quoted(name), "no such field", f"did you mean {near[0]}?" if near else "leave it out")
    for name in files.keys() - set(FILES):
        problems.add(_quoted(name), "no such file field", f"one of {', '.join(FILES)}")
    if {"first_frame", "input_reference"} <= files.keys():
        problems.add("input_reference", "is another name of first_frame, and both were sent", "send one")


def read_fields(given: Mapping[str, Any], limits: Limits, problems: Problems) -> dict[str, Any]:
    """The values of known fields by their own types, `size` as (width, height), `lora` as `pair` and strengths."""
    values: dict[str, Any] = {name: _number(name, given[name], problems) for name in NUMBERS if name in given}
    for name in [name for name in TEXTS if name in given and name != "lora"]:
        values[name] = _text(name, given[name], limits.prompt, problems)
    values["size"] = _size(values, problems)
    if "lora" in given:
        _read_lora(given["lora"], values, problems)
    return {name: value for name, value in values.items() if value is not None}


def _quoted(name: object) -> str:
    text = str(name)
    return repr(text if len(text) <= 40 else text[:37] + "…")


def _number(name: str, value: Any, problems: Problems) -> float | int | None:
    kind, low, high = NUMBERS[name]
    try:
        if isinstance(value, bool):
            raise ValueError
        number: float | int = kind(value)
        if kind is int and not isinstance(value, str) and number != value:
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        what = "a whole number" if kind is int else "a number"
        problems.add(name, f"expected {what}, found {_quoted(value)}")
        return None
    if not math.isfinite(number) or not low <= number <= high:
        problems.add(name, f"expected {low:g} to {high:g}, found {number:g}")
        return None
    return number


def _text(name: str, value: Any, longest: int, problems: Problems) -> str | None:
    if not isinstance(value, str):
        problems.add(name, f"expected text, found {type(value).__name__}")
        return None
    if len(value) > longest:
        problems.add(name, f"{len(value):,} characters, at most {longest:,}", "shorten it")
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        problems.add(name, "holds half a character (a lone surrogate)", "send valid Unicode")
        return None
    if "\0" in value:
        problems.add(name, "holds a NUL character", "remove it")
        return None
    return value


def _size(values: dict[str, Any], problems: Problems) -> tuple[int, int] | None:
    """ "64x48", or width and height, which leave `values`."""
    text, width, height = values.pop("size", None), values.pop("width", None), values.pop("height", None)
    if (width is None) != (height is None):
        problems.add("width and height", "one was given without the other", "give both, or size")
    if text is None:
        return None if width is None or height is None else (width, height)
    if width is not None:
        problems.add("size", "was given beside width and height", "give one of them")
    match = re.fullmatch(r"([0-9]{1,5})[xX]([0-9]{1,5})", text.strip())
    if match is None:
        problems.add("size", f"expected WIDTHxHEIGHT, found {_quoted(text)}", "for example 64x64")
        return None
    return int(match[1]), int(match[2])


def _read_lora(value: Any, values: dict[str, Any], problems: Problems) -> None:
    """Theirs: a name, or {"name": …, "scale": …}; JSON, or a text of JSON. Paths and addresses are never read."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            problems.add("lora", "expected JSON", '{"name": "NAME@champion", "scale": 1.0}')
            return
    value = {"name": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value.keys() - {"name", "scale"}:
        problems.add("lora", "expected a registered name, and perhaps a scale", '{"name": "NAME@champion", "scale": 1}')
        return
    if "pair" in values:
        problems.add("lora", "is another name of pair, and both were given", "give one")
    values["pair"] = value["name"]
    if "scale" in value and (scale := _number("strength_high", value["scale"], problems)) is not None:
        values.setdefault("strength_high", scale)
        values.setdefault("strength_low", scale)


def check_values(values: dict[str, Any], limits: Limits, problems: Problems) -> None:
    """What a field may be beyond its type, as far as the request alone says it."""
    if not values.get("prompt", "").strip():
        problems.add("prompt", "is empty", "say what is seen and how the camera moves")
    for name, pattern, example in (
        ("pair", _PAIR, "NAME@champion, NAME/3, or none"),
        ("model", _MODEL, "letters, digits and . _ - : / @"),
    ):
        if values.get(name) and (not pattern.fullmatch(values[name]) or ".." in values[name]):
            problems.add(name, f"{_quoted(values[name])} is no name", example)
    if values.get("num_frames") is not None and values.get("seconds") is not None:
        problems.add("seconds", "was given beside num_frames", "give one of them")
    if (ratio := values.get("boundary_ratio")) is not None and not 0 < ratio < 1:
        problems.add("boundary_ratio", f"expected a number between 0 and 1, found {ratio:g}")
    width, height = values.get("size") or (0, 0)
    for name, found, most in (
        ("size", width * height, limits.frame_pixels),
        ("num_frames", values.get("num_frames") or 0, limits.frames),
        ("num_inference_steps", values.get("num_inference_steps") or 0, limits.steps),
        ("best_of", values.get("best_of") or 0, limits.best_of),
    ):
        if found > most:
            problems.add(name, f"{found:,} is more than the {most:,} that this service makes")
    if "rank_by" in values and not _METRIC.fullmatch(values["rank_by"]):
        problems.add("rank_by", f"{_quoted(values['rank_by'])} is no metric", "drift, flicker, or a full name")
    elif "rank_by" in values:
        from musubi_ext.ranking import ranking  # half a second: only who asks for it waits

        problems.collect(lambda: ranking(values["rank_by"]))


def picture(name: str, data: bytes | Image.Image | None, limits: Limits, problems: Problems) -> Image.Image | None:
    """The picture upright in RGB. Only its header is read before its size is known to be allowed."""
    if data is None:
        return None
    if isinstance(data, Image.Image):
        return load_image(data, name, problems)
    if len(data) > limits.upload_bytes:
        problems.add(name, f"{len(data):,} bytes, at most {limits.upload_bytes:,}", "scale it down first")
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > limits.image_pixels:
                    found = f"{image.width}x{image.height} is more than {limits.image_pixels:,} pixels"
                    problems.add(name, found, "scale it down first")
                    return None
                return load_image(image, name, problems)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        problems.add(name, f"more than {limits.image_pixels:,} pixels", "scale it down first")
    except (OSError, SyntaxError, ValueError, MemoryError):  # what Pillow raises on damaged files
        problems.add(name, "not a readable PNG, JPEG or WebP picture", "save it again as PNG")
    return None
