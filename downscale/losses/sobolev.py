"""Sobolev loss, which compares values and their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from downscale.fields.gradient import Spacing, sobel
from downscale.fields.spectrum import steps
from downscale.losses.counted import check_positive, counted, weighted_mean
from downscale.losses.terrain import excess, whole_stencils

if TYPE_CHECKING:
    from torch import Tensor


def sobolev_loss(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, spacing: Spacing, length: float | None = None,
    values: float = 1.0,
) -> Tensor:  # fmt: skip
    """Return ``mean(values * e**2) + length**2 * mean(|grad e|**2)`` of the error e, units of the field squared.

    This is the squared norm of the Sobolev space H1, weighted by area. Gradients are Sobel stencils in metres, without
    those that touch an invalid cell.

    Parameters
    ----------
    prediction, target, weight : tensors
        As for ``mse``.
    spacing : Spacing
        Distances of the fine grid; the arrays may have leading dimensions that broadcast with those of the fields.
    length : float, optional
        Length in metres over which a gradient error counts as much as a value error; by default the mean cell width.
    values : float
        Weight of the values relative to the gradients; 0 compares gradients alone.

    Raises
    ------
    OptionError
        If ``length`` or ``values`` is negative.

    References
    ----------
    Czarnecki, W. M. et al. (2017), Sobolev training for neural networks, Advances in Neural Information Processing
    Systems 30.
    """
    check_positive("Sobolev loss length", 0.0 if length is None else length, zero=True)
    check_positive("Sobolev loss values", values, zero=True)
    made, true, share = counted(prediction, target, weight)
    error = made - true
    east, north = sobel(error, spacing)
    dy, dx = steps(spacing)
    metres = (dy * dx) ** 0.5 if length is None else length
    whole = share * whole_stencils(share > 0, spacing).to(share.dtype)
    # Multiply by metres first: the square of a gradient in units per metre may leave the range of float32.
    slopes = (metres * east) ** 2 + (metres * north) ** 2
    return values * weighted_mean(error**2, share) + weighted_mean(slopes, whole)


def steepness(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, spacing: Spacing, allowed: Tensor,
    scale: Tensor | float = 1.0,
) -> Tensor:  # fmt: skip
    """Return the area-weighted mean of ``max(0, |grad y| - allowed)**2`` of the prediction, one value for all maps.

    The terrain-gradient penalty as a loss; the target only defines the valid cells.

    Parameters
    ----------
    prediction, target, weight : tensors
        As for ``mse``.
    spacing : Spacing
        Distances of the fine grid; the arrays may have leading dimensions that broadcast with those of the fields.
    allowed : tensor that broadcasts to (..., n_y, n_x)
        Slope without cost, in units of the field per m.
    scale : tensor or float
        Divisor of the excess before squaring, in units of the field per m.
    """
    made, _, share = counted(prediction, target, weight)
    whole = share * whole_stencils(share > 0, spacing).to(share.dtype)
    return weighted_mean((excess(made, spacing, allowed) / scale) ** 2, whole)
