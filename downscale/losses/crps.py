"""Continuous ranked probability score of ensembles, fair and standard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from downscale.errors import ShapeError
from downscale.fields.aggregate import like
from downscale.losses.counted import counted, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor


def fair_crps(prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, members: int = 0) -> Tensor:
    """Return ``mean |x_i - y| - 1 / (2 M (M - 1)) sum_ij |x_i - x_j|`` by area; units of the field.

    The expectation of the fair score is the CRPS of the distribution of the members, for any number M of members.
    Training with it therefore does not favour narrow ensembles. It may be negative for a single target.

    Parameters
    ----------
    prediction : tensor
        Ensemble members along dimension ``members``, else the shape of the target.
    target, weight : tensors
        As for ``mse``, without that dimension.
    members : int
        Ensemble dimension of ``prediction``.

    Raises
    ------
    ShapeError
        If there are fewer than two members.

    References
    ----------
    Ferro, C. A. T. (2014), Fair scores for ensemble forecasts, Quarterly Journal of the Royal Meteorological Society
    140, 1917-1923.

    Examples
    --------
    >>> import torch
    >>> float(fair_crps(torch.tensor([[0.0], [2.0]]), torch.tensor([1.0])))
    0.0
    """
    count = prediction.shape[members] if prediction.ndim else 0
    if count < 2:
        raise ShapeError(
            f"expected at least two members along dimension {members} for a fair CRPS, received shape "
            f"{tuple(prediction.shape)}; generate more, or use the standard CRPS"
        )
    return _crps(prediction, target, weight, members, count * (count - 1))


def standard_crps(prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, members: int = 0) -> Tensor:
    """Return ``mean |x_i - y| - 1 / (2 M**2) sum_ij |x_i - x_j|`` by area; units of the field.

    The CRPS of the empirical distribution of the members: never negative, zero if and only if all members equal the
    target, and the absolute error of a single member. It exceeds the fair score by
    ``sum_ij |x_i - x_j| / (2 M**2 (M - 1))`` and so favours narrow ensembles.

    Parameters as for ``fair_crps``.

    Raises
    ------
    ShapeError
        If there is no member.

    References
    ----------
    Gneiting, T. and Raftery, A. E. (2007), Strictly proper scoring rules, prediction, and estimation, Journal of the
    American Statistical Association 102, 359-378.
    """
    count = prediction.shape[members] if prediction.ndim else 0
    if count < 1:
        raise ShapeError(
            f"expected members along dimension {members} for a CRPS, received shape {tuple(prediction.shape)}"
        )
    return _crps(prediction, target, weight, members, count**2)


def _crps(prediction: Tensor, target: Tensor, weight: Tensor | None, members: int, pairs: int) -> Tensor:
    made, true, share = counted(prediction.movedim(members, 0), target, weight)
    return weighted_mean(crps_of_cells(made, true, pairs), share[0])


def crps_of_cells(made: Tensor, true: Tensor, pairs: int) -> Tensor:
    """Return the CRPS of each cell: members along the first dimension, the sum of their differences over ``pairs``.

    ``M (M - 1)`` pairs give the fair score, ``M**2`` that of the empirical distribution.
    """
    count = made.shape[0]
    # For sorted values, the sum over pairs is one pass: the i-th of M values has the weight (i - 1) - (M - i).
    ranks = like(2.0 * np.arange(count) - (count - 1), made).reshape(-1, *(1,) * (made.ndim - 1))
    spread = (ranks * made.sort(dim=0).values).sum(0) / pairs
    return (made - true).abs().mean(0) - spread
