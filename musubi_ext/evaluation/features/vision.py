"""CLIP's and DINO's vision transformers through transformers, from local files, loaded whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from musubi_ext.errors import shown
from musubi_ext.evaluation.features.tensors import UNREADABLE, unreadable
from musubi_ext.evaluation.result import UnavailableError


def load_clip(weights: Path, device: torch.device) -> Any:
    """CLIP's image tower with its projection, out of the files of a CLIPModel. Raises UnavailableError."""
    from transformers import CLIPVisionModelWithProjection

    _expect(weights, "clip", "clip_vision_model")
    return _load(CLIPVisionModelWithProjection, weights).to(device)


def load_dino(weights: Path, device: torch.device) -> Any:
    """DINO's ViT without a pooler; positions are resampled as its authors do. Raises UnavailableError."""
    from transformers import ViTModel

    _expect(weights, "vit")
    model = _load(ViTModel, weights, add_pooling_layer=False)
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


def _expect(weights: Path, *model_types: str) -> None:
    path = weights.parent / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnavailableError(unreadable(path, error)) from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in model_types:
        raise UnavailableError(f"{shown(path)}: model_type: expected {' or '.join(model_types)}, found {found!r}")


def _load(kind: Any, weights: Path, **options: Any) -> Any:
    """A model in eval mode, float32. transformers would draw what a file lacks at random; that is refused."""
    safe = weights.suffix == ".safetensors"
    try:
        with _quiet():
            model, report = kind.from_pretrained(
                weights.parent,
                local_files_only=True,
                use_safetensors=safe,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported like missing ones, below
                dtype=torch.float32,
                **options,
            )
    except UNREADABLE as error:
        raise UnavailableError(unreadable(weights, error)) from error
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    if lacking := sorted([*report["missing_keys"], *mismatched]):
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UnavailableError(
            f"{shown(weights)}: no weights of the expected shape for {lacking[0]!r}{more}: these are other weights"
        )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UnavailableError(f"{shown(weights)}: {name}: expected finite numbers, found others")
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports every tensor of CLIP's text tower as unexpected; what matters is checked above."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
