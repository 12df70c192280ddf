"""What the model is given of a clip: its first frame, or its first and last, as mask and image latents.

The layout of diffusers' `WanImageToVideoPipeline.prepare_latents` for `image` and `last_image`, and of musubi-tuner's
`wan_cache_latents.py` for the first frame alone: 4 mask channels, then the VAE's latents of [first, zeros…, (last)].
"""

from __future__ import annotations

import torch
from torch import Tensor

TEMPORAL = 4  # pixel frames in a latent frame; the first latent frame holds one


def given_frames(frames: int, last: bool) -> list[int]:
    """Indices of the pixel frames that are given."""
    return [0, frames - 1] if last and frames > 1 else [0]


def condition_mask(frames: int, latent_hw: tuple[int, int], last: bool) -> Tensor:
    """1 at given pixel frames: (4, (frames − 1)/4 + 1, h, w), the first frame repeated to fill its latent frame."""
    mask = torch.zeros(frames)
    mask[given_frames(frames, last)] = 1
    mask = torch.cat([mask[:1].repeat(TEMPORAL), mask[1:]]).view(-1, TEMPORAL).T
    return mask[:, :, None, None].expand(-1, -1, *latent_hw).contiguous()


def condition_video(clip: Tensor, last: bool) -> Tensor:
    """The clip (C, F, H, W) in [−1, 1] with every frame that is not given set to 0, mid grey."""
    given = given_frames(clip.shape[1], last)
    video = torch.zeros_like(clip)
    video[:, given] = clip[:, given]
    return video


def clip_condition(option: str, source_sha256: str) -> str:
    """ "first" or "first_last" for one clip: the option itself, or for "mixed" the parity of the clip's hash.

    The last bit decides, since the leading ones choose the hold-out: each split holds both kinds.
    """
    if option != "mixed":
        return option
    return "first_last" if int(source_sha256[-1], 16) % 2 else "first"
