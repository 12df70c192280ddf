"""How much the optical flow may cost: Circle-Rotate's own values, or a quick look at them."""

from __future__ import annotations

from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.farneback import LEVELS

FAST_SIDE = 45  # pixels of the shorter side that the fast profile keeps at least
FAST_SHRINK = 4


class Profile(StrEnum):
    """`EXACT`: flow at the clip's size, as published. `FAST`: flow of frames at a quarter of each side."""

    EXACT = "exact"
    FAST = "fast"

    @property
    def levels(self) -> int:
        """Of the flow's pyramid: the fast profile has the coarse levels of the exact one, not the two finest."""
        return LEVELS if self is Profile.EXACT else LEVELS - int(np.log2(FAST_SHRINK))

    def shrink(self, height: int, width: int) -> int:
        """By how much frames are reduced before flow is measured; 1 is not at all."""
        return max(1, min(FAST_SHRINK, min(height, width) // FAST_SIDE)) if self is Profile.FAST else 1

    def reduced(self, gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A gray frame (H, W) for the flow: the same, or the means of squares of pixels."""
        shrink = self.shrink(*gray.shape)
        if shrink == 1:
            return gray
        size = gray.shape[1] // shrink, gray.shape[0] // shrink
        return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)

    def note(self, height: int, width: int) -> str:
        """What a result's backend says of it, "" for the exact one."""
        return f", flow at 1/{self.shrink(height, width)} size" if self is Profile.FAST else ""
