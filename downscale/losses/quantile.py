"""Quantile losses: pinball, and the CRPS as its mean over levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from downscale.errors import OptionError, ShapeError
from downscale.fields.aggregate import like
from downscale.losses.counted import counted, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor


def pinball(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, levels: Sequence[float], dimension: int = 0
) -> Tensor:
    """Return the area-weighted pinball loss, the mean over ``levels``, in units of the field.

    The q-quantile of the conditional distribution minimises it at level q; for q = 0.5 it is half the absolute error.
    It is proper for a network that predicts quantiles. It is *unfair* for order statistics of an ensemble of M members:
    it then favours narrow ensembles, by a fraction of order 1/M. Use ``fair_crps`` for members.

    Parameters
    ----------
    prediction : tensor
        Quantiles along ``dimension``, else the shape of the target.
    target, weight : tensors
        As for ``mse``, without that dimension.
    levels : sequence of float
        Probabilities, in the order of the predictions.
    dimension : int
        Dimension of the levels in ``prediction``.

    Raises
    ------
    OptionError
        If there is no level, or one is not between 0 and 1.
    ShapeError
        If the number of predictions differs from that of the levels.

    References
    ----------
    Koenker, R. and Bassett, G. (1978), Regression quantiles, Econometrica 46, 33-50.
    """
    count = checked_levels(levels).size
    return _weighted_pinball(prediction, target, weight, levels, dimension, np.full(count, 1 / count))


def crps_of_quantiles(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, levels: Sequence[float], dimension: int = 0
) -> Tensor:
    """Return the CRPS of predicted quantiles, twice the pinball loss integrated over levels, in units of the field.

    Each level represents the probabilities nearest to it. Invariant: sorted ensemble members at levels
    ``(i - 1/2) / M`` give exactly the *standard* CRPS of the ensemble, so that for members the score is not fair.

    Parameters and errors as for ``pinball``; levels must also increase.

    References
    ----------
    Laio, F. and Tamea, S. (2007), Verification tools for probabilistic forecasts of continuous hydrological variables,
    Hydrology and Earth System Sciences 11, 1267-1277.
    """
    given = checked_levels(levels, increasing=True)
    edges = np.concatenate([[0.0], (given[1:] + given[:-1]) / 2, [1.0]])
    return 2 * _weighted_pinball(prediction, target, weight, levels, dimension, np.diff(edges))


def _weighted_pinball(
    prediction: Tensor,
    target: Tensor,
    weight: Tensor | None,
    levels: Sequence[float],
    dimension: int,
    parts: np.ndarray,
) -> Tensor:
    given = checked_levels(levels)
    if prediction.ndim == 0 or prediction.shape[dimension] != given.size:
        raise ShapeError(
            f"expected {given.size} quantiles, one per level, along dimension {dimension} of the prediction, received "
            f"shape {tuple(prediction.shape)}"
        )
    made, true, share = counted(prediction.movedim(dimension, 0), target, weight)
    ahead = (-1, *(1,) * (made.ndim - 1))
    level, part = like(given, made).reshape(ahead), like(parts, made).reshape(ahead)
    gap = true - made
    loss = (part * ((level - 0.5) * gap + 0.5 * gap.abs())).sum(0)
    return weighted_mean(loss, share[0])


def checked_levels(levels: Sequence[float], increasing: bool = False) -> np.ndarray:
    """Return the levels as an array.

    Raises
    ------
    OptionError
        If there is none, one is not between 0 and 1, or they must increase and do not.
    """
    given = np.asarray(levels, dtype=np.float64)
    if given.ndim != 1 or given.size == 0 or not ((given > 0) & (given < 1)).all():
        raise OptionError(f"expected quantile levels between 0 and 1, received {levels!r}; such as [0.1, 0.5, 0.9]")
    if increasing and (np.diff(given) <= 0).any():
        raise OptionError(f"expected increasing quantile levels for the CRPS, received {list(levels)}; sort them")
    return given
