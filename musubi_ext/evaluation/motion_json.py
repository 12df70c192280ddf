"""Motion JSON and PoseTraj's JSON, read value by value: what is wrong is recorded with its key, and reading goes on.

Motion JSON is `{size, fps, frames, objects: [{id, box, points, depth?, visible?}], camera: [{t, pan, zoom, roll} or
{t, R, T}], views}`: pixels of the original picture, one point a frame, times in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.evaluation.asked import (
    Asked,
    AskedObject,
    Box,
    CameraMove,
    CameraPoses,
    Doubles,
    Flags,
    Pace,
    Size,
)

FURTHEST = 1e6  # pixels, seconds or units: what lies beyond is a mistake of writing
MOST_FRAMES = 100_000
ROTATION_ERROR = 1e-3  # of RᵀR against 1
KEYS = {"size", "fps", "frames", "objects", "camera", "views"}  # `views` asks nothing of one video
OBJECT_KEYS = {"id", "box", "points", "depth", "visible"}
MOVE_KEYS, POSE_KEYS = {"t", "pan", "zoom", "roll"}, {"t", "R", "T"}
ZOOMS = (0.01, 100.0)
LISTED = 50  # mistakes; of a file that is something else altogether, the rest would say nothing new


def read_document(path: Path, document: Any, size: Size | None) -> Asked:
    """The request in a JSON document. Raises UserError with every mistake; `size` as in `asked_files.read_asked`."""
    if not isinstance(document, dict) or not document:
        raise UserError(f"{shown(path)}: expected motion JSON or {{id: [[x, y], …]}}, found {_kind(document)}")
    reader = Reader(path)
    asked = reader.motion(document) if KEYS & document.keys() else reader.paths(document, size)
    more = len(reader.problems.found) - LISTED
    if more > 0:
        reader.problems.found[LISTED:] = [f"{shown(path)}: {more} more mistakes"]
    reader.problems.raise_if_any()
    return asked


class Reader:
    """Reads the parts of a JSON request and collects what is wrong with them."""

    def __init__(self, path: Path) -> None:
        self.path = shown(path)
        self.problems = Problems()

    def wrong(self, key: str, expected: str, found: object) -> None:
        """Record that `key` is not what was expected."""
        self.problems.add(f"{self.path}: {shown(key)}", f"expected {expected}, found {_kind(found)}")

    def motion(self, document: dict[str, Any]) -> Asked:
        """Motion JSON: {size, fps, frames, objects, camera, views}."""
        self._only(document, KEYS, "")
        size = self.numbers(document.get("size"), "size", (2,), least=1)
        fps = self.numbers(document.get("fps"), "fps", (), least=0.01)
        frames = document.get("frames")
        if not isinstance(frames, int) or isinstance(frames, bool) or not 2 <= frames <= MOST_FRAMES:
            self.wrong("frames", f"a whole number from 2 to {MOST_FRAMES}", frames)
            frames = None
        objects = self._objects(document.get("objects", []), frames)
        camera = self._camera(document.get("camera", []))
        return Asked(
            tuple(objects),
            camera,
            size=None if size is None else (round(size[0]), round(size[1])),
            fps=None if fps is None else float(fps),
            frames=frames,
        )

    def paths(self, document: dict[str, Any], size: Size | None) -> Asked:
        """PoseTraj's JSON: {id: [[x, y], …]}, a point a frame."""
        objects = [self._object(name, {"points": points}, name, name, None) for name, points in document.items()]
        return Asked(tuple(one for one in objects if one), size=size, pace=Pace.FRAME)

    def _objects(self, values: Any, frames: int | None) -> list[AskedObject]:
        if not isinstance(values, list):
            self.wrong("objects", "a list", values)
            return []
        found: list[AskedObject] = []
        names: set[str] = set()
        for index, value in enumerate(values):
            key = f"objects[{index}]"
            if not isinstance(value, dict):
                self.wrong(key, "an object {id, box, points, …}", value)
                continue
            self._only(value, OBJECT_KEYS, f"{key}.")
            name = value.get("id")
            if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
                self.wrong(f"{key}.id", "a name or a whole number", name)
            elif str(name) in names:
                self.problems.add(f"{self.path}: {key}.id", f"{str(name)!r} is the id of another object too")
            names.add(str(name))
            one = self._object(str(name), value, key, f"{key}.points", frames)
            found += [one] if one else []
        return found

    def _object(
        self, name: str, value: dict[str, Any], key: str, points: str, frames: int | None
    ) -> AskedObject | None:
        """One object: its path, and box, depth and visibility where given. None when the path is wrong."""
        path = self.numbers(value.get("points"), points, (frames, 2))
        box = None if value.get("box") is None else self._box(value["box"], f"{key}.box")
        count = None if path is None else len(path)
        depth = None if value.get("depth") is None else self.numbers(value["depth"], f"{key}.depth", (count,), 1e-6)
        visible = None if value.get("visible") is None else self._flags(value["visible"], f"{key}.visible", count)
        return None if path is None else AskedObject(name, path, box, visible, depth)

    def _box(self, value: Any, key: str) -> Box | None:
        corners = self.numbers(value, key, (4,))
        if corners is None:
            return None
        left, top, right, bottom = corners.tolist()
        if not (left < right and top < bottom):
            self.problems.add(f"{self.path}: {key}", f"expected [left, top, right, bottom], found {corners.tolist()}")
            return None
        return left, top, right, bottom

    def _flags(self, value: Any, key: str, count: int | None) -> Flags | None:
        right = isinstance(value, list) and all(isinstance(flag, bool) for flag in value)
        if not right or (count is not None and len(value) != count):
            self.wrong(key, f"{count or 'as many as points'} times true or false", value)
            return None
        return np.array(value, bool)

    def _camera(self, values: Any) -> CameraMove | CameraPoses | None:
        if not isinstance(values, list):
            self.wrong("camera", "a list of {t, pan, zoom, roll} or {t, R, T}", values)
            return None
        before = len(self.problems.found)
        posed = [isinstance(value, dict) and bool({"R", "T"} & value.keys()) for value in values]
        if any(posed) and not all(posed):
            self.problems.add(f"{self.path}: camera", "expected all {t, pan, zoom, roll} or all {t, R, T}, found both")
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                self.wrong(f"camera[{index}]", "{t, pan, zoom, roll} or {t, R, T}", value)
            else:
                self._only(value, POSE_KEYS if posed[index] else MOVE_KEYS, f"camera[{index}].")
        if len(self.problems.found) > before or not values:
            return None
        times = self._each(values, "t", (), None, least=0.0)
        if times is not None and (np.diff(times) <= 0).any():
            self.problems.add(f"{self.path}: camera", "expected t to increase from entry to entry, found otherwise")
        return self._poses(values, times) if all(posed) else self._moves(values, times)

    def _moves(self, values: list[dict[str, Any]], times: Doubles | None) -> CameraMove | None:
        pan = self._each(values, "pan", (2,), [0.0, 0.0])
        zoom = self._each(values, "zoom", (), 1.0, *ZOOMS)
        roll = self._each(values, "roll", (), 0.0)
        if times is None or pan is None or zoom is None or roll is None:
            return None
        return CameraMove(times, pan, zoom, roll)

    def _poses(self, values: list[dict[str, Any]], times: Doubles | None) -> CameraPoses | None:
        turn, shift = self._each(values, "R", (3, 3), None), self._each(values, "T", (3,), None)
        for index, one in enumerate(() if turn is None else turn):
            if np.abs(one.T @ one - np.eye(3)).max() > ROTATION_ERROR or np.linalg.det(one) < 0:
                self.problems.add(f"{self.path}: camera[{index}].R", "expected a rotation (RᵀR = 1, det R = 1)")
        return None if times is None or turn is None or shift is None else CameraPoses(times, turn, shift)

    def _each(
        self,
        values: list[dict[str, Any]],
        name: str,
        shape: tuple[int, ...],
        default: Any,
        least: float = -FURTHEST,
        most: float = FURTHEST,
    ) -> Doubles | None:
        """One key of every camera entry, stacked; None when any is wrong."""
        found = [
            self.numbers(value.get(name, default), f"camera[{index}].{name}", shape, least, most)
            for index, value in enumerate(values)
        ]
        return np.stack([one for one in found if one is not None]) if all(one is not None for one in found) else None

    def numbers(
        self, value: Any, key: str, shape: Sequence[int | None], least: float = -FURTHEST, most: float = FURTHEST
    ) -> Doubles | None:
        """Nested lists of finite numbers as an array of `shape` (None: two or more); None, and recorded, if not."""
        words = "×".join("N" if side is None else str(side) for side in shape)
        if not _nested(value, shape, _is_number):
            self.wrong(key, f"{words + ' ' if words else 'a '}number{'s' if words else ''}", value)
            return None
        array = np.array(value, np.float64)
        if not ((array >= least) & (array <= most)).all():
            self.problems.add(f"{self.path}: {shown(key)}", f"expected {least:g} to {most:g}, found numbers beyond")
            return None
        return array

    def _only(self, value: dict[str, Any], known: set[str], before: str) -> None:
        for key in sorted(value.keys() - known):
            self.problems.add(f"{self.path}: {before}{shown(key)}", "unknown key", f"known: {', '.join(sorted(known))}")


def _nested(value: Any, shape: Sequence[int | None], leaf: Callable[[Any], bool]) -> bool:
    if not shape:
        return leaf(value)
    right = isinstance(value, list) and (len(value) >= 2 if shape[0] is None else len(value) == shape[0])
    return right and all(_nested(one, shape[1:], leaf) for one in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300


def _kind(value: object) -> str:
    """What a JSON value is, short: numbers and short words as they are, lists and objects by their size."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
