"""The cell law as a penalty, to compare with the law by construction (torch; knows the aggregation, no network)."""

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

    Zero iff the cell law holds on every coarse cell that counts. The mean is over the fine cells that count; a coarse
    cell weighs what they weigh, one without a value nothing.

    Parameters
    ----------
    prediction, target, weight : tensors
        As for ``mse``; the target only tells which cells count.
    coarse : tensor, shape (..., n_y, n_x)
        Coarse values x, in the same units.
    cells : Aggregation
        From fine to coarse cells.

    Raises
    ------
    ShapeError
        If the coarse field has not the coarse shape of ``cells``.
    """
    if tuple(coarse.shape[-2:]) != cells.coarse_shape:
        n_y, n_x = cells.coarse_shape
        raise ShapeError(f"expected coarse values of shape (..., {n_y}, {n_x}), received {tuple(coarse.shape)}")
    made, _, share = counted(prediction, target, weight)
    mean = cells.mean(made, share > 0)
    (n_y, n_x), tail = cells.coarse_shape, share.shape[:-2]
    whole = share.reshape(*tail, n_y, cells.factor_y, n_x, cells.factor_x).sum((-3, -1))
    # Cells whose mean is not defined do not count, nor may their NaN reach a gradient.
    mean, value, whole = counted(torch.where(whole > 0, mean, torch.zeros_like(mean)), coarse, whole)
    return weighted_mean((mean - value) ** 2, whole)
