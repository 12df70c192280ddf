"""Upstream's VAE file (Wan2.1_VAE.pth or .safetensors) as diffusers' AutoencoderKLWan, the encoder's half.

Caching needs no decoder, so none is built: its weights are left in the file. Widths come from the tensors' shapes; the
full-size layout is base_dim 96, z 16, dim_mult [1, 2, 4, 4], frames halved at the second and third level.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from musubi_ext.errors import UserError

NAMES = (  # musubi-tuner's `wan/modules/vae.py` → diffusers' `autoencoder_kl_wan.py`, both as they name their modules
    (r"^encoder\.conv1\.", "encoder.conv_in."),
    (r"^encoder\.downsamples\.(\d+)\.shortcut\.", r"encoder.down_blocks.\1.conv_shortcut."),
    (r"^encoder\.downsamples\.", "encoder.down_blocks."),
    (r"^encoder\.middle\.0\.", "encoder.mid_block.resnets.0."),
    (r"^encoder\.middle\.1\.", "encoder.mid_block.attentions.0."),
    (r"^encoder\.middle\.2\.", "encoder.mid_block.resnets.1."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"^encoder\.head\.0\.", "encoder.norm_out."),
    (r"^encoder\.head\.2\.", "encoder.conv_out."),
    (r"^conv1\.", "quant_conv."),
)
CHANNELS = 16  # of latents


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from .safetensors or from .pth with weights_only. Raises UserError naming the file."""
    if not path.is_file():
        raise UserError(f"{path}: expected a weight file, found nothing (check the path)")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: expected weights in .safetensors or .pth, found: {reason} (fetch it anew)") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError(f"{path}: expected tensors by name, found something else (give the file of the weights)")
    return loaded


def load_vae(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """An AutoencoderKLWan whose encoder is the file's and which has no decoder. Raises UserError for other layouts."""
    weights = encoder_weights(read_weights(path))
    vae = _empty(path, weights)
    expected = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wrong := sorted(expected.items() ^ found.items()):
        names = sorted({name for name, _ in wrong})
        raise UserError(f"{path}: expected Wan2.1's VAE, but {len(names)} tensors differ, first {names[0]}")
    vae.load_state_dict({name: tensor.to(device, dtype) for name, tensor in weights.items()}, assign=True)
    return vae


def encoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors under diffusers' names; the decoder's are left out."""
    kept = {name: tensor for name, tensor in weights.items() if name.startswith(("encoder.", "conv1."))}
    return {_renamed(name): tensor for name, tensor in kept.items()}


def _renamed(name: str) -> str:
    for pattern, new in NAMES:
        name = re.sub(pattern, new, name)
    return name


def _empty(path: Path, weights: Mapping[str, Tensor]) -> Any:
    from diffusers import AutoencoderKLWan

    first = weights.get("encoder.conv_in.weight")
    if first is None or first.ndim != 5 or first.shape[1] != 3:
        raise UserError(f"{path}: expected Wan2.1's VAE, found no encoder of it (use Wan2.1_VAE.pth)")
    with torch.device("meta"):
        vae = AutoencoderKLWan(base_dim=first.shape[0], z_dim=CHANNELS)  # its defaults are Wan2.1's levels and scaling
    del vae.decoder, vae.post_quant_conv
    return vae
