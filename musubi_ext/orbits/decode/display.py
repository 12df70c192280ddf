"""Turning frames upright: what a phone says about how it was held.

Cites ISO/IEC 14496-12 section 8.3.2 (`tkhd` matrix) and libavutil/display.h: 32-bit numbers a b u, c d v, x y w; the
pixel (x, y) is shown at (a·x + c·y, b·x + d·y).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

from av.sidedata.sidedata import Type

from musubi_ext.video import Frames

NEARLY = 1e-3  # sine of the angle that counts as none


@dataclass(frozen=True)
class Turn:
    """Swap x and y first, then flip left-right and top-bottom: the eight ways to lay down a rectangle."""

    swap: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def degrees(self) -> int:
        """Clockwise angle of the turn: 0, 90, 180 or 270; a mirrored picture counts as mirrored, then turned."""
        if self.swap:
            return 90 if self.flip_x else 270
        return 180 if self.flip_y else 0

    @property
    def mirrored(self) -> bool:
        """Whether the turn changes left and right: no rotation alone does it."""
        return self.swap ^ self.flip_x ^ self.flip_y

    def upright(self, frame: Frames) -> Frames:
        """One frame (H, W, 3) as it is meant to be seen; a view, the same array when nothing is to be done."""
        frame = frame.swapaxes(0, 1) if self.swap else frame
        frame = frame[:, ::-1] if self.flip_x else frame
        return frame[::-1] if self.flip_y else frame


QUARTERS = (Turn(), Turn(True, False, True), Turn(False, True, True), Turn(True, True, False))  # counterclockwise


def turn_of(frame: Any) -> Turn:
    """The turn a decoded frame (av.VideoFrame) asks for. Raises ValueError for an angle between quarter turns."""
    try:
        matrices = [bytes(data) for data in frame.side_data if data.type == Type.DISPLAYMATRIX]
    except ValueError:  # beside it lies a kind that PyAV has no name for, such as EXIF; the angle is read in C
        return turn_of_angle(frame.rotation)
    return turn_of_matrix(struct.unpack("=9i", matrices[0])) if matrices else Turn()


def turn_of_angle(degrees: int) -> Turn:
    """The turn by `degrees` counterclockwise, to within one. Raises ValueError for an angle between quarter turns."""
    quarters = round(degrees / 90)
    if abs(degrees - 90 * quarters) > 1:
        raise ValueError(f"a display matrix of {degrees} degrees")
    return QUARTERS[quarters % 4]


def turn_of_matrix(matrix: tuple[int, ...]) -> Turn:
    """The turn of the nine numbers of a display matrix. Raises ValueError for an angle between quarter turns."""
    a, b, _, c, d = matrix[:5]
    across, along = math.hypot(a, d), math.hypot(b, c)
    if min(across, along) > NEARLY * max(across, along) or not (a * d or b * c):
        raise ValueError(f"a display matrix of {math.degrees(math.atan2(b, a)):.1f} degrees")
    if along > across:
        return Turn(swap=True, flip_x=c < 0, flip_y=b < 0)
    return Turn(flip_x=a < 0, flip_y=d < 0)
