"""Laws of the training timestep t in [0, 1], each with its CDF, its inverse, and draws inside a range.

Every law musubi-tuner draws from a normal is logit-normal: logit(t) ~ N(mean, std²). Its shift moves the mean by ln(s),
because t = s·u/(1 + (s − 1)·u) is logit(t) = logit(u) + ln(s). Mixtures of them are in `mixtures.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_ndtr, logit, ndtr, ndtri

from musubi_ext.errors import UserError
from musubi_ext.schedule import truncated_normal

Array = NDArray[np.float64]


class Density(Protocol):
    """A law on [0, 1]."""

    def cdf(self, t: Array) -> Array:
        """P(T ≤ t)."""
        ...

    def icdf(self, u: Array) -> Array:
        """The t with P(T ≤ t) = u; u in [0, 1]."""
        ...

    def truncated(self, u: Array, low: float, high: float) -> Array:
        """icdf(cdf(low) + u·(cdf(high) − cdf(low))): the law conditioned on [low, high], at u in [0, 1].

        Raises UserError where the range holds no probability at all.
        """
        ...


@dataclass(frozen=True)
class Uniform:
    """t ~ U(0, 1)."""

    def cdf(self, t: Array) -> Array:
        return np.clip(t, 0.0, 1.0)

    def icdf(self, u: Array) -> Array:
        return np.asarray(u, dtype=np.float64)

    def truncated(self, u: Array, low: float, high: float) -> Array:
        return np.clip(low + u * (high - low), low, high)


@dataclass(frozen=True)
class LogitNormal:
    """logit(t) ~ N(mean, std²), the logit-normal law of Stable Diffusion 3 (arXiv 2403.03206, section 3.1)."""

    mean: float
    std: float

    def cdf(self, t: Array) -> Array:
        return np.asarray(ndtr((logit(t) - self.mean) / self.std))

    def icdf(self, u: Array) -> Array:
        return np.asarray(expit(self.mean + self.std * ndtri(u)))

    def truncated(self, u: Array, low: float, high: float) -> Array:
        """Accurate in the far tails, where cdf(high) − cdf(low) cancels to 0 in float64."""
        a, b = ((logit(edge) - self.mean) / self.std for edge in (low, high))
        if np.isneginf(log_ndtr(min(b, -a))):
            raise no_mass(low, high, f"logit(t) ~ N({self.mean:g}, {self.std:g}²)")
        z = truncated_normal.quantile(u, a, b)
        t: Array = np.clip(expit(self.mean + self.std * z), low, high)
        return t


@dataclass(frozen=True)
class Clamped:
    """`law` with t clamped to [first, last]: whatever it puts beyond an end becomes an atom at that end."""

    law: LogitNormal
    first: float
    last: float

    def cdf(self, t: Array) -> Array:
        return np.where(t < self.first, 0.0, np.where(t >= self.last, 1.0, self.law.cdf(t)))

    def icdf(self, u: Array) -> Array:
        return np.clip(self.law.icdf(u), self.first, self.last)

    def truncated(self, u: Array, low: float, high: float) -> Array:
        """A range that reaches an end holds its atom whole, hence the law's whole tail beyond it."""
        if low > self.last or high < self.first:
            raise no_mass(low, high, f"t is clamped to {self.first:g} to {self.last:g}")
        a, b = 0.0 if low <= self.first else low, 1.0 if high >= self.last else high
        return np.clip(self.law.truncated(u, a, b), max(low, self.first), min(high, self.last))


def no_mass(low: float, high: float, law: str) -> UserError:
    """What is told where a range holds none of a law's probability."""
    return UserError(
        f"timestep range {low:g} to {high:g}: no mass where {law} (choose a range, or density parameters, that overlap)"
    )


def logit_normal(mean: float, std: float) -> LogitNormal:
    """sigmoid(N(mean, std)). Raises UserError unless std > 0 and both are finite."""
    if not (std > 0 and math.isfinite(std) and math.isfinite(mean)):
        raise UserError(
            f"--logit_mean {mean:g} --logit_std {std:g}: expected a finite mean and a standard deviation > 0"
        )
    return LogitNormal(mean, std)


def log_snr(mean: float, std: float) -> LogitNormal:
    """sigmoid(−N(mean, std)/2): the log signal-to-noise ratio is normal (arXiv 2411.14793; musubi-tuner "logsnr")."""
    return logit_normal(-mean / 2, std / 2)


def shifted_sigmoid(shift: float, scale: float) -> LogitNormal:
    """t = s·u/(1 + (s − 1)·u) of u = sigmoid(scale·N(0, 1)), musubi-tuner's "shift" (and "sigmoid" at s = 1).

    u is not uniform, though the formula is the one that schedulers apply to a uniform grid: musubi-tuner
    `trainer_base.get_noisy_model_input_and_timesteps`. Raises UserError unless shift > 0 and scale > 0.
    """
    if not (0 < shift < math.inf and 0 < scale < math.inf):
        raise UserError(f"--discrete_flow_shift {shift:g} --sigmoid_scale {scale:g}: both must be > 0")
    return LogitNormal(math.log(shift), scale)


@dataclass(frozen=True)
class ResolutionShift:
    """ln(s) linear in the tokens of a frame: `at_few` at `few` tokens, `at_many` at `many`."""

    few: int
    at_few: float
    many: int
    at_many: float
    cells: int  # a token's side in latent cells

    def log_shift(self, latent_hw: tuple[int, int]) -> float:
        """ln(s) for a latent of that height and width, in cells."""
        tokens = (latent_hw[0] // self.cells) * (latent_hw[1] // self.cells)
        return self.at_few + (self.at_many - self.at_few) * (tokens - self.few) / (self.many - self.few)


RESOLUTION_SHIFTS = {
    "flux_shift": ResolutionShift(256, 0.5, 4096, 1.15, cells=2),
    "flux2_shift": ResolutionShift(256, 0.5, 4096, 1.15, cells=1),  # Flux 2's latent comes packed
    "qwen_shift": ResolutionShift(256, 0.5, 8192, 0.9, cells=2),
    "krea2_shift": ResolutionShift(256, 0.5, 6400, 1.15, cells=2),  # since v0.3.4
}


def resolution_shifted(name: str, latent_hw: tuple[int, int], scale: float) -> LogitNormal:
    """`shifted_sigmoid` with musubi-tuner's shift `name` for that resolution, a key of RESOLUTION_SHIFTS."""
    return shifted_sigmoid(math.exp(RESOLUTION_SHIFTS[name].log_shift(latent_hw)), scale)


def ideogram4_shifted(latent_hw: tuple[int, int]) -> Clamped:
    """sigmoid(N(½·ln(pixels/512²), 1.5²)) with logit(t) clamped to [−7.5, 9] (musubi-tuner ≥ v0.3.3).

    Upstream `training/timesteps.compute_ideogram4_shift_timestep`: a cell is taken for 16×16 pixels, and the clamp is
    that of log-SNR = −2·logit(t) to [−18, 15]. Its other clamp, of u to [1e-7, 1 − 1e-7], is left out.
    """
    pixels = 16 * latent_hw[0] * 16 * latent_hw[1]
    return Clamped(LogitNormal(0.5 * math.log(pixels / 512**2), 1.5), float(expit(-7.5)), float(expit(9.0)))
