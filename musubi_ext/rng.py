"""The random generators of one process, captured and put back exactly: Python's, NumPy's, torch's, the device's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """Every generator's state, in types that `torch.load(weights_only=True)` reads."""
    state: Any = np.random.get_state(legacy=True)  # a tuple of five
    name, keys, place, has_gauss, gauss = state
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.tensor(keys.tolist()), int(place), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore(state: dict[str, Any]) -> None:
    """Put back what `capture` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys.tolist(), dtype=np.uint32), place, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever the block draws, the generators are afterwards as they were."""
    before = capture()
    try:
        yield
    finally:
        restore(before)
