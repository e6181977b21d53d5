"""Scores of ensembles, cell by cell."""

from __future__ import annotations

import numpy as np

from downscale.errors import ShapeError
from downscale.fields.aggregate import Array, like, namespace


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
