"""The limits that `data check` judges by: the defaults here, or a TOML such as dataset_toml/checks.toml."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from musubi_ext.errors import Problems, shown
from musubi_ext.orbits.schema import found, nearest, read_toml

Limit = float | None  # None: measured and reported, never a reason to reject
AUTO, CAMERA, PICTURE = "auto", "camera", "picture"  # what captions mean by a direction


@dataclass(frozen=True)
class Thresholds:
    """A clip is unfit below a `min_` or above a `max_`. Each can be switched off: `false` in TOML, None here."""

    min_decoded: Limit = 0.98  # share of the frames that the header announces
    min_frames: Limit = 5.0  # after frames are dropped to 16 a second; [[datasets]] target_frames may ask for more
    max_fps_error: Limit = 0.05  # share by which the clip's frame rate may miss source_fps, or 16 without it
    max_enlargement: Limit = 1.1  # times a side is scaled up to reach the size of training
    min_sharpness: Limit = 50.0  # variance of the Laplacian, at the size of training
    max_cut: Limit = 1.6  # largest frame step over the steps around it
    max_bars: Limit = 0.01  # share of the picture under black bars
    max_frozen: Limit = 0.1  # share of frames that repeat the one before
    min_copy_distance: Limit = 0.04  # share of perceptual hash bits that differ from the nearest earlier clip
    min_swept_angle: Limit = 10.0  # degrees, either direction
    max_unsteadiness: Limit = 0.5  # standard deviation of the angular speed over its mean
    max_centring: Limit = 0.25  # widths: mean distance of the subject from the middle
    max_centring_spread: Limit = 0.15  # widths: how far the subject wanders
    min_loop_closure: Limit = None  # correlation of first and last frame, of sweeps that come round
    caption_direction: str | None = AUTO  # AUTO: learned from the data set, CAMERA, PICTURE; None: not held against it
    min_confidence: Limit = 0.5  # of a measured direction, before captions are held against it
    require_caption: bool = True  # false: a clip without a caption, or with an empty one, is fit
    require_orbit: bool = False  # true: a clip whose orbit cannot be measured is unfit

    def as_dict(self) -> dict[str, float | bool | str | None]:
        """For the report: every limit by name, None where it is switched off."""
        return asdict(self)


def load_thresholds(path: Path | str | None) -> Thresholds:
    """Limits from the `[checks]` table of a TOML, the defaults for keys it leaves out; None gives the defaults.

    Raises UserError with every unknown key and every wrong value.
    """
    if path is None:
        return Thresholds()
    document = read_toml(Path(path), "a TOML of limits (see dataset_toml/checks.toml)")
    path, problems = shown(Path(path)), Problems()
    for key in sorted(document.keys() - {"checks"}):
        problems.add(f"{path} {shown(key)[:80]}", "unknown key", 'limits stand under "[checks]"')
    table = document.get("checks", {})
    if not isinstance(table, dict):
        problems.add(f"{path} checks", f"expected a table [checks], found {found(table)}")
        table = {}
    values = _values(path, table, problems)
    problems.raise_if_any()
    return Thresholds(**values)


def _values(path: str, table: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    kinds = {field.name: type(field.default) for field in fields(Thresholds)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        where = f"{path} [checks] {key}"
        if key not in kinds:
            problems.add(f"{path} [checks] {shown(key)[:80]}", "unknown key", nearest(key, kinds))
        elif kinds[key] is bool:
            if isinstance(value, bool):
                values[key] = value
            else:
                problems.add(where, f"expected true or false, found {found(value)}")
        elif value is False:
            values[key] = None
        elif kinds[key] is str:
            if value in (AUTO, CAMERA, PICTURE):
                values[key] = value
            else:
                problems.add(where, f'expected "{AUTO}", "{CAMERA}", "{PICTURE}" or false, found {found(value)}')
        elif _is_limit(value):
            values[key] = float(value)
        else:
            problems.add(where, f"expected a number from 0 up, or false for no limit, found {found(value)}")
    return values


def _is_limit(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value <= sys.float_info.max  # also no nan, and no integer beyond every decimal
