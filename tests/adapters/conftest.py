"""LoRAs for the tiny pocket model, and the model itself: a stock diffusers pipeline of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from musubi_ext.adapters.keys import LINEARS, Format, Module, Part, spell_key
from musubi_ext.pocket.config import TINY, random_pipeline

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


@pytest.fixture(scope="session")
def _loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from diffusers import WanImageToVideoPipeline

    return WanImageToVideoPipeline.from_pretrained(random_pipeline(tmp_path_factory.mktemp("tiny") / "tiny-wan"))


@pytest.fixture
def pipeline(_loaded: Any) -> Iterator[Any]:
    """The tiny pipeline without adapters; whatever a test loads is taken out after it."""
    yield _loaded
    _loaded.unload_lora_weights()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test's pair lies; not made yet."""
    return tmp_path / "pair"


def predict(model: Any) -> Tensor:
    """An expert's output on fixed inputs: (1, 16, 2, 4, 4)."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 36, 2, 4, 4, generator=generator)
    text = torch.randn(1, 5, 64, generator=generator)
    with torch.no_grad():
        return model(latents, torch.tensor([900.0]), text, return_dict=False)[0]
