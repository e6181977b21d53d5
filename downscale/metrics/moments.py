"""Weighted means, variances and covariance of two fields as running sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """First and second moments of a prediction and a target, about their means.

    Attributes
    ----------
    weight : float
        Sum of weights.
    mean, true_mean : float
        Weighted means.
    square, true_square, product : float
        Weighted sums of squared departures from the means, and of their product.

    References
    ----------
    Chan, T. F., Golub, G. H. and LeVeque, R. J. (1983), Algorithms for computing the sample variance: analysis and
    recommendations, The American Statistician 37, 242-247.
    """

    weight: float = 0.0
    mean: float = 0.0
    true_mean: float = 0.0
    square: float = 0.0
    true_square: float = 0.0
    product: float = 0.0

    @classmethod
    def of(cls, made: Floats, true: Floats, weight: Floats) -> Moments:
        """Return the moments of finite values of one shape."""
        total = float(weight.sum())
        if total == 0:
            return cls()
        mean, true_mean = float((weight * made).sum()) / total, float((weight * true).sum()) / total
        left, right = made - mean, true - true_mean
        sums = [float((weight * one * two).sum()) for one, two in ((left, left), (right, right), (left, right))]
        return cls(total, mean, true_mean, *sums)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both together."""
        total = self.weight + other.weight
        if total == 0:
            return self
        share = other.weight / total
        step, true_step = other.mean - self.mean, other.true_mean - self.true_mean
        apart = self.weight * share
        return Moments(
            total,
            self.mean + share * step,
            self.true_mean + share * true_step,
            self.square + other.square + apart * step**2,
            self.true_square + other.true_square + apart * true_step**2,
            self.product + other.product + apart * step * true_step,
        )

    @property
    def correlation(self) -> float:
        """Pearson's correlation; NaN if either field is constant."""
        # Departures of a constant from its mean are rounding errors.
        least = [self.weight * (8 * np.finfo(float).eps * mean) ** 2 for mean in (self.mean, self.true_mean)]
        if self.square <= least[0] or self.true_square <= least[1]:
            return float("nan")
        return float(np.clip(self.product / (self.square**0.5 * self.true_square**0.5), -1.0, 1.0))
