"""Upstream's VAE file (Wan2.1_VAE.pth or .safetensors) as diffusers' AutoencoderKLWan, the encoder's half.

Caching needs no decoder, so none is built: its weights are left in the file. Widths come from the tensors' shapes; the
full-size layout is base_dim 96, z 16, dim_mult [1, 2, 4, 4], frames halved at the second and third level.
"""

from __future__ import annotations

import pickle
import re
import zipfile
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
CHANNELS, TI2V_CHANNELS = 16, 48  # latent channels


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from .safetensors or from .pth with weights_only. Raises UserError naming the file."""
    if not path.is_file():
        raise UserError(f"{path}: expected a weight file, found nothing (check the path)")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        mapped = zipfile.is_zipfile(path)  # not what torch wrote before 1.6
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: expected weights in .safetensors or .pth, found: {reason} (fetch it anew)") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError(f"{path}: expected tensors by name, found something else (give the file of the weights)")
    return loaded


def load_vae(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """An AutoencoderKLWan whose encoder is the file's and which has no decoder. Raises UserError for other layouts."""
    loaded = read_weights(path)
    expect_vae(path, loaded)
    weights = encoder_weights(loaded)
    vae = _empty(weights)
    expected = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    expect_shapes(path, "Wan2.1's VAE", expected, weights)
    vae.load_state_dict({name: tensor.to(device, dtype) for name, tensor in weights.items()}, assign=True)
    return vae


def expect_layout(where: object, channels: int, residual: bool = False) -> None:
    """Raises UserError naming `where` unless a VAE with so many latent channels is of Wan2.1's layout."""
    if residual or channels != CHANNELS:
        name = " of Wan2.2-TI2V-5B" if channels == TI2V_CHANNELS else ""
        raise UserError(
            f"{where}: expected the VAE of Wan2.1, which Wan2.2-A14B uses too, with {CHANNELS} latent channels,"
            f" found one{name} with {channels} (use Wan2.1_VAE.pth, or the vae folder of Wan2.2-I2V-A14B)"
        )


def expect_vae(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raises UserError unless the tensors, by their names and widths, are those of Wan2.1's VAE."""
    first, means = weights.get("encoder.conv1.weight"), weights.get("conv1.weight")
    if first is None or means is None or first.ndim != 5:
        found = ", ".join(sorted(weights)[:3]) or "no tensor"
        raise UserError(f"{path}: expected Wan2.1's VAE, found no encoder of it but {found} (use Wan2.1_VAE.pth)")
    expect_layout(path, means.shape[0] // 2, residual=first.shape[1] != 3)


def expect_shapes(
    path: Path, what: str, expected: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor]
) -> None:
    """Raises UserError naming the first of the tensors that are missing, too many or of another shape."""
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wrong := sorted({name for name, _ in expected.items() ^ found.items()}):
        shapes = [str(list(shapes[wrong[0]])) if wrong[0] in shapes else "none" for shapes in (expected, found)]
        first = f"{wrong[0]}: expected {shapes[0]}, found {shapes[1]}"
        raise UserError(f"{path}: expected {what}, but {len(wrong)} tensors differ, first {first}")


def encoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors under diffusers' names; the decoder's are left out."""
    kept = {name: tensor for name, tensor in weights.items() if name.startswith(("encoder.", "conv1."))}
    return {_renamed(name): tensor for name, tensor in kept.items()}


def _renamed(name: str) -> str:
    for pattern, new in NAMES:
        name = re.sub(pattern, new, name)
    return name


def _empty(weights: Mapping[str, Tensor]) -> Any:
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):  # its defaults are Wan2.1's levels and scaling
        vae = AutoencoderKLWan(base_dim=weights["encoder.conv_in.weight"].shape[0], z_dim=CHANNELS)
    del vae.decoder, vae.post_quant_conv
    return vae
