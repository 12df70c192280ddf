"""How the picture moves: where each pixel was and will be, and which pixels move unlike the subject."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.masks.appearance import Map, log_ratio
from musubi_ext.video import Frames

Flow = NDArray[np.float32]

BINS = 21  # of either component of the flow
FINEST = 0.25  # pixels a bin: less is the flow's own noise
FLOOR = 0.5  # of a uniform distribution
SHIFT = 3.0  # pixels that the fast fifth of the picture should move by, for motion to tell layers apart
SMALLEST = 16  # pixels a side: the flow's patches need as much


@dataclass(frozen=True)
class Motion:
    """Flows (H, W, 2) of each frame to the one before and after (None at the ends), and its motion in bins (H, W)."""

    before: list[Flow | None]
    after: list[Flow | None]
    code: list[NDArray[np.int32] | None]

    @classmethod
    def of(cls, frames: Frames) -> Motion:
        """Dense inverse search (T. Kroeger et al., ECCV 2016) over RGB frames (F, H, W, 3)."""
        gray = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in frames]
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        count = len(gray)

        def flow(i: int, j: int) -> Flow:
            return np.asarray(search.calc(gray[i], gray[j], None), dtype=np.float32)

        before = [flow(i, i - 1) if i else None for i in range(count)]
        after = [flow(i, i + 1) if i + 1 < count else None for i in range(count)]
        stride = _stride([f for f in after if f is not None], count)
        code: list[NDArray[np.int32] | None] = []
        for i in range(count):
            other = i + stride if i + stride < count else i - stride
            near = after[i] if other == i + 1 else before[i] if other == i - 1 else None
            code.append(_bins(near if near is not None else flow(i, other)) if 0 <= other != i else None)
        return cls(before, after, code)

    def warped(self, index: int, masks: NDArray[np.bool_]) -> Map:
        """Where the neighbours' masks say the subject is in frame `index`: mean (H, W) of them moved by the flow."""
        moved = [
            _pulled(masks[index + step].astype(np.float32), flow)
            for step, flow in ((-1, self.before[index]), (1, self.after[index]))
            if flow is not None and masks[index + step].any()
        ]
        return np.asarray(np.mean(moved, axis=0), np.float32) if moved else masks[index].astype(np.float32)

    def evidence(self, index: int, weight: NDArray[np.floating]) -> Map:
        """At most 0, (H, W): how much less a pixel moves like those of `weight` (H, W) than like the others.

        The ground beside a subject moves as it does, so moving alike speaks for nothing.
        """
        code = self.code[index]
        if code is None:
            return np.zeros(weight.shape, np.float32)
        return np.minimum(log_ratio(code, weight, (BINS, BINS), FLOOR)(code), 0)

    def forward(self, index: int, mask: NDArray[np.bool_]) -> Map:
        """`mask` (H, W) of the frame before, moved to frame `index`."""
        flow = self.before[index]
        return mask.astype(np.float32) if flow is None else _pulled(mask.astype(np.float32), flow)


def _stride(flows: list[Flow], count: int) -> int:
    """Frames to look ahead so that the fast fifth of the picture moves by `SHIFT` pixels."""
    if not flows:
        return 1
    speed = float(np.median([np.percentile(np.linalg.norm(flow, axis=-1), 80) for flow in flows]))
    return int(np.clip(np.ceil(SHIFT / max(speed, 1e-3)), 1, max(1, count // 4)))


def _bins(flow: Flow) -> NDArray[np.int32]:
    widest = float(np.percentile(np.linalg.norm(flow, axis=-1), 95))
    half = BINS // 2
    step = max(widest / half, FINEST)
    code = np.clip(np.round(flow / step) + half, 0, BINS - 1).astype(np.int32)
    return np.asarray(code[..., 1] * BINS + code[..., 0], dtype=np.int32)


def _pulled(picture: Map, flow: Flow) -> Map:
    """`picture` (H, W) of the frame that `flow` (H, W, 2) leads to, seen from the frame it starts in."""
    height, width = picture.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = cv2.remap(picture, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, dtype=np.float32)
