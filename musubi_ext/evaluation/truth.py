"""What is known exactly about a rendered clip: the npz beside it (musubi_ext/orbits/render.py writes it)."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musubi_ext.errors import Problems, UserError
from musubi_ext.video import Frames

Masks = NDArray[np.bool_]
Degrees = NDArray[np.float32]

REQUIRED = ("frames", "mask", "azimuth", "direction")
SWEEP = ("sweep_frames", "sweep_mask", "sweep_azimuth")


@dataclass(frozen=True)
class Sweep:
    """Views of the same static scene around its subject: frames (A, H, W, 3), masks (A, H, W), azimuth (A,) in degrees.

    Azimuth increases strictly and has the sign of `Truth.azimuth`; 0 is the clip's first view.
    """

    frames: Frames
    masks: Masks
    azimuth: Degrees


@dataclass(frozen=True)
class Truth:
    """Frames (F, H, W, 3), subject masks (F, H, W), degrees swept so far (F,), and the captioned direction.

    The direction is +1 for "right to left", −1 for "left to right", 0 when the camera stands still.

    `sweep` is there for held-out scenes only; angles of a generated clip cannot be measured without it.
    """

    frames: Frames
    masks: Masks
    azimuth: Degrees
    direction: int
    sweep: Sweep | None = None

    @classmethod
    def load(cls, path: Path | str) -> Truth:
        """Read a truth file. Raises UserError naming every missing or misshapen array."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in (*REQUIRED, *SWEEP) if name in archive.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: expected a rendered clip's truth (.npz), found: {error}") from error
        _check(path, arrays)
        sweep = None
        if SWEEP[0] in arrays:
            sweep = Sweep(arrays["sweep_frames"], arrays["sweep_mask"].astype(bool), arrays["sweep_azimuth"])
        return cls(arrays["frames"], arrays["mask"].astype(bool), arrays["azimuth"], int(arrays["direction"]), sweep)


def _check(path: Path | str, arrays: dict[str, NDArray[np.generic]]) -> None:
    problems = Problems()
    groups = [REQUIRED] + ([SWEEP] if any(name in arrays for name in SWEEP) else [])
    for name in (name for group in groups for name in group if name not in arrays):
        problems.add(path, f"array {name!r} is missing", "render the clip again")
    problems.raise_if_any()
    for frames, mask, azimuth in (("frames", "mask", "azimuth"), SWEEP)[: len(groups)]:
        shape = arrays[frames].shape
        if arrays[frames].dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            problems.add(path, f"{frames}: expected uint8 (F, H, W, 3), found {arrays[frames].dtype} {shape}")
        elif arrays[mask].shape != shape[:3]:
            problems.add(path, f"{mask}: expected {shape[:3]} like {frames}, found {arrays[mask].shape}")
        if arrays[azimuth].shape != shape[:1]:
            problems.add(path, f"{azimuth}: expected {shape[:1]}, found {arrays[azimuth].shape}")
    if arrays["direction"].shape != () or arrays["direction"] not in (-1, 0, 1):
        problems.add(path, f"direction: expected -1, 0 or +1, found {arrays['direction']}")
    problems.raise_if_any()
