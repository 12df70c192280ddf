"""One way in to every provider of subject masks; the answer names the provider and how often it saw the subject."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from musubi_ext.evaluation.color_model import ColorModel
from musubi_ext.evaluation.features import ModelSource
from musubi_ext.evaluation.masks.color import track
from musubi_ext.evaluation.masks.flow import follow
from musubi_ext.evaluation.masks.regions import Box, Point, coverage
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.truth import Masks, Truth
from musubi_ext.video import Frames


class MaskSource(StrEnum):
    """Who says where the subject is. None is ever taken for another.

    `TRUTH`: the truth's own masks, right for its own frames only. `COLOR`: a colour model of the first true mask.
    `FLOW`: motion and appearance from a box, or from what stands out in the middle of the first frame; no weights.
    `SAM2`: SAM 2's video model from a point or a box, or else from the middle of the first frame.
    """

    TRUTH = "truth"
    COLOR = "color"
    FLOW = "flow"
    SAM2 = "sam2"


@dataclass(frozen=True)
class FoundMasks:
    """Masks (F, H, W), the provider's name, and the share of frames with a mask. `licence`: of its weights, if any."""

    masks: Masks
    provider: str
    coverage: float
    licence: str = ""


def find_masks(
    source: MaskSource | str,
    frames: Frames,
    *,
    truth: Truth | None = None,
    box: Box | None = None,
    point: Point | None = None,
    models: ModelSource | None = None,
) -> FoundMasks:
    """The subject's masks in uint8 RGB `frames` (F, H, W, 3); a frame where it was not found has an empty one.

    `box` (flow, sam2) and `point` (sam2) are in pixels of the first frame. `models` says where SAM 2's weights are (the
    local cache). Raises UnavailableError with the reason when this provider cannot answer, ValueError for a box or
    point that does not lie in the frame or that the provider does not take.
    """
    source = MaskSource(source)
    if not len(frames):
        raise UnavailableError("the clip has no frames to find a subject in")
    if box is not None and source not in (MaskSource.FLOW, MaskSource.SAM2):
        raise ValueError(f"box: the provider {source} takes none")
    if point is not None and source is not MaskSource.SAM2:
        raise ValueError(f"point: the provider {source} takes none")
    licence = ""
    if source is MaskSource.FLOW:
        masks = follow(frames, box)
    elif source is MaskSource.SAM2:
        from musubi_ext.evaluation.masks import sam2  # torch and transformers are heavy: only who asks loads them

        masks, licence = sam2.segment(frames, models or ModelSource(), box=box, point=point), sam2.LICENCE
    else:
        if truth is None:
            raise UnavailableError(f"masks by {source} need the truth, and no truth was given for this clip")
        masks = subject_masks(source, frames, truth)
    return FoundMasks(masks, source.value, coverage(masks), licence)


def subject_masks(source: MaskSource, frames: Frames, truth: Truth) -> Masks:
    """`find_masks` of a clip with a truth, the masks (F, H, W) alone."""
    if source is MaskSource.TRUTH:
        return truth.masks
    if source is not MaskSource.COLOR:
        return find_masks(source, frames, truth=truth).masks
    if not truth.masks[0].any():
        raise UnavailableError("the subject is not visible in the truth's first frame: no colour to follow")
    return track(ColorModel.fit(truth.frames[0], truth.masks[0]), frames, truth.masks[0])
