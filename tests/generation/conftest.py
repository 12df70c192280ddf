from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musubi_ext.pocket import random_pipeline


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
