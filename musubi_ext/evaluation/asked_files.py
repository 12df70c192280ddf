"""Requests in files: motion JSON, Zo3T's `traj.npy`, PoseTraj's JSON. Every mistake of a file is reported at once."""

from __future__ import annotations

import io
import json
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.evaluation.asked import Asked, AskedObject, Pace, Size
from musubi_ext.evaluation.motion_json import FURTHEST, read_document

LARGEST = 16 << 20  # bytes of a file: a thousand objects over a thousand frames


def read_asked(path: Path, size: Size | None) -> Asked:
    """The request in a file, by its suffix and its keys; see `Asked.load`."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{shown(path)}: expected at most {LARGEST >> 20} MiB, found {path.stat().st_size} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror}") from error
    return _from_array(path, data, size) if path.suffix.lower() == ".npy" else _from_json(path, data, size)


def _from_json(path: Path, data: bytes, size: Size | None) -> Asked:
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_refused, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)}: expected JSON, found: {error}") from error
    return read_document(path, document, size)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key given twice among {shown(', '.join(key for key, _ in pairs)[:80])}")
    return found


def _from_array(path: Path, data: bytes, size: Size | None) -> Asked:
    """Zo3T's array: per object two corners of its box in the first frame, then a centre a frame."""
    where = shown(path)
    array = _array(path, data)
    if array.dtype.kind not in "iuf" or array.ndim != 3 or array.shape[2] != 2 or array.shape[1] < 4 or not len(array):
        raise UserError(f"{where}: expected numbers [N, 2+F, 2] with N ≥ 1, F ≥ 2, found {array.dtype} {array.shape}")
    problems = Problems()
    numbers = array.astype(np.float64)
    for index, one in enumerate(numbers):
        if not (np.abs(one) <= FURTHEST).all():
            problems.add(where, f"[{index}]: expected finite pixels up to {FURTHEST:.0e}, found others")
        elif not (one[0] < one[1]).all():
            problems.add(where, f"[{index}]: expected top left before bottom right, found {one[:2].tolist()}")
    image = path.with_name("img.png")
    if size is None and image.is_file():
        size = problems.collect(lambda: _size_of(image))
    problems.raise_if_any()
    objects = (AskedObject(str(i), one[2:], tuple(one[:2].ravel().tolist())) for i, one in enumerate(numbers))
    return Asked(tuple(objects), size=size, pace=Pace.STRETCH)


def _array(path: Path, data: bytes) -> np.ndarray[Any, np.dtype[Any]]:
    """The array of a .npy file, its promised size compared with the file's before anything is allocated."""
    where, file = shown(path), io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject:
            raise ValueError("Python objects")
        if int(np.prod(shape, dtype=object)) * dtype.itemsize > len(data):
            raise ValueError(f"{dtype} {shape} promised in {len(data)} bytes")
        file.seek(0)
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except (ValueError, TypeError, SyntaxError, OverflowError, EOFError, tokenize.TokenError) as error:
        raise UserError(f"{where}: expected a .npy array of numbers, found: {error}") from error


def _size_of(image: Path) -> Size:
    try:
        with Image.open(image, formats=("PNG", "JPEG", "WEBP")) as opened:
            return opened.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{shown(image)}: expected the picture the paths were drawn on, found: {error}") from error
