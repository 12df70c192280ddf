from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.pocket import random_pipeline
from musubi_ext.pocket.config import TINY


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete pipeline of random weights."""
    return random_pipeline(tmp_path_factory.mktemp("base"), seed=0)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A 70×50 picture: to be scaled and cropped before it is a first frame."""
    path = tmp_path / "first.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


def lora(seed: int, rank: int = 4) -> dict[str, torch.Tensor]:
    """A complete LoRA in musubi keys for the tiny experts (2 layers of 32, ffn 48), strong enough to be seen."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in range(TINY.layers):
        for name in (*(f"{kind}_attn_{part}" for kind in ("self", "cross") for part in "qkvo"), "ffn_0", "ffn_2"):
            wide, narrow = TINY.ffn, TINY.heads * TINY.head_dim
            rows, columns = {"ffn_0": (wide, narrow), "ffn_2": (narrow, wide)}.get(name, (narrow, narrow))
            key = f"lora_unet_blocks_{block}_{name}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(rank, columns, generator=generator) * 0.3
            tensors[f"{key}.lora_up.weight"] = torch.randn(rows, rank, generator=generator) * 0.3
            tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    return tensors


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> AdapterPair:
    """A pair for the tiny base, with settings of its own in the manifest."""
    settings = {"shift": 8.0, "steps": 4, "cfg": 1.0, "strength_high": 0.8, "strength_low": 0.9, "frames": 9, "fps": 12}
    return AdapterPair.save(tmp_path_factory.mktemp("pair"), "orbit", lora(1), lora(2), inference=settings)


@pytest.fixture(scope="session")
def foreign_pair(tmp_path_factory: pytest.TempPathFactory) -> AdapterPair:
    """A pair for text-to-video, whose experts hand over at 0.875."""
    return AdapterPair.save(tmp_path_factory.mktemp("foreign"), "foreign", lora(1), lora(2), task="t2v-A14B")
