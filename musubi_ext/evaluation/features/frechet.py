"""The Fréchet distance between two sets of features, taken for Gaussians (Heusel et al. 2017, eq. 6).

d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½ (Dowson and Landau 1982), with sample covariances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


class Moments:
    """Count, mean (D,) and covariance (D, D) of features that come in batches and are not kept."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Matrix = np.zeros(0)
        self._scatter: Matrix = np.zeros((0, 0))

    def add(self, features: NDArray[np.floating]) -> None:
        """Take in features (N, D), merged as by Chan et al. 1979: no difference of large sums."""
        batch = features.astype(np.float64)
        mean = batch.mean(axis=0)
        centred = batch - mean
        if not self.count:
            self.mean, self._scatter = np.zeros_like(mean), np.zeros((len(mean), len(mean)))
        total, apart = self.count + len(batch), mean - self.mean
        self._scatter += centred.T @ centred + np.outer(apart, apart) * (self.count * len(batch) / total)
        self.mean = self.mean + apart * (len(batch) / total)
        self.count = total

    @property
    def covariance(self) -> Matrix:
        """Unbiased sample covariance (D, D). Raises ValueError for fewer than two samples."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two samples, got {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """d² between the two; 0 for equal moments, up to rounding."""
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features of {first.mean.shape} and {second.mean.shape} cannot be compared")
    a, b = first.covariance, second.covariance
    apart = first.mean - second.mean
    # tr (Σ₁Σ₂)^½ is the sum of the singular values of Σ₁^½ Σ₂^½. Roots of eigenvalues of the product would turn a
    # rounding error of 1e-16 into one of 1e-8 in each direction that few samples leave empty.
    shared = np.linalg.svd(_root(a) @ _root(b), compute_uv=False).sum()
    return max(0.0, float(apart @ apart + np.trace(a) + np.trace(b) - 2 * shared))


def _root(covariance: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T, dtype=np.float64)
