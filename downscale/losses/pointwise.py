"""Losses cell by cell, weighted by area, and the treatment of valid cells that all losses share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import huber_loss

from downscale.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor


def mask_invalid(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return prediction, target and weight in one shape, zero for invalid values, at least in float32.

    A value is valid if the target is finite and the weight positive. Invalid predictions, NaN included, affect neither
    the loss nor a gradient. A NaN prediction at a valid value makes the loss NaN. Weights are equal by default.
    """
    kind = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    if weight is None:
        weight = target.new_ones((), dtype=kind)
    prediction, target, weight = torch.broadcast_tensors(prediction.to(kind), target.to(kind), weight.to(kind))
    valid = torch.isfinite(target) & (weight > 0)
    zero = prediction.new_zeros(())
    return torch.where(valid, prediction, zero), torch.where(valid, target, zero), torch.where(valid, weight, zero)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return ``sum(weight * values) / sum(weight)`` over all elements; 0 if no element has weight.

    Invariant: the result does not depend on the unit of the weights.

    Examples
    --------
    >>> float(weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0])))
    2.0
    """
    # Sums of areas in m2 could exceed the range of float32; relative to the largest they are of order one.
    top = weight.amax().detach() if weight.numel() else weight.new_zeros(())
    relative = weight / torch.where(top > 0, top, torch.ones_like(top))
    total = relative.sum()
    return (relative * values).sum() / torch.where(total > 0, total, torch.ones_like(total))


def check_positive(label: str, value: float, zero: bool = False) -> None:
    """Raise an OptionError for a value that is not positive; ``zero`` also allows zero."""
    if not (value >= 0 if zero else value > 0):
        raise OptionError(f"expected {label} {'>=' if zero else '>'} 0, received {value!r}")


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
    predictions, truth, weights = mask_invalid(prediction, target, weight)
    return weighted_mean((predictions - truth) ** 2, weights)


def mae(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the area-weighted mean absolute error, in units of the field; minimised by the conditional median.

    Parameters as for ``mse``. The derivative at zero error is zero.
    """
    predictions, truth, weights = mask_invalid(prediction, target, weight)
    return weighted_mean((predictions - truth).abs(), weights)


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
    predictions, truth, weights = mask_invalid(prediction, target, weight)
    return weighted_mean(huber_loss(predictions, truth, reduction="none", delta=delta), weights)
