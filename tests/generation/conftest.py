from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.pocket import random_pipeline
from musubi_ext.pocket.random_lora import random_lora


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


def weights() -> list[dict[str, torch.Tensor]]:
    """Of both experts, strong enough to be seen."""
    return [random_lora(seed, down=0.3, up=0.3) for seed in (1, 2)]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> AdapterPair:
    """A pair for the tiny base, with settings of its own in the manifest."""
    settings = {"shift": 8.0, "steps": 4, "cfg": 1.0, "strength_high": 0.8, "strength_low": 0.9, "frames": 9, "fps": 12}
    return AdapterPair.save(tmp_path_factory.mktemp("pair"), "orbit", *weights(), inference=settings)


@pytest.fixture(scope="session")
def foreign_pair(tmp_path_factory: pytest.TempPathFactory) -> AdapterPair:
    """A pair for text-to-video, whose experts hand over at 0.875."""
    return AdapterPair.save(tmp_path_factory.mktemp("foreign"), "foreign", *weights(), task="t2v-A14B")
