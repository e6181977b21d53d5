"""Valid cells of a loss, and weighted means over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from downscale.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor


def counted(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return prediction, target and weight in one shape, zero for invalid values.

    A value is valid if the target is finite and the weight positive. Invalid predictions, NaN included, affect neither
    the loss nor a gradient. A NaN prediction at a valid value makes the loss NaN.

    Parameters
    ----------
    prediction, target : tensors, shapes that broadcast to (..., n_y, n_x)
        In the same units. Half-precision values are compared in float32.
    weight : tensor that broadcasts to them, optional
        Areas times mask, any unit; equal weights by default.
    """
    kind = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    if weight is None:
        weight = target.new_ones((), dtype=kind)
    prediction, target, weight = torch.broadcast_tensors(prediction.to(kind), target.to(kind), weight.to(kind))
    some = torch.isfinite(target) & (weight > 0)
    none = prediction.new_zeros(())
    return torch.where(some, prediction, none), torch.where(some, target, none), torch.where(some, weight, none)


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


def check_positive(what: str, value: float, zero: bool = False) -> None:
    """Raise an OptionError for a value that is not positive; ``zero`` also allows zero.

    Raises
    ------
    OptionError
        With the name and the value.
    """
    if not (value >= 0 if zero else value > 0):
        raise OptionError(f"expected {what} {'>=' if zero else '>'} 0, received {value!r}")
