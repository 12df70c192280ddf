"""CLIP's and DINO's vision transformers, and the features they give."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from musubi_ext.evaluation.features.pretrained import expect_type, load_whole


def load_clip(weights: Path, device: torch.device) -> Any:
    """CLIP's image tower with its projection, out of the files of a CLIPModel. Raises UnavailableError."""
    from transformers import CLIPVisionModelWithProjection

    expect_type(weights, "clip", "clip_vision_model")
    return load_whole(CLIPVisionModelWithProjection, weights).to(device)


def load_dino(weights: Path, device: torch.device) -> Any:
    """DINO's ViT without a pooler; positions are resampled as its authors do. Raises UnavailableError."""
    from transformers import ViTModel

    expect_type(weights, "vit")
    model = load_whole(ViTModel, weights, add_pooling_layer=False)
    model.embeddings.interpolate_pos_encoding = partial(_resampled_positions, model.embeddings)
    return model.to(device)


def clip_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Image embeddings (N, D) of pixels (N, 3, S, S)."""
    embeds: torch.Tensor = model(pixel_values=pixels).image_embeds
    return embeds


def dino_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The class token after the last norm (N, D), as facebookresearch/dino returns it, of pixels (N, 3, H, W)."""
    hidden: torch.Tensor = model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
    return hidden[:, 0]


def _resampled_positions(embeddings: Any, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Position embeddings (1, 1 + h·w, D) for another picture size.

    Bicubic, by a factor with 0.1 patches added, as in vision_transformer.py of facebookresearch/dino; transformers
    resamples to the size itself, which moves the last patches' positions by up to 0.1.
    """
    positions: torch.Tensor = embeddings.position_embeddings
    side = math.isqrt(positions.shape[1] - 1)
    rows, columns = height // embeddings.patch_size, width // embeddings.patch_size
    if tokens.shape[1] == positions.shape[1] and height == width:
        return positions
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = ((rows + 0.1) / side, (columns + 0.1) / side)
    patches = interpolate(grid, scale_factor=factors, mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([positions[:, :1], patches], dim=1)
