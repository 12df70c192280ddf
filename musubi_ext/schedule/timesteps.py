"""Timesteps drawn inside an expert's range by the truncated inverse CDF: every draw counts, none is rejected.

musubi-tuner either squeezes its draws into the range (another law) or rejects, and gives up with a draw outside.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from musubi_ext.errors import UserError
from musubi_ext.schedule.densities import (
    RESOLUTION_SHIFTS,
    Density,
    Uniform,
    ideogram4_shifted,
    log_snr,
    logit_normal,
    resolution_shifted,
    shifted_sigmoid,
)
from musubi_ext.schedule.mixtures import QINGLONG, qinglong

_BY_RESOLUTION = (*RESOLUTION_SHIFTS, "ideogram4_shift", *QINGLONG)  # need the latent's height and width

SAMPLERS = ("uniform", "shift", "sigmoid", "logit_normal", "logsnr", *_BY_RESOLUTION)

_SIGMA = (
    "--timestep_sampling sigma: refused, because with a range musubi-tuner inverts it (900 to 1000 trains t = 1 to 100)"
    "; use shift, or one of {others}"
)


def density(
    name: str,
    *,
    shift: float = 1.0,
    sigmoid_scale: float = 1.0,
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    latent_hw: tuple[int, int] | None = None,
) -> Density:
    """The law that musubi-tuner's `--timestep_sampling NAME` draws from, for every NAME but sigma.

    logit_normal is the paper's own law and no NAME upstream: its `--weighting_scheme logit_normal` indexes a descending
    schedule and so trains the mirror image, 1 − t. `latent_hw`, in cells, is needed by the laws that depend on the
    resolution. Parameters of other laws are not looked at. Raises UserError.
    """
    if name in _BY_RESOLUTION:
        if latent_hw is None:
            raise UserError(f"--timestep_sampling {name}: the latent's height and width are needed (latent_hw)")
        return _by_resolution(name, latent_hw, sigmoid_scale, logit_mean, logit_std)
    if name == "uniform":
        return Uniform()
    if name in ("shift", "sigmoid"):
        return shifted_sigmoid(shift if name == "shift" else 1.0, sigmoid_scale)
    if name == "logit_normal":
        return logit_normal(logit_mean, logit_std)
    if name == "logsnr":
        return log_snr(logit_mean, logit_std)
    others = ", ".join(SAMPLERS)
    raise UserError(_SIGMA.format(others=others) if name == "sigma" else f"--timestep_sampling {name}: not in {others}")


def _by_resolution(name: str, latent_hw: tuple[int, int], scale: float, logit_mean: float, logit_std: float) -> Density:
    if name in QINGLONG:
        return qinglong(name, latent_hw, scale, logit_mean, logit_std)
    return resolution_shifted(name, latent_hw, scale) if name in RESOLUTION_SHIFTS else ideogram4_shifted(latent_hw)


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
    """Draw `n` values of t in [low, high]: float32 (n,), from the law `name` conditioned on the range.

    Uses `generator` (a CPU one), else torch's global state. One uniform per draw, whatever the
    range. Raises UserError for an unknown law, a parameter or range that makes no sense, or an empty range.
    """
    law = density(
        name,
        shift=shift,
        sigmoid_scale=sigmoid_scale,
        logit_mean=logit_mean,
        logit_std=logit_std,
        latent_hw=latent_hw,
    )
    u = torch.rand(n, dtype=torch.float64, generator=generator)
    return at_quantiles(law, u, low, high)


def at_quantiles(law: Density, u: Tensor, low: float, high: float) -> Tensor:
    """t at the quantiles `u` (n,) in [0, 1] of `law` conditioned on [low, high]: float32 (n,), never outside.

    Raises UserError unless 0 ≤ low < high ≤ 1 with a float32 between them.
    """
    first, last = _float32_range(low, high)
    t = law.truncated(u.numpy(), low, high).astype(np.float32)
    return torch.from_numpy(np.clip(t, first, last))  # 0.9 rounds to a float32 below 0.9


def _float32_range(low: float, high: float) -> tuple[np.float32, np.float32]:
    """The least and the greatest float32 inside [low, high]."""
    if not 0.0 <= low < high <= 1.0:
        raise UserError(f"timestep range {low:g} to {high:g}: expected 0 ≤ low < high ≤ 1")
    first, last = np.float32(low), np.float32(high)
    if float(first) < low:
        first = np.nextafter(first, np.float32(2))
    if float(last) > high:
        last = np.nextafter(last, np.float32(-1))
    if first > last:
        raise UserError(f"timestep range {low!r} to {high!r}: narrower than float32 can tell apart")
    return first, last
