"""Scores of ensembles: CRPS, spread over error, rank histogram."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from downscale.errors import ShapeError
from downscale.fields.aggregate import Array, like, namespace

Floats = NDArray[np.float64]
# Spacing of cells in the test of flatness, because neighbouring cells are not independent.
CELL_SPACING = 16


def crps(prediction: Array, target: Array, fair: bool = True) -> Array:
    """Return the continuous ranked probability score of each cell, in units of the field.

    ``mean |x_i - y| - sum_ij |x_i - x_j| / (2 M (M - 1))``, with ``2 M**2`` if not ``fair``. A single member has no
    fair score, and its score is the absolute error.

    Parameters
    ----------
    prediction : array or tensor, shape (n_members, ...)
        Ensemble members.
    target : array or tensor, shape (...)
        Reference values.
    fair : bool
        Whether the expectation is that of an infinite ensemble.

    Raises
    ------
    ShapeError
        If there is no member.

    References
    ----------
    Gneiting, T. and Raftery, A. E. (2007), Strictly proper scoring rules, prediction, and estimation, Journal of the
    American Statistical Association 102, 359-378. Ferro, C. A. T. (2014), Fair scores for ensemble forecasts, Quarterly
    Journal of the Royal Meteorological Society 140, 1917-1923.

    Examples
    --------
    >>> members, target = np.array([[0.0], [2.0]]), np.array([1.0])
    >>> crps(members, target).tolist(), crps(members, target, fair=False).tolist()
    ([0.0], [0.5])
    """
    count = len(prediction)
    if not count:
        raise ShapeError(f"expected members along the first dimension, received shape {tuple(prediction.shape)}")
    error = abs(prediction - target).mean(0)
    if count == 1:
        return error
    # For sorted values, the sum over pairs is one pass: the i-th of M values has the weight (i - 1) - (M - i).
    ranks = like(2.0 * np.arange(count) - (count - 1), prediction).reshape(-1, *(1,) * (prediction.ndim - 1))
    ordered = np.sort(prediction, axis=0) if namespace(prediction) is np else prediction.msort()
    return error - (ranks * ordered).sum(0) / (count * (count - 1 if fair else count))


def spread_skill(variance: float, square: float, members: int) -> float:
    """Return ``sqrt((M + 1) / M * variance / square)``: one for a reliable ensemble, less if it is too narrow.

    Parameters
    ----------
    variance : float
        Mean of the unbiased variance of the members.
    square : float
        Mean squared error of their mean.
    members : int
        Number of members M.

    References
    ----------
    Fortin, V., Abaza, M., Anctil, F. and Turcotte, R. (2014), Why should ensemble spread match the RMSE of the ensemble
    mean?, Journal of Hydrometeorology 15, 1708-1713.
    """
    if members < 2 or not square > 0:
        return float("nan")
    return float(((members + 1) / members * variance / square) ** 0.5)


@dataclass(frozen=True, eq=False)
class Ranks:
    """A rank histogram as running sums."""

    # (n_members + 1,): weights of cells by the number of members below the reference.
    counts: Floats = field(default_factory=lambda: np.empty(0))
    # (n_members + 1,): the same, as unweighted counts of cells with the spacing ``CELL_SPACING``.
    sparse_counts: Floats = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, members: Floats, target: Floats, weight: Floats) -> Ranks:
        """Return the counts of members (n_members, n_maps, n_y, n_x), targets and weights (n_maps, n_y, n_x).

        A reference value that equals some members (both dry) counts in equal parts for all ranks in between. Cells
        whose reference equals all members are ignored.
        """
        below, same = (members < target).sum(axis=0), (members == target).sum(axis=0)
        size = len(members) + 1
        valid = (weight > 0) & (same < len(members))
        histograms = [_share_ranks(below[valid], same[valid], weight[valid], size)]
        sparse = np.zeros(valid.shape, bool)
        sparse[..., CELL_SPACING // 2 :: CELL_SPACING, CELL_SPACING // 2 :: CELL_SPACING] = True
        sparse &= valid
        histograms.append(_share_ranks(below[sparse], same[sparse], np.ones(int(sparse.sum())), size))
        return cls(*histograms)

    def merge(self, other: Ranks) -> Ranks:
        """Return the counts of both together."""
        if not self.counts.size or not other.counts.size:
            return other if not self.counts.size else self
        if self.counts.size != other.counts.size:
            raise ShapeError(
                f"expected ranks among as many members, received {self.counts.size - 1} and {other.counts.size - 1}"
            )
        return Ranks(self.counts + other.counts, self.sparse_counts + other.sparse_counts)

    @property
    def shares(self) -> Floats:
        """Fraction of each rank, uniform for a reliable ensemble."""
        total = self.counts.sum()
        return self.counts / total if total > 0 else np.full(self.counts.size, np.nan)

    @property
    def unevenness(self) -> float:
        """Sum of the deviations of all fractions from uniform ones, 0 for a flat histogram, at most 2; NaN if empty.

        References
        ----------
        Delle Monache, L., Hacker, J. P., Zhou, Y., Deng, X. and Stull, R. B. (2006), Probabilistic aspects of
        meteorological and ozone regional ensemble forecasts, Journal of Geophysical Research 111, D24307.
        """
        return float(np.abs(self.shares - 1 / self.counts.size).sum()) if self.counts.size else float("nan")

    @property
    def flatness(self) -> float:
        """Probability of a histogram at least as uneven from a reliable ensemble: Pearson's chi-square test.

        The test uses cells with the spacing ``CELL_SPACING`` as independent; NaN for fewer than five cells per rank.

        References
        ----------
        Hamill, T. M. (2001), Interpretation of rank histograms for verifying ensemble forecasts, Monthly Weather Review
        129, 550-560.
        """
        expected = self.sparse_counts.sum() / max(self.sparse_counts.size, 1)
        if expected < 5:
            return float("nan")
        from scipy.stats import chi2

        square = float(((self.sparse_counts - expected) ** 2 / expected).sum())
        return float(chi2.sf(square, self.sparse_counts.size - 1))


def _share_ranks(below: NDArray[np.int64], same: NDArray[np.int64], weight: Floats, size: int) -> Floats:
    """Return equal parts of the weight of a cell for each rank from ``below`` to ``below + same``."""
    counts = np.zeros(size + 1)
    part = weight / (same + 1)
    np.add.at(counts, below, part)
    np.add.at(counts, below + same + 1, -part)
    return np.maximum(np.cumsum(counts)[:size], 0.0)
