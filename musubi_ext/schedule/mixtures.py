"""Mixtures of logit-normal laws, and musubi-tuner's two: qinglong_flux and qinglong_qwen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_softmax, logit

from musubi_ext.schedule import truncated_normal
from musubi_ext.schedule.densities import Array, LogitNormal, log_snr, no_mass, resolution_shifted

HALVINGS = 60  # of a bracket in logit(t): one of width 100 ends below 1e-16

QINGLONG = ("qinglong_flux", "qinglong_qwen")


@dataclass(frozen=True)
class Mixture:
    """Σ weight·law over logit-normal `parts`; the weights are > 0 and sum to 1."""

    parts: tuple[LogitNormal, ...]
    weights: tuple[float, ...]

    def cdf(self, t: Array) -> Array:
        return np.asarray(sum(w * part.cdf(t) for w, part in zip(self.weights, self.parts, strict=True)))

    def icdf(self, u: Array) -> Array:
        return self.truncated(u, 0.0, 1.0)

    def truncated(self, u: Array, low: float, high: float) -> Array:
        """The inverse by bisection in logit(t), one u per draw and monotone in u.

        The parts inside the range are truncated normals with weights ∝ weight·mass; the mixture's quantile lies
        between the least and the greatest of their quantiles at the same u, which are closed forms.
        """
        mean, std = (np.array([[getattr(part, name)] for part in self.parts]) for name in ("mean", "std"))
        a, b = (logit(low) - mean) / std, (logit(high) - mean) / std
        share = np.log(np.array(self.weights)[:, None]) + truncated_normal.log_mass(a, b)
        inside = np.isfinite(share[:, 0])  # parts whose mass underflows even as a logarithm give no draws
        if not inside.any():
            raise no_mass(low, high, "every part of the mixture is elsewhere")
        mean, std, a, b = mean[inside], std[inside], a[inside], b[inside]
        share = np.exp(log_softmax(share[inside], axis=0))
        ends = mean + std * truncated_normal.quantile(np.ravel(u), a, b)
        first, last = ends.min(axis=0), ends.max(axis=0)
        for _ in range(HALVINGS):
            middle = 0.5 * first + 0.5 * last
            short = (share * truncated_normal.cdf((middle - mean) / std, a, b)).sum(axis=0) < np.ravel(u)
            first, last = np.where(short, middle, first), np.where(short, last, middle)
        t: Array = np.clip(expit(0.5 * first + 0.5 * last), low, high).reshape(np.shape(u))
        return t


def qinglong(name: str, latent_hw: tuple[int, int], scale: float, logit_mean: float, logit_std: float) -> Mixture:
    """The law of that name in QINGLONG.

    qinglong_flux: flux_shift, logsnr(logit_mean, logit_std) and logsnr(5.36, 1); qinglong_qwen: qwen_shift and
    logsnr(5.36, 1). The weights are those of musubi-tuner v0.3.1 to v0.3.4 (`trainer_base.NetworkTrainer
    .get_noisy_model_input_and_timesteps`). v0.3.0 drew both names from three parts weighted 0.80, 0.075 and 0.125:
    trained there, the same name is another law.
    """
    low_noise = log_snr(5.36, 1.0)
    if name == "qinglong_qwen":
        return Mixture((resolution_shifted("qwen_shift", latent_hw, scale), low_noise), (0.95, 0.05))
    shifted = resolution_shifted("flux_shift", latent_hw, scale)
    return Mixture((shifted, log_snr(logit_mean, logit_std), low_noise), (0.79, 0.11, 0.10))
