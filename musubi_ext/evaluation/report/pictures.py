"""Frames as pictures: a strip of them, the subject's mask and track drawn over it, and optical flow in colours."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from musubi_ext.evaluation.flow import Flow
from musubi_ext.evaluation.masks import centroids, found
from musubi_ext.evaluation.truth import Masks
from musubi_ext.video import Frames

SHORT = 96  # pixels of a cell's shorter side
GAP = 3
PAPER = 128  # of the gaps: neither light nor dark
QUALITY = 78
_MASK, _TRACK, _EDGE = (255, 120, 60), (255, 235, 60), (20, 20, 20)

Image8 = NDArray[np.uint8]


def strip(cells: Sequence[Image8]) -> str:
    """Cells (H, W, 3) of one size in a row, as the data URI of a JPEG."""
    scaled = [_scaled(cell) for cell in cells]
    gap = np.full((scaled[0].shape[0], GAP, 3), PAPER, np.uint8)
    row = [part for cell in scaled for part in (cell, gap)][:-1]
    return jpeg(np.concatenate(row, axis=1))


def overlays(frames: Frames, masks: Masks, indices: Sequence[int]) -> list[Image8]:
    """The frames `indices`, scaled, with the mask tinted and outlined and the centroid's way so far as a line."""
    height, width = frames.shape[1:3]
    scale = SHORT / min(height, width)
    seen: list[int] = np.flatnonzero(found(masks)).tolist()
    way = dict(zip(seen, centroids(masks[seen]) * scale, strict=True)) if seen else {}
    return [_overlay(frames[index], masks[index], [way[i] for i in seen if i <= index]) for index in indices]


def flow_pictures(flows: Sequence[Flow]) -> tuple[list[Image8], float]:
    """Flows (H, W, 2) as colours: hue is the direction, brightness the speed; and the speed that is fully bright."""
    speeds = [np.hypot(flow[..., 0], flow[..., 1]) for flow in flows]
    bright = max(float(np.percentile(np.stack(speeds), 99)), 1e-3)
    pictures = []
    for flow, speed in zip(flows, speeds, strict=True):
        hue = np.rint(np.degrees(np.arctan2(flow[..., 1], flow[..., 0])) / 2) % 180  # OpenCV's hue has 180 steps
        hsv = np.stack([hue, np.full_like(hue, 255), np.rint(np.minimum(speed / bright, 1) * 255)], axis=-1)
        pictures.append(np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8))
    return pictures, bright


def jpeg(picture: Image8) -> str:
    """A picture (H, W, 3) as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _scaled(picture: Image8) -> Image8:
    height, width = picture.shape[:2]
    if min(height, width) == SHORT:
        return picture
    scale = SHORT / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def _overlay(frame: Image8, mask: NDArray[np.bool_], way: Sequence[NDArray[np.float64]]) -> Image8:
    picture = _scaled(frame).copy()
    size = (picture.shape[1], picture.shape[0])
    inside = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR).astype(bool)
    picture[inside] = (0.6 * picture[inside] + 0.4 * np.array(_MASK)).astype(np.uint8)
    outline, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outline, -1, _MASK, 1, cv2.LINE_AA)
    if way:
        points = np.rint(np.stack(way) * 16).astype(np.int32)  # sixteenths of a pixel: shift = 4
        for colour, thickness in ((_EDGE, 3), (_TRACK, 1)):
            cv2.polylines(picture, [points], False, colour, thickness, cv2.LINE_AA, shift=4)
            cv2.circle(picture, points[-1].tolist(), (thickness + 1) * 16, colour, -1, cv2.LINE_AA, shift=4)
    return picture
