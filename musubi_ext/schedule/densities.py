"""Laws of the training timestep t in (0, 1), each with its CDF, its inverse, and draws inside a range.

Every law musubi-tuner draws from a normal is logit-normal: logit(t) ~ N(mean, std²). Its shift moves the mean by ln(s),
because t = s·u/(1 + (s − 1)·u) is logit(t) = logit(u) + ln(s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_ndtr, logit, ndtr, ndtri, ndtri_exp

from musubi_ext.errors import UserError

Array = NDArray[np.float64]


class Density(Protocol):
    """A continuous law on [0, 1]."""

    def cdf(self, t: Array) -> Array:
        """P(T ≤ t)."""
        ...

    def icdf(self, u: Array) -> Array:
        """The t with P(T ≤ t) = u; u in [0, 1]."""
        ...

    def truncated(self, u: Array, low: float, high: float) -> Array:
        """icdf(cdf(low) + u·(cdf(high) − cdf(low))): the law conditioned on [low, high], at u in [0, 1]."""
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
        """Accurate in the far tails, where cdf(high) − cdf(low) cancels to 0 in float64.

        Raises UserError where the range holds no probability at all.
        """
        a, b = ((logit(edge) - self.mean) / self.std for edge in (low, high))
        if np.isneginf(log_ndtr(min(b, -a))):
            raise UserError(
                f"timestep range {low:g} to {high:g}: no mass where logit(t) ~ N({self.mean:g}, {self.std:g}²)"
                " (choose a range, or density parameters, that overlap)"
            )
        z = -_truncated_normal(1.0 - u, -b, -a) if a > 0 else _truncated_normal(u, a, b)
        t: Array = np.clip(expit(self.mean + self.std * z), low, high)
        return t


def _truncated_normal(u: Array, a: float, b: float) -> Array:
    """Φ⁻¹((1 − u)·Φ(a) + u·Φ(b)) for a ≤ 0, with the mixture taken in logarithms.

    Callers flip a range with a > 0 to the lower tail: log Φ keeps its digits there, and 1 − Φ has none left.
    """
    with np.errstate(divide="ignore"):  # log 0 = −inf at the ends, which is what they are
        log_p = np.logaddexp(np.log1p(-u) + log_ndtr(a), np.log(u) + log_ndtr(b))
    return np.asarray(ndtri_exp(np.minimum(log_p, 0.0)))


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


def flux_shifted(latent_hw: tuple[int, int], scale: float) -> LogitNormal:
    """The same with ln(s) linear in the tokens of a frame, 0.5 at 256 and 1.15 at 4096 (Flux; "flux_shift").

    `latent_hw`: height and width of the latent, in cells; a token is 2×2 of them.
    """
    tokens = (latent_hw[0] // 2) * (latent_hw[1] // 2)
    return shifted_sigmoid(math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)), scale)
