"""Copies of a clip in any folder: the same bytes by SHA-256, the same picture by a perceptual hash of five frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.filmstrip import frame_indices
from musubi_ext.orbits.checks.measures import GrayFrames

FRAMES = 5  # first, last and three between them, by time: copies at another frame rate keep their hash
SIDE, LOW = 32, 8  # a frame is scaled to 32×32, the lowest 8×8 of its cosine transform are kept
BITS = FRAMES * LOW * LOW
BLOCK = 512  # clips compared with all before them at a time


@dataclass(frozen=True)
class Nearest:
    """The earlier clip that one resembles most: its index, and the share of hash bits that differ (0 to 1)."""

    index: int
    distance: float
    identical: bool  # the same bytes


def look(gray: GrayFrames) -> str:
    """Perceptual hash of frames (F, H, W): 80 hex digits, 64 bits for each of five frames.

    A bit says whether a low cosine coefficient lies above the median of its frame ("pHash", C. Zauner 2010).
    """
    chosen = gray[frame_indices(len(gray), FRAMES)]
    bits = [_frame_bits(chosen[index * len(chosen) // FRAMES]) for index in range(FRAMES)]
    return np.packbits(np.concatenate(bits)).tobytes().hex()


def _frame_bits(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    small = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = np.asarray(cv2.dct(small))[:LOW, :LOW].ravel()
    return np.asarray(low > np.median(low[1:]), np.bool_)  # the mean brightness would weigh on the median


def nearest_before(digests: Sequence[str], looks: Sequence[str]) -> list[Nearest | None]:
    """For each clip the most similar of the clips before it; None for the first and for one without a `look` ("")."""
    found: list[Nearest | None] = [None] * len(looks)
    known = [index for index, text in enumerate(looks) if text]
    signs = _signs([looks[index] for index in known])
    first: dict[str, int] = {}
    for start in range(0, len(known), BLOCK):
        agreement = signs[start : start + BLOCK] @ signs[: start + BLOCK].T
        for row, scores in enumerate(agreement, start):
            clip = known[row]
            if digests[clip] in first:
                found[clip] = Nearest(first[digests[clip]], 0.0, True)
            elif row:
                best = int(np.argmax(scores[:row]))
                found[clip] = Nearest(known[best], (BITS - int(scores[best])) / (2 * BITS), False)
            first.setdefault(digests[clip], clip)
    return found


def _signs(looks: Sequence[str]) -> NDArray[np.float32]:
    """Hashes as ±1 (N, bits): their products count agreeing bits."""
    packed = np.frombuffer(bytes.fromhex("".join(looks)), np.uint8).reshape(len(looks), BITS // 8)
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1
