"""Random LoRAs for the tiny pocket model, and what an expert makes of fixed inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from musubi_ext.adapters.keys import LINEARS, Format, Module, Part, spell_key
from musubi_ext.pocket.config import TINY

WIDTH = TINY.heads * TINY.head_dim


def lora(
    seed: int = 0, rank: int = 4, alpha: float | None = 3.0, blocks: int = TINY.layers, names: tuple[str, ...] = LINEARS
) -> dict[str, Tensor]:
    """A random LoRA in musubi keys; alpha/rank = 3/4 is no power of two, so folding it would round."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in (Module(block, name) for block in range(blocks) for name in names):
        inputs = TINY.ffn if module.name == "ffn.2" else WIDTH
        outputs = TINY.ffn if module.name == "ffn.0" else WIDTH
        tensors[spell_key(module, Part.DOWN, Format.MUSUBI)] = torch.randn(rank, inputs, generator=generator)
        tensors[spell_key(module, Part.UP, Format.MUSUBI)] = torch.randn(outputs, rank, generator=generator)
        if alpha is not None:
            tensors[spell_key(module, Part.ALPHA, Format.MUSUBI)] = torch.tensor(alpha)
    return tensors


def predict(model: Any) -> Tensor:
    """An expert's output on fixed inputs: (1, 16, 2, 4, 4)."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 36, 2, 4, 4, generator=generator)
    text = torch.randn(1, 5, 64, generator=generator)
    with torch.no_grad():
        return model(latents, torch.tensor([900.0]), text, return_dict=False)[0]
