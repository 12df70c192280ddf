"""What a client sends, taken apart: text fields and pictures, each checked before anything is decoded.

Bytes only. No field is an address or a path: nothing is ever fetched or opened for a client (CVE-2025-54381).
Forms and JSON and nothing else: pickles are refused (CVE-2025-27520).
"""

from __future__ import annotations

import base64
import binascii
import difflib
import io
import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from musubi_ext.generation.images import FORMATS  # the only decoders that Pillow is offered
from serving.config import Limits
from serving.http.http_errors import HttpError

MAX_TEXT = 64 * 1024  # bytes of one text field
MAX_FIELDS, MAX_FILES = 64, 4
MAX_PLAIN = 256 * 1024  # bytes of a URL-encoded form, which holds no file; a second for each 5 MB of "&&&&" otherwise
MAX_MARKS = 20_000  # of a JSON body's , : [ and {: two long prompts have fewer, and each may cost 64 bytes once parsed
_DATA_URI = re.compile(r"data:image/(?:png|jpeg|webp);base64,")


logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else a line of the log for every malformed form


@dataclass
class Sent:
    """One request's body: text fields by name (JSON keeps its numbers and objects), files by name."""

    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


async def read_sent(request: Request, texts: Collection[str], files: Mapping[str, int]) -> Sent:
    """The body of `request`, multipart/form-data or JSON. `texts`: known fields; `files`: known file → most bytes.

    Raises HttpError: 415 for another content type, 413 for a file over its cap, 400 for a malformed body, an
    unknown or repeated field, a file where text belongs and text where a file belongs.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _from_json(await request.body(), texts, files)
    plain = kind == "application/x-www-form-urlencoded"
    if plain and len(await request.body()) > MAX_PLAIN:
        raise HttpError(413, f"more than {MAX_PLAIN:,} bytes without a file: send multipart/form-data")
    if plain or kind == "multipart/form-data":
        form = await _form(request)
        try:
            return await _from_form(form, texts, files)
        finally:
            await form.close()
    raise HttpError(415, "expected multipart/form-data or application/json")


def check_header(data: bytes, name: str, limits: Limits) -> None:
    """Raises HttpError (param `name`) unless `data` begins as a PNG, JPEG or WebP within the cap on pixels.

    Only the header is read; `serving.making.request.JobRequest` decodes, which is when a damaged picture is found.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise HttpError(413, f"{name}: more than {limits.image_pixels:,} pixels", param=name) from None
    except (OSError, SyntaxError, ValueError):  # what Pillow raises on files that it does not know, or damaged ones
        message = f"{name}: not a readable PNG, JPEG or WebP picture (save it again as PNG)"
        raise HttpError(400, message, code="invalid_image", param=name) from None
    if width * height > limits.image_pixels:
        raise HttpError(413, f"{name}: {width}x{height} is more than {limits.image_pixels:,} pixels", param=name)


async def _form(request: Request) -> FormData:
    try:
        return await request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT)
    except HTTPException as error:  # Starlette's own sentence: a missing boundary, too many parts, a part too large
        raise HttpError(400, f"the form cannot be read: {error.detail}") from None
    except (FormParserError, UnicodeError, LookupError, KeyError, ValueError):
        raise HttpError(400, "the form cannot be read: it is malformed") from None


async def _from_form(form: FormData, texts: Collection[str], files: Mapping[str, int]) -> Sent:
    sent = Sent()
    for name, value in form.multi_items():
        _known(name, texts, files)
        if name in sent.fields or name in sent.files:
            raise HttpError(400, f"{name}: given twice", param=name)
        if isinstance(value, UploadFile):
            if name not in files:
                raise HttpError(400, f"{name}: expected text, found a file", param=name)
            sent.files[name] = await _bytes(value, name, files[name])
        elif name in files:
            if value:  # a browser sends "" for a file field that was left empty
                raise HttpError(400, _NO_ADDRESS.format(name=name), param=name)
        elif "\x00" in value:
            raise HttpError(400, f"{name}: holds a NUL character", param=name)
        else:
            sent.fields[name] = value
    return sent


_NO_ADDRESS = "{name}: expected the bytes of a file; addresses and paths are not taken"


async def _bytes(file: UploadFile, name: str, most: int) -> bytes:
    if (file.size or 0) > most:
        raise HttpError(413, f"{name}: more than {most:,} bytes", param=name)
    data = await file.read()
    if not data:
        raise HttpError(400, f"{name}: the file is empty", param=name)
    return data


def _from_json(body: bytes, texts: Collection[str], files: Mapping[str, int]) -> Sent:
    if sum(map(body.count, (b",", b":", b"[", b"{"))) > MAX_MARKS:  # pictures are base64, which has none of them
        raise HttpError(400, "the body is not a JSON object of fields: it has too many parts")
    try:
        document = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise HttpError(400, "the body is not JSON") from None
    if not isinstance(document, dict):
        raise HttpError(400, f"expected a JSON object, found {type(document).__name__}")
    sent = Sent()
    for name, value in document.items():
        _known(name, texts, files)
        if value is None:
            continue
        if name in files:
            sent.files[name] = _from_base64(value, name, files[name])
        elif isinstance(value, str) and ("\x00" in value or len(value) > MAX_TEXT):
            raise HttpError(400, f"{name}: too long, or holds a NUL character", param=name)
        else:
            sent.fields[name] = value
    return sent


def _from_base64(value: object, name: str, most: int) -> bytes:
    """A file in JSON: base64, alone or as a data: URI."""
    if not isinstance(value, str):
        raise HttpError(400, f"{name}: expected base64 text", param=name)
    text = value[match.end() :] if (match := _DATA_URI.match(value)) else value
    if len(text) > most * 4 // 3 + 4:
        raise HttpError(413, f"{name}: more than {most:,} bytes", param=name)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise HttpError(400, f"{name}: expected base64; addresses and paths are not taken", param=name) from None
    if not data:
        raise HttpError(400, f"{name}: the file is empty", param=name)
    return data


def _known(name: str, texts: Collection[str], files: Mapping[str, int]) -> None:
    known = [*texts, *files]
    if name not in known:
        plain = "".join(char for char in name[:60] if char.isprintable())
        near = difflib.get_close_matches(plain, known, n=1)
        fix = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise HttpError(400, f"{plain!r}: unknown field ({fix})", code="unknown_field", param=None)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: which of two equal ones counts, a proxy before us may see otherwise."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise HttpError(400, f"{next(name for name in names if names.count(name) > 1)[:60]!r}: given twice")
    return found
