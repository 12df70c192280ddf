"""What will be trained: one phase per expert, since the two never meet in training (DESIGN decision 1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from musubi_ext.errors import Problems, UserError
from musubi_ext.schedule.densities import Density, Uniform
from musubi_ext.schedule.experts import Expert, find_task, resolve_boundary, timestep_range
from musubi_ext.schedule.naming import name_problem, output_name
from musubi_ext.schedule.timesteps import at_quantiles

EXPERTS: dict[str, tuple[Expert, ...]] = {
    "both": (Expert.HIGH, Expert.LOW),
    "high": (Expert.HIGH,),
    "low": (Expert.LOW,),
}
QUANTILES = 9  # validation timesteps per expert


@dataclass(frozen=True)
class Phase:
    """The training of one expert's adapter."""

    expert: Expert
    dit: str  # the expert's weights
    low: float  # t drawn in training
    high: float
    boundary: float
    output_name: str  # NAME_h or NAME_l, without suffix
    steps: int | None  # optimizer steps; None: as many as `epochs` need
    epochs: int | None

    def validation_timesteps(self, law: Density | None = None, count: int = QUANTILES) -> tuple[float, ...]:
        """Where this expert's validation loss is measured, whatever range it trains on; see `validation_timesteps`."""
        return validation_timesteps(self.expert, self.boundary, law, count)


class PlanOptions(Protocol):
    """The options a plan is made from, by musubi-tuner's flag names; an argparse namespace will do.

    Looked at if present: `timestep_boundary`, `confirm_boundary` (resolve_boundary), `experts` ("both", "high", "low"),
    `min_timestep` and `max_timestep` (0–1000; they replace both experts' own ranges, so 0 and 1000 are the whole
    range, as in Circle-Rotate's recipe), `max_train_steps`, `max_train_epochs` (takes precedence, as upstream).
    """

    task: str
    dit: str | None  # low-noise expert
    dit_high_noise: str | None
    output_name: str | None


def phases(options: PlanOptions) -> list[Phase]:
    """The phases to run, high-noise expert first. Raises UserError listing everything that is wrong."""
    problems = Problems()
    boundary = _boundary(options, problems)
    wanted = _experts(options, problems)
    if wrong := name_problem(options.output_name):
        problems.add("--output_name", wrong)
    _check_weights(options, wanted, problems)
    ranges = {expert: _training_range(options, expert, boundary, problems) for expert in wanted}
    steps, epochs = _length(options, problems)
    problems.raise_if_any()
    return [
        Phase(
            expert,
            str(_dit(options, expert)),
            *ranges[expert],
            boundary,
            output_name(str(options.output_name), expert),
            steps,
            epochs,
        )
        for expert in wanted
    ]


def validation_timesteps(
    expert: Expert, boundary: float, law: Density | None = None, count: int = QUANTILES
) -> tuple[float, ...]:
    """Fixed t in the expert's own range: midpoints of `count` cells of equal probability under `law` (uniform if None).

    The mean loss over them estimates the expected loss in that range, and is the same t at every validation.
    """
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return tuple(at_quantiles(law or Uniform(), middles, *timestep_range(expert, boundary)).tolist())


def _optional(options: PlanOptions, name: str) -> Any:
    return getattr(options, name, None)


def _boundary(options: PlanOptions, problems: Problems) -> float:
    """The boundary in t; 0.5 stands in where it could not be read, for the checks that remain."""
    try:
        asked, again = _optional(options, "timestep_boundary"), _optional(options, "confirm_boundary")
        return resolve_boundary(find_task(options.task), asked, again)
    except UserError as error:
        problems.found.extend(error.problems)
        return 0.5


def _experts(options: PlanOptions, problems: Problems) -> tuple[Expert, ...]:
    name = _optional(options, "experts") or "both"
    if name not in EXPERTS:
        problems.add(f"--experts {name}", f"expected one of {', '.join(EXPERTS)}")
    return EXPERTS.get(name, ())


def _dit(options: PlanOptions, expert: Expert) -> str | None:
    return options.dit_high_noise if expert is Expert.HIGH else options.dit


def _check_weights(options: PlanOptions, wanted: tuple[Expert, ...], problems: Problems) -> None:
    flags = {Expert.HIGH: "--dit_high_noise", Expert.LOW: "--dit"}
    for expert in wanted:
        path = _dit(options, expert)
        if not path:
            problems.add(flags[expert], "missing", f"weights of the {expert.value}-noise expert")
        elif not Path(path).exists():
            problems.add(flags[expert], f"{path} does not exist")
    # A pipeline folder holds both experts; a weight file holds one.
    if options.dit and options.dit == options.dit_high_noise and Path(options.dit).is_file() and len(wanted) == 2:
        problems.add(
            "--dit and --dit_high_noise", f"both are {options.dit}", "the two experts have weights of their own"
        )


def _training_range(options: PlanOptions, expert: Expert, boundary: float, problems: Problems) -> tuple[float, float]:
    """The expert's own range, or what --min_timestep and --max_timestep say instead, in t."""
    own = timestep_range(expert, boundary)
    asked = (_optional(options, "min_timestep"), _optional(options, "max_timestep"))
    if asked == (None, None):
        return own
    low, high = (asked[0] or 0) / 1000, (1000 if asked[1] is None else asked[1]) / 1000
    where = f"--min_timestep {low * 1000:g} --max_timestep {high * 1000:g}"
    if not 0 <= low < high <= 1:
        problems.add(where, "expected 0 ≤ min < max ≤ 1000")
    elif high <= own[0] or low >= own[1]:
        fix = "leave both flags out, or choose the expert with --experts"
        problems.add(where, f"the {expert.value}-noise expert runs in {own[0] * 1000:g} to {own[1] * 1000:g} only", fix)
    return low, high


def _length(options: PlanOptions, problems: Problems) -> tuple[int | None, int | None]:
    steps, epochs = _optional(options, "max_train_steps"), _optional(options, "max_train_epochs")
    for flag, value in (("--max_train_steps", steps), ("--max_train_epochs", epochs)):
        if value is not None and value < 1:
            problems.add(flag, f"expected at least 1, found {value}")
    return (None, epochs) if epochs is not None else (steps, None)
