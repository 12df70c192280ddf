"""SAM 2's video model (N. Ravi et al., "SAM 2: Segment anything in images and videos", 2024) through transformers.

One instance, shown by a box or a point on the first frame, is followed through the clip. Weights come from a folder or
from the local hub cache at a pinned revision; where they are absent the masks are unavailable, never another's.

The pictures are prepared here, as the model's processor does it, because that class asks for torchvision; one frame at
a time, because a clip at the model's 1024×1024 fills memory.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from musubi_ext.evaluation.masks.regions import Box, Point, check_box, check_point
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.truth import Masks
from musubi_ext.video import Frames

REPOSITORY, REVISION = "facebook/sam2.1-hiera-tiny", "de431c4043854a71d8101e17995dfe596bf101a5"
LICENCE = "Apache-2.0"
FILES = ("config.json", "model.safetensors")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
INSTANCE = 1  # the name of the one object of a session
POSITIVE, TOP_LEFT, BOTTOM_RIGHT = 1, 2, 3  # the model's labels of prompt points


def segment(
    frames: Frames,
    *,
    box: Box | None = None,
    point: Point | None = None,
    folder: Path | str | None = None,
    offline: bool = True,
) -> Masks:
    """Masks (F, H, W) of one instance in uint8 RGB `frames` (F, H, W, 3); without box and point, what is in the middle.

    `folder`: the model's own folder or one that holds it as `sam2.1-hiera-tiny`. Raises UnavailableError when the
    weights are not found, ValueError for both a box and a point, or one outside the frame.
    """
    height, width = frames.shape[1:3]
    if box is not None and point is not None:
        raise ValueError("box and point: expected at most one of them")
    if box is not None:
        check_box(box, height, width)
    if point is not None:
        check_point(point, height, width)
    model = _loaded(str(_weights(folder, offline)))
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


@lru_cache(maxsize=1)
def _loaded(folder: str) -> Any:
    """The model, on the GPU where there is one; the last one is kept for the next clip."""
    from safetensors import SafetensorError
    from transformers import Sam2VideoModel
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model, report = Sam2VideoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnavailableError(f"SAM 2: {folder} could not be loaded: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    # What a file lacks is left at random values, and such a model answers all the same.
    if absent := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):
        raise UnavailableError(f"SAM 2: {folder} lacks {len(absent)} of the model's weights, {absent[0]} first")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _weights(folder: Path | str | None, offline: bool) -> Path:
    """The folder with `FILES`: the given one, its subfolder, or the hub's cache at the pinned revision."""
    if folder is not None:
        for path in (Path(folder), Path(folder) / REPOSITORY.rpartition("/")[2]):
            if all((path / name).is_file() for name in FILES):
                return path
        raise UnavailableError(f"SAM 2: not found in {folder}: expected {' and '.join(FILES)} of {REPOSITORY}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    name = f"{REPOSITORY}@{REVISION[:7]}"
    try:
        cached = snapshot_download(REPOSITORY, revision=REVISION, allow_patterns=list(FILES), local_files_only=offline)
    except (OSError, HfHubHTTPError) as error:
        where = "in the local cache" if offline else "on the hub"
        raise UnavailableError(f"SAM 2: {name} not found {where}") from error
    if missing := [file for file in FILES if not (Path(cached) / file).is_file()]:
        raise UnavailableError(f"SAM 2: {name} in the local cache lacks {', '.join(missing)}")
    return Path(cached)
