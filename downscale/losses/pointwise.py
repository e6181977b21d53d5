"""Losses cell by cell, weighted by area: squared, absolute, Huber (torch; knows no grid but weights)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import huber_loss

from downscale.losses.counted import check_positive, counted, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor


def mse(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean squared error by area, units of the field squared; the mean of the conditional law is its least.

    Parameters
    ----------
    prediction, target : tensors, shapes that broadcast to (..., n_y, n_x)
        In the same units; a NaN target is not counted.
    weight : tensor that broadcasts to them, optional
        Areas times mask.

    Examples
    --------
    >>> import torch
    >>> float(mse(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, torch.nan]])))
    4.0
    """
    made, true, share = counted(prediction, target, weight)
    return weighted_mean((made - true) ** 2, share)


def mae(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean absolute error by area, units of the field; the median of the conditional law is its least.

    Parameters as for ``mse``. The derivative of a cell without error is zero.
    """
    made, true, share = counted(prediction, target, weight)
    return weighted_mean((made - true).abs(), share)


def huber(prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, delta: float = 1.0) -> Tensor:
    """Return Huber's loss by area: half the squared error up to ``delta``, linear beyond.

    Parameters as for ``mse``.

    Parameters
    ----------
    delta : float
        Error in units of the field from which the loss grows linearly.

    Raises
    ------
    OptionError
        If ``delta`` is not positive.

    References
    ----------
    Huber, P. J. (1964), Robust estimation of a location parameter, Annals of Mathematical Statistics 35, 73-101.
    """
    check_positive("Huber delta", delta)
    made, true, share = counted(prediction, target, weight)
    return weighted_mean(huber_loss(made, true, reduction="none", delta=delta), share)
