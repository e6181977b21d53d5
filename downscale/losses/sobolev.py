"""The Sobolev loss: values and their slopes in metres at once (torch; knows spacings, no network)."""

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

    The squared norm of the Sobolev space H1, by area. Slopes by Sobel's stencil in metres; stencils that touch a cell
    that does not count are left out.

    Parameters
    ----------
    prediction, target, weight : tensors
        As for ``mse``.
    spacing : Spacing
        Distances of the fine grid; its arrays may have leading dimensions that broadcast with the fields'.
    length : float, optional
        Metres over which a slope makes an error as large as a value; by default the mean width of a cell.
    values : float
        Weight of the values beside the slopes; 0 compares slopes alone.

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
    # Metres first: the square of a slope in units a metre may leave the range of float32.
    slopes = (metres * east) ** 2 + (metres * north) ** 2
    return values * weighted_mean(error**2, share) + weighted_mean(slopes, whole)


def steepness(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, spacing: Spacing, allowed: Tensor,
    scale: Tensor | float = 1.0,
) -> Tensor:  # fmt: skip
    """Return the mean by area of ``max(0, |grad y| - allowed)**2`` of the prediction, one value for all maps.

    The terrain-gradient penalty as a loss: the target only tells which cells count.

    Parameters
    ----------
    prediction, target, weight : tensors
        As for ``mse``.
    spacing : Spacing
        Distances of the fine grid; its arrays may have leading dimensions that broadcast with the fields'.
    allowed : tensor that broadcasts to (..., n_y, n_x)
        Slope that costs nothing, units of the field a metre.
    scale : tensor or float
        Slopes beyond it are divided by this before they are squared, units of the field a metre.
    """
    made, _, share = counted(prediction, target, weight)
    whole = share * whole_stencils(share > 0, spacing).to(share.dtype)
    return weighted_mean((excess(made, spacing, allowed) / scale) ** 2, whole)
