"""The tiny pocket model: a stock diffusers pipeline of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from musubi_ext.pocket.config import random_pipeline


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
