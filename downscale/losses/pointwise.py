"""Losses cell by cell, weighted by area: squared, absolute, Huber."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import huber_loss

from downscale.losses.counted import check_positive, counted, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor


def mse(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the area-weighted mean squared error, in units of the field squared; minimised by the conditional mean.

    Parameters
    ----------
    prediction, target : tensors, shapes that broadcast to (..., n_y, n_x)
        In the same units; NaN targets are ignored.
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
    """Return the area-weighted mean absolute error, in units of the field; minimised by the conditional median.

    Parameters as for ``mse``. The derivative at zero error is zero.
    """
    made, true, share = counted(prediction, target, weight)
    return weighted_mean((made - true).abs(), share)


def huber(prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, delta: float = 1.0) -> Tensor:
    """Return the area-weighted Huber loss: half the squared error up to ``delta``, linear beyond.

    Parameters as for ``mse``.

    Parameters
    ----------
    delta : float
        Error above which the loss grows linearly, in units of the field.

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
