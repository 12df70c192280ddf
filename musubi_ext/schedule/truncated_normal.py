"""The standard normal truncated to [a, b], in float64 and in the logarithms of its tails.

Φ(b) − Φ(a) cancels to 0 eight standard deviations out; log Φ keeps its digits in the lower tail. A range above 0 is
mirrored to the lower tail first: 1 − Φ has no digits left there. Edges may be infinite; everything broadcasts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtri_exp

Array = NDArray[np.float64]


def quantile(u: ArrayLike, a: ArrayLike, b: ArrayLike) -> Array:
    """z with P(Z ≤ z | a ≤ Z ≤ b) = u, u in [0, 1]: Φ⁻¹((1 − u)·Φ(a) + u·Φ(b)), the mixture taken in logarithms."""
    above, a, b = _mirrored(a, b)
    u = np.where(above, 1.0 - np.asarray(u), u)
    with np.errstate(divide="ignore"):  # log 0 = −inf at the ends, which is what they are
        log_p = np.logaddexp(np.log1p(-u) + log_ndtr(a), np.log(u) + log_ndtr(b))
    z: Array = ndtri_exp(np.minimum(log_p, 0.0))
    return np.where(above, -z, z)


def cdf(z: ArrayLike, a: ArrayLike, b: ArrayLike) -> Array:
    """P(Z ≤ z | a ≤ Z ≤ b) for z in [a, b], with an absolute error near 1e-16. NaN where z = a = −∞ or z = b = ∞."""
    above, a, b = _mirrored(a, b)
    to_z, to_a, to_b = log_ndtr(np.where(above, -np.asarray(z), z)), log_ndtr(a), log_ndtr(b)
    with np.errstate(invalid="ignore"):  # ∞ − ∞ at an infinite edge
        below: Array = np.exp(to_z - to_b) * np.expm1(to_a - to_z) / np.expm1(to_a - to_b)
    return np.where(above, 1.0 - below, below)


def log_mass(a: ArrayLike, b: ArrayLike) -> Array:
    """log(Φ(b) − Φ(a)); −inf where float64 sees nothing there."""
    _, a, b = _mirrored(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        mass = log_ndtr(b) + np.log(-np.expm1(log_ndtr(a) - log_ndtr(b)))
    return np.where(np.isneginf(log_ndtr(b)), -np.inf, mass)


def _mirrored(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.bool_], Array, Array]:
    """Which ranges lie above 0, and every range as one that does not."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    above = a > 0
    return above, np.where(above, -b, a), np.where(above, -a, b)
