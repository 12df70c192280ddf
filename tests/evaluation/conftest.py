"""Rendered scenes with their truth and sweep, made once, and the ways a decoder spoils a picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from musubi_ext.evaluation.truth import Sweep, Truth
from musubi_ext.orbits.render import render, sweep
from musubi_ext.video import Frames

SEED = 700_000
SCENES = 8


@cache
def truth_of(scene: int, domain: str = "orbit") -> Truth:
    """Held-out scene number `scene`; even ones circle right to left."""
    direction = 1 if scene % 2 == 0 else -1
    clip = render(SEED + scene, domain, direction, family="heldout")
    around = Sweep(*sweep(SEED + scene, family="heldout"))
    return Truth(clip.frames, clip.mask, clip.azimuth, clip.direction, around)


def spoiled(frames: Frames, sigma: float, noise: float) -> Frames:
    """Frames through a Gaussian blur of `sigma` pixels and noise of `noise` levels."""
    soft = ndimage.gaussian_filter(frames.astype(np.float64), (0, sigma, sigma, 0))
    grain = np.random.default_rng(0).normal(0, 1, frames.shape) * noise
    return np.clip(np.round(soft + grain), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def scene() -> Callable[..., Truth]:
    return truth_of


@pytest.fixture(scope="session")
def spoil() -> Callable[[Frames, float, float], Frames]:
    return spoiled


@pytest.fixture(scope="session")
def scenes() -> range:
    return range(SCENES)
