"""The subject of a clip under evaluation, from whoever is to find it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from musubi_ext.evaluation.masks import Box, FoundMasks, MaskSource, find_masks, found
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.truth import Masks

if TYPE_CHECKING:
    from musubi_ext.evaluation.clip import Clip

GIVEN = "given"  # the provider's name of masks that the caller brought


def subject_of(clip: Clip, masks: MaskSource | Masks) -> FoundMasks:
    """The masks given, checked, or those that the provider finds; a box that was asked for tells it where to begin.

    Raises UnavailableError when it cannot, ValueError for masks of another shape.
    """
    if isinstance(masks, np.ndarray):
        if masks.shape != clip.shape[:3]:
            raise ValueError(f"masks: expected {clip.shape[:3]}, found {masks.shape}")
        return FoundMasks(masks, GIVEN, float(found(masks).mean()))
    truth = clip.truth if masks in (MaskSource.TRUTH, MaskSource.COLOR) else None
    box = _asked_box(clip) if masks in (MaskSource.FLOW, MaskSource.SAM2) else None
    return find_masks(masks, clip.frames, truth=truth, box=box, models=clip.models)


def _asked_box(clip: Clip) -> Box | None:
    """The first frame's box of the only object that was asked for, as far as it lies in the frame."""
    try:
        asked = clip.asked
    except UnavailableError:
        return None
    count, height, width, _ = clip.shape
    boxes = [one.box for one in asked.fitted(count, (width, height), clip.fps).objects]
    if len(boxes) != 1 or boxes[0] is None:
        return None
    x0, y0, x1, y1 = boxes[0]
    inside = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    return inside if inside[0] < inside[2] and inside[1] < inside[3] else None
