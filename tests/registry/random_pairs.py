"""LoRAs of random weights for the tiny pocket model."""

from __future__ import annotations

import torch

from musubi_ext.pocket.config import TINY


def random_lora(seed: int, strength: float = 1.0, rank: int = 2) -> dict[str, torch.Tensor]:
    """All ten linears of every block in musubi-tuner's keys; `strength` scales what they change."""
    generator = torch.Generator().manual_seed(seed)
    width = TINY.heads * TINY.head_dim
    shapes = {f"{kind}_attn_{name}": (width, width) for kind in ("self", "cross") for name in "qkvo"}
    shapes |= {"ffn_0": (width, TINY.ffn), "ffn_2": (TINY.ffn, width)}
    state = {}
    for block in range(TINY.layers):
        for module, (inputs, outputs) in shapes.items():
            key = f"lora_unet_blocks_{block}_{module}"
            state[f"{key}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator)
            state[f"{key}.lora_up.weight"] = torch.randn(outputs, rank, generator=generator) * strength
            state[f"{key}.alpha"] = torch.tensor(float(rank))
    return state
