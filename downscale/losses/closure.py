"""Cell conservation as a penalty, for comparison with conservation by construction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from downscale.errors import ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.losses.counted import counted, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor


def soft_closure(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, coarse: Tensor, cells: Aggregation
) -> Tensor:
    """Return the mean of ``(A y - x)**2`` over coarse cells by area, units of the field squared.

    Zero if and only if every valid coarse cell is conserved. Each coarse cell has the weight of its valid fine cells; a
    missing coarse value has none.

    Parameters
    ----------
    prediction, target, weight : tensors
        As for ``mse``; the target only defines the valid cells.
    coarse : tensor, shape (..., n_y, n_x)
        Coarse values x, in the same units.
    cells : Aggregation
        Aggregation from fine to coarse cells.

    Raises
    ------
    ShapeError
        If the coarse field does not have the coarse shape of ``cells``.
    """
    if tuple(coarse.shape[-2:]) != cells.coarse_shape:
        n_y, n_x = cells.coarse_shape
        raise ShapeError(f"expected coarse values of shape (..., {n_y}, {n_x}), received {tuple(coarse.shape)}")
    made, _, share = counted(prediction, target, weight)
    mean = cells.mean(made, share > 0)
    (n_y, n_x), tail = cells.coarse_shape, share.shape[:-2]
    whole = share.reshape(*tail, n_y, cells.factor_y, n_x, cells.factor_x).sum((-3, -1))
    # Cells with an undefined mean have no weight, and their NaN must not reach a gradient.
    mean, value, whole = counted(torch.where(whole > 0, mean, torch.zeros_like(mean)), coarse, whole)
    return weighted_mean((mean - value) ** 2, whole)
