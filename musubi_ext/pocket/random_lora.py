"""A LoRA of random weights for an expert of the pocket's layout: what tests and benchmarks attach and register."""

from __future__ import annotations

from typing import TYPE_CHECKING

from musubi_ext.pocket.config import TINY, Size

if TYPE_CHECKING:
    from torch import Tensor


def random_lora(seed: int, rank: int = 4, size: Size = TINY, down: float = 1.0, up: float = 1.0) -> dict[str, Tensor]:
    """All ten linears of every block in musubi-tuner's keys, alpha = rank; `down`, `up`: standard deviations.

    `lora_down` is (rank, inputs), `lora_up` (outputs, rank). The same arguments give the same bits.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    narrow, wide = size.heads * size.head_dim, size.ffn
    shapes = {f"{kind}_attn_{part}": (narrow, narrow) for kind in ("self", "cross") for part in "qkvo"}
    shapes |= {"ffn_0": (wide, narrow), "ffn_2": (narrow, wide)}  # outputs, inputs
    tensors = {}
    for block in range(size.layers):
        for name, (outputs, inputs) in shapes.items():
            key = f"lora_unet_blocks_{block}_{name}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator) * down
            tensors[f"{key}.lora_up.weight"] = torch.randn(outputs, rank, generator=generator) * up
            tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    return tensors
