"""Frames as the networks take them: each transform exactly as the metric's authors apply it.

Written out, and without torchvision, because which resampling a library picks changes the features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from musubi_ext.video import Frames

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINO_SIDE, DINO_RESIZED = 224, 256


def clip_pixels(frames: Frames, side: int) -> torch.Tensor:
    """CLIP's own (N, 3, side, side): shorter side to `side`, bicubic on bytes, centre crop (Radford et al. 2021)."""
    resized = (_resized(frame, side, Image.Resampling.BICUBIC) for frame in frames)
    return _normalised(np.stack([_centre(frame, side, math.floor) for frame in resized]), CLIP_MEAN, CLIP_STD)


def circle_rotate_pixels(frames: Frames) -> torch.Tensor:
    """Circle-Rotate's for DINO (N, 3, 224, 224): shorter side to 256 bilinear on bytes, centre crop to 224."""
    resized = (_resized(frame, DINO_RESIZED, Image.Resampling.BILINEAR) for frame in frames)
    return _normalised(np.stack([_centre(frame, DINO_SIDE, round) for frame in resized]), IMAGENET_MEAN, IMAGENET_STD)


def vbench_pixels(frames: Frames) -> torch.Tensor:
    """VBench's `dino_transform(224)` (N, 3, H, W): shorter side to 224, bilinear on floats without antialiasing.

    The picture keeps its shape: nothing is cropped (vbench/utils.py of github.com/Vchitect/VBench, commit 45e79ec).
    """
    height, width = _shorter_to(DINO_SIDE, *frames.shape[1:3])
    resized = []
    for frame in frames:  # one by one: floats of a few 4K frames would fill memory
        picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
        resized.append(interpolate(picture, (height, width), mode="bilinear", align_corners=False, antialias=False))
    return _standardised(torch.cat(resized) / 255, IMAGENET_MEAN, IMAGENET_STD)


def _shorter_to(side: int, height: int, width: int) -> tuple[int, int]:
    """Height and width with the shorter one `side`, the longer one rounded down, as torchvision and transformers do."""
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _resized(frame: NDArray[np.uint8], side: int, resampling: Image.Resampling) -> NDArray[np.uint8]:
    height, width = _shorter_to(side, *frame.shape[:2])
    return np.asarray(Image.fromarray(frame).resize((width, height), resampling), dtype=np.uint8)


def _centre(frame: NDArray[np.uint8], side: int, rounded: Callable[[float], int]) -> NDArray[np.uint8]:
    """The middle of a frame; transformers rounds an odd margin down, torchvision to the even neighbour."""
    top, left = (rounded((length - side) / 2) for length in frame.shape[:2])
    return frame[top : top + side, left : left + side]


def _normalised(frames: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    return _standardised(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255, mean, std)


def _standardised(pictures: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    return (pictures - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
