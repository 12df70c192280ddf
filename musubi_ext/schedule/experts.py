"""The two experts of Wan2.2-A14B, the noise level at which one hands over to the other, and the step where that falls.

Time t in [0, 1] is the flow-matching noise level: x_t = (1 − t)·x + t·noise. The high-noise expert denoises
t ≥ boundary (geometry), the low-noise expert the rest (texture).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from musubi_ext.errors import UserError


class Expert(StrEnum):
    """One of the two denoisers."""

    HIGH = "high"
    LOW = "low"

    @property
    def suffix(self) -> str:
        """What follows NAME_ in the name of this expert's adapter file: "h" or "l"."""
        return self.value[0]

    @property
    def component(self) -> str:
        """The diffusers pipeline component that holds this expert."""
        return "transformer" if self is Expert.HIGH else "transformer_2"


@dataclass(frozen=True)
class Task:
    """A base model that adapters are trained for. The one they are served on may differ; both are recorded."""

    name: str
    boundary: float  # in t
    train_base: str
    serve_base: str
    i2v: bool


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        # Boundaries: musubi-tuner wan/configs/wan_{i2v,t2v}_A14B.py. Circle-Rotate serves I2V pairs on Fun-Inpaint.
        Task("i2v-A14B", 0.9, "Wan-AI/Wan2.2-I2V-A14B", "alibaba-pai/Wan2.2-Fun-A14B-InP", i2v=True),
        Task("t2v-A14B", 0.875, "Wan-AI/Wan2.2-T2V-A14B", "Wan-AI/Wan2.2-T2V-A14B", i2v=False),
        Task("pocket-i2v", 0.9, "musubi-ext/pocket-i2v", "musubi-ext/pocket-i2v", i2v=True),
    )
}


def find_task(name: str) -> Task:
    """The task of that name. Raises UserError listing the known ones."""
    if name not in TASKS:
        raise UserError(f"--task {name}: unknown, expected one of {', '.join(TASKS)}")
    return TASKS[name]


def timestep_range(expert: Expert, boundary: float) -> tuple[float, float]:
    """The t an expert sees at inference, within [0, 1]: HIGH (boundary, 1), LOW (0, boundary)."""
    return (boundary, 1.0) if expert is Expert.HIGH else (0.0, boundary)


def parse_boundary(value: float | int | str) -> float:
    """A boundary as t in (0, 1); 875, musubi-tuner's thousandths, means 0.875. Raises UserError for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    boundary = number / 1000 if 1 < number < 1000 else number
    if isinstance(value, bool) or not 0 < boundary < 1:
        raise UserError(
            f"--timestep_boundary {value}: expected a noise level between 0 and 1 (0.9), or thousandths (900)"
        )
    return boundary


def resolve_boundary(task: Task, asked: float | int | str | None, confirmed: float | int | str | None = None) -> float:
    """The boundary to train with: the task's own, unless another one is asked for twice (DESIGN decision 2).

    Trainers mix up I2V's 0.9 and T2V's 0.875, and nothing later shows it. Raises UserError where `asked` differs from
    the task's boundary and `confirmed` does not repeat it.
    """
    boundary = task.boundary if asked is None else parse_boundary(asked)
    again = None if confirmed is None else parse_boundary(confirmed)
    if again is not None and again != boundary:
        raise UserError(f"--confirm_boundary {confirmed}: expected {boundary:g}, as --timestep_boundary says")
    if boundary != task.boundary and again is None:
        raise UserError(
            f"--timestep_boundary {asked}: {task.name} hands over at {task.boundary:g} (leave the flag out, or add "
            f"--confirm_boundary {asked} if the adapters are really meant for another boundary)"
        )
    return boundary


def hand_over_step(steps: int, shift: float, boundary: float) -> int:
    """Index of the first of `steps` Euler steps whose sigma is below `boundary`; `steps` if none is.

    sigma_i = s·t/(1 + (s − 1)·t) at t = 1 − i/steps. Reckoned in fractions: a sigma exactly on the boundary belongs to
    the high-noise expert (diffusers: `t >= boundary_ratio * 1000`), and rounding must not move it.
    """
    if steps < 1 or shift <= 0:
        raise UserError(f"hand-over: expected steps ≥ 1 and shift > 0, found steps {steps}, shift {shift:g}")
    s, limit = Fraction(str(shift)), Fraction(str(boundary))
    for index in range(steps):
        t = 1 - Fraction(index, steps)
        if s * t < limit * (1 + (s - 1) * t):
            return index
    return steps
