"""Timesteps drawn inside an expert's range by the truncated inverse CDF: the right law, every draw in range, no rejection.

For a density with distribution function F restricted to [a, b], t = F⁻¹(u) with u uniform on [F(a), F(b)] is exactly the
untruncated law conditioned on the range. musubi-tuner squeezes the whole law linearly into the range, or rejects and
falls back out of range after 100 tries (`get_noisy_model_input_and_timesteps`).

All densities here are a normal variable z under a monotone map z → t, or uniform; z is truncated in float64 with tail-safe
functions, so that a range far in a tail keeps its shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from musubi_ext.errors import UserError


@dataclass(frozen=True)
class LogitNormal:
    """t = sigmoid(mean + std·z) with z standard normal: the family of every non-uniform law of the host.

    `shift` s adds ln s to the mean, since s·x / (1 + (s − 1)·x) of x = sigmoid(y) is sigmoid(y + ln s).
    """

    mean: float
    std: float

    def standardise(self, t: float) -> float:
        """The z of a t in [0, 1]; ±infinity at the ends."""
        if t <= 0 or t >= 1:
            return -math.inf if t <= 0 else math.inf
        return (math.log(t) - math.log1p(-t) - self.mean) / self.std

    def sample(self, n: int, low: float, high: float, generator: torch.Generator | None) -> Tensor:
        """n draws (n,) in [low, high], float64."""
        a, b = self.standardise(low), self.standardise(high)
        flipped = a > 0  # work in the left tail, where the distribution function keeps its digits
        if flipped:
            a, b = -b, -a
        bounds = torch.special.log_ndtr(torch.tensor([a, b], dtype=torch.float64))
        mass = torch.exp(bounds[1]) - torch.exp(bounds[0])
        if not mass > 0:
            raise UserError(
                f"timestep range [{low:g}, {high:g}]: the chosen density has no mass there "
                f"(logit-normal, mean {self.mean:g}, std {self.std:g}); choose another --timestep_sampling or range"
            )
        u = torch.rand(n, dtype=torch.float64, generator=generator)
        z = torch.special.ndtri((torch.exp(bounds[0]) + u * mass).clamp(min=1e-300)).clamp(a, b)
        return torch.sigmoid(self.mean + self.std * (-z if flipped else z))


@dataclass(frozen=True)
class Uniform:
    """t uniform on the range."""

    def sample(self, n: int, low: float, high: float, generator: torch.Generator | None) -> Tensor:
        """n draws (n,) in [low, high], float64."""
        return low + (high - low) * torch.rand(n, dtype=torch.float64, generator=generator)


SAMPLERS = ("uniform", "sigmoid", "shift", "flux_shift", "logit_normal", "logsnr")


def density(
    name: str,
    *,
    shift: float = 1.0,
    sigmoid_scale: float = 1.0,
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    latent_hw: tuple[int, int] | None = None,
) -> Uniform | LogitNormal:
    """The law behind one of the host's `--timestep_sampling` names, with the host's parameters.

    `sigma` is refused: the host indexes its descending schedule with it, so that a range of 900–1000 trains 1–100.
    `flux_shift` needs the latent's (height, width) and takes exp(μ) with μ linear from 0.5 at 256 to 1.15 at 4096 tokens.
    """
    if name == "uniform":
        return Uniform()
    if name == "sigmoid":
        return LogitNormal(0.0, sigmoid_scale)
    if name == "shift":
        return LogitNormal(math.log(shift), sigmoid_scale)
    if name == "flux_shift":
        if latent_hw is None:
            raise ValueError("flux_shift depends on the latent's size: give latent_hw")
        tokens = (latent_hw[0] // 2) * (latent_hw[1] // 2)
        return LogitNormal(0.5 + (1.15 - 0.5) / (4096 - 256) * (tokens - 256), sigmoid_scale)
    if name == "logit_normal":
        return LogitNormal(logit_mean, logit_std)
    if name == "logsnr":  # t = sigmoid(−logsnr / 2), logsnr ~ N(mean, std): arXiv 2411.14793
        return LogitNormal(-logit_mean / 2, logit_std / 2)
    if name == "sigma":
        raise UserError("--timestep_sampling sigma: musubi-tuner inverts the range of this one; use shift or uniform")
    raise UserError(f"--timestep_sampling {name}: expected one of {', '.join(SAMPLERS)}")


def sample_timesteps(
    name: str,
    n: int,
    low: float = 0.0,
    high: float = 1.0,
    *,
    shift: float = 1.0,
    sigmoid_scale: float = 1.0,
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    latent_hw: tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """n sigmas (n,) float32 in [low, high] ⊆ [0, 1] from the named density conditioned on the range."""
    law = density(
        name, shift=shift, sigmoid_scale=sigmoid_scale, logit_mean=logit_mean, logit_std=logit_std, latent_hw=latent_hw
    )
    return _inside(law.sample(n, low, high, generator), low, high)


def quantiles(name: str, count: int, low: float, high: float, *, draws: int = 4096, **parameters: float) -> list[float]:
    """`count` fixed sigmas at the middles of equally probable cells of the conditioned law: where validation is measured."""
    generator = torch.Generator().manual_seed(0)
    law = density(name, **parameters)  # type: ignore[arg-type]
    drawn = law.sample(draws, low, high, generator).sort().values
    return [float(drawn[int((cell + 0.5) / count * draws)]) for cell in range(count)]


def _inside(t: Tensor, low: float, high: float) -> Tensor:
    """float32 that never rounds past a bound."""
    single = t.to(torch.float32)
    ends = torch.tensor([low, high], dtype=torch.float32)
    below = torch.nextafter(ends[0], torch.tensor(2.0)) if float(ends[0]) < low else ends[0]
    above = torch.nextafter(ends[1], torch.tensor(-1.0)) if float(ends[1]) > high else ends[1]
    return single.clamp(below, above)
