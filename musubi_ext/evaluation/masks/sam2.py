"""The subject followed by SAM 2's video model: one instance, shown by a box or a point on the first frame.

Where the weights are absent the masks are unavailable, never another's.

The pictures are prepared here, as the model's processor does it, because that class asks for torchvision; one frame at
a time, because a clip at the model's 1024×1024 fills memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from musubi_ext.evaluation.features import PINNED, ModelSource, Network
from musubi_ext.evaluation.features.loaded import loaded
from musubi_ext.evaluation.masks.regions import Box, Point, check_box, check_point
from musubi_ext.evaluation.truth import Masks
from musubi_ext.video import Frames

LICENCE = PINNED[Network.SAM2].licence
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
INSTANCE = 1  # the name of the one object of a session
POSITIVE, TOP_LEFT, BOTTOM_RIGHT = 1, 2, 3  # the model's labels of prompt points


def segment(frames: Frames, models: ModelSource, *, box: Box | None = None, point: Point | None = None) -> Masks:
    """Masks (F, H, W) of one instance in uint8 RGB `frames` (F, H, W, 3); without box and point, what is in the middle.

    Raises UnavailableError when the weights are not found, ValueError for both a box and a point, or one outside the
    frame.
    """
    height, width = frames.shape[1:3]
    if box is not None and point is not None:
        raise ValueError("box and point: expected at most one of them")
    if box is not None:
        check_box(box, height, width)
    if point is not None:
        check_point(point, height, width)
    model = loaded(models, Network.SAM2).model
    masks = np.zeros(frames.shape[:3], dtype=bool)
    with torch.inference_mode():
        session = _session(model, frames, _prompt(box, point, height, width))
        for found in model.propagate_in_video_iterator(session, start_frame_idx=0):
            logits = interpolate(found.pred_masks.float(), (height, width), mode="bilinear", align_corners=False)
            masks[found.frame_idx] = (logits[0, 0] > 0).cpu().numpy()
    return masks


class _Prepared:
    """Frames as the model takes them, (3, S, S) each, made when they are asked for."""

    def __init__(self, frames: Frames, side: int) -> None:
        self.frames, self.side = frames, side

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> torch.Tensor:
        picture = torch.from_numpy(np.ascontiguousarray(self.frames[index])).permute(2, 0, 1)[None].float() / 255
        square = interpolate(picture, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        return (square[0] - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def _session(model: Any, frames: Frames, prompt: tuple[list[list[float]], list[int]]) -> Any:
    """A session with one instance, shown on frame 0 by points in shares of width and height and their labels."""
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    side = int(model.config.image_size)
    device = model.device
    session = Sam2VideoInferenceSession(
        video_height=frames.shape[1],
        video_width=frames.shape[2],
        inference_device=device,
        inference_state_device=device,
        dtype=model.dtype,
    )
    session.processed_frames = _Prepared(frames, side)
    points, labels = prompt
    inputs = {
        "point_coords": torch.tensor(points, device=device)[None, None] * side,
        "point_labels": torch.tensor(labels, dtype=torch.int32, device=device)[None, None],
    }
    session.add_point_inputs(session.obj_id_to_idx(INSTANCE), 0, inputs)
    session.obj_with_new_inputs = [INSTANCE]
    return session


def _prompt(box: Box | None, point: Point | None, height: int, width: int) -> tuple[list[list[float]], list[int]]:
    if box is not None:
        x0, y0, x1, y1 = box
        return [[x0 / width, y0 / height], [x1 / width, y1 / height]], [TOP_LEFT, BOTTOM_RIGHT]
    x, y = point if point is not None else (width / 2, height / 2)
    return [[x / width, y / height]], [POSITIVE]
