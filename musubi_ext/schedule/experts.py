"""The two experts of Wan2.2, the noise level where one hands over to the other, and at which step that happens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from musubi_ext.errors import UserError


class Expert(str, Enum):
    """High noise makes the geometry, low noise the texture."""

    HIGH = "high"
    LOW = "low"

    @property
    def suffix(self) -> str:
        """Ending of the adapter's file name: NAME_h or NAME_l."""
        return self.value[0]

    @property
    def component(self) -> str:
        """The expert's name in a diffusers pipeline: `t >= boundary` runs `transformer`, below it `transformer_2`."""
        return "transformer" if self is Expert.HIGH else "transformer_2"


@dataclass(frozen=True)
class Task:
    """A model family: `boundary` is the sigma in [0, 1] at which the high-noise expert hands over."""

    name: str
    boundary: float
    train_base: str
    serve_base: str
    i2v: bool


TASKS = {
    task.name: task
    for task in (
        # name, boundary (Wan2.2's own configs), trained on, served on
        Task("i2v-A14B", 0.9, "Wan-AI/Wan2.2-I2V-A14B", "alibaba-pai/Wan2.2-Fun-A14B-InP", i2v=True),
        Task("t2v-A14B", 0.875, "Wan-AI/Wan2.2-T2V-A14B", "Wan-AI/Wan2.2-T2V-A14B", i2v=False),
        Task("pocket-i2v", 0.9, "musubi-ext/pocket-i2v", "musubi-ext/pocket-i2v", i2v=True),
    )
}


def timestep_range(expert: Expert, boundary: float) -> tuple[float, float]:
    """The sigmas in [0, 1] that an expert denoises: (boundary, 1) for the high, (0, boundary) for the low."""
    return (boundary, 1.0) if expert is Expert.HIGH else (0.0, boundary)


def parse_boundary(value: float | str) -> float:
    """A boundary as a sigma (0.875) or as a timestep of 1000 (875). Raises UserError outside (0, 1) and (1, 1000)."""
    try:
        number = float(value)
    except ValueError:
        raise UserError(f"timestep boundary: expected a number such as 0.9 or 900, found {value!r}") from None
    boundary = number / 1000 if number > 1 else number
    if not 0 < boundary < 1:
        raise UserError(f"timestep boundary: expected 0 < sigma < 1 or 1 < timestep < 1000, found {value}")
    return boundary


def sigmas(steps: int, shift: float) -> list[float]:
    """The sampling noise levels σ = s·u / (1 + (s − 1)·u) at u = 1, 1 − 1/n, …, 1/n; from 1 downwards."""
    levels = [1 - step / steps for step in range(steps)]
    return [shift * u / (1 + (shift - 1) * u) for u in levels]


def hand_over_step(steps: int, shift: float, boundary: float) -> int:
    """Index of the first step that the low-noise expert makes; `steps` if it never does.

    With shift 8 and boundary 0.9: step 2 of 4, 4 of 8, 10 of 20, 19 of 40 (Circle-Rotate's sampler settings).
    """
    return next((index for index, sigma in enumerate(sigmas(steps, shift)) if sigma < boundary), steps)
