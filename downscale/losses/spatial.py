"""Losses of gradients, spectra, coarse means and kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from downscale.errors import ShapeError
from downscale.fields.aggregate import Aggregation, like
from downscale.fields.gradient import Spacing, sobel
from downscale.fields.spectrum import mean_steps, radial_power, rings, taper
from downscale.kernels.smooth import kernel_roughness
from downscale.losses.pointwise import check_positive, mask_invalid, weighted_mean
from downscale.losses.terrain import complete_stencils, excess

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
    predictions, _, weights = mask_invalid(prediction, target, weight)
    mean = cells.apply_mask(weights > 0).mean(predictions)
    (n_y, n_x), tail = cells.coarse_shape, weights.shape[:-2]
    sums = weights.reshape(*tail, n_y, cells.factor_y, n_x, cells.factor_x).sum((-3, -1))
    # Cells with an undefined mean have no weight, and their NaN must not reach a gradient.
    mean, value, sums = mask_invalid(torch.where(sums > 0, mean, torch.zeros_like(mean)), coarse, sums)
    return weighted_mean((mean - value) ** 2, sums)


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
    predictions, truth, weights = mask_invalid(prediction, target, weight)
    error = predictions - truth
    east, north = sobel(error, spacing)
    dy, dx = mean_steps(spacing)
    metres = (dy * dx) ** 0.5 if length is None else length
    stencil_weights = weights * complete_stencils(weights > 0, spacing).to(weights.dtype)
    # Multiply by metres first: the square of a gradient in units per metre may leave the range of float32.
    slopes = (metres * east) ** 2 + (metres * north) ** 2
    return values * weighted_mean(error**2, weights) + weighted_mean(slopes, stencil_weights)


def steepness(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, spacing: Spacing, allowed_slope: Tensor,
    scale: Tensor | float = 1.0,
) -> Tensor:  # fmt: skip
    """Return the area-weighted mean of ``max(0, |grad y| - allowed_slope)**2`` of the prediction over all maps.

    The terrain-gradient penalty as a loss; the target only defines the valid cells.

    Parameters
    ----------
    prediction, target, weight : tensors
        As for ``mse``.
    spacing : Spacing
        Distances of the fine grid; the arrays may have leading dimensions that broadcast with those of the fields.
    allowed_slope : tensor that broadcasts to (..., n_y, n_x)
        Slope without cost, in units of the field per m.
    scale : tensor or float
        Divisor of the excess before squaring, in units of the field per m.
    """
    predictions, _, weights = mask_invalid(prediction, target, weight)
    stencil_weights = weights * complete_stencils(weights > 0, spacing).to(weights.dtype)
    return weighted_mean((excess(predictions, spacing, allowed_slope) / scale) ** 2, stencil_weights)


def spectral_distance(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, step: tuple[float, float] = (1.0, 1.0),
    periodic: bool = False, floor: float = 1e-6,
) -> Tensor:  # fmt: skip
    """Return the mean squared difference between the logarithms of ring-averaged power; dimensionless.

    Phases have no effect, so that a shifted field scores as the field itself: combine this with another loss. Both
    fields are tapered by a Hann window and share missing cells. Maps with a constant target have no spectrum and are
    ignored.

    Parameters
    ----------
    prediction, target, weight : tensors
        As for ``mse``; weights define the valid cells and, by their sum, the weight of each map.
    step : (float, float)
        Spacing of rows and of columns in metres.
    periodic : bool
        Whether columns close the circle, so that they need no taper.
    floor : float
        Power added to both spectra, relative to the mean power of the target, so that the smallest scales of smooth
        fields do not dominate the loss.

    Raises
    ------
    OptionError
        If ``floor`` is not positive.
    ShapeError
        If maps have fewer than four rows or columns.

    References
    ----------
    Harris, L. et al. (2022), A generative deep learning approach to stochastic downscaling of precipitation forecasts,
    Journal of Advances in Modeling Earth Systems 14, e2022MS003120 (radially averaged log spectral distance).
    """
    check_positive("spectral floor", floor)
    predictions, truth, weights = mask_invalid(prediction, target, weight)
    shape = (weights.shape[-2], weights.shape[-1])
    table, window, valid = rings(shape, step), like(taper(shape, periodic), predictions), weights > 0
    scaled_prediction, scaled_truth = _scale_to_target(predictions, truth, valid)
    powers = [radial_power(field, valid, window, table) for field in (scaled_prediction, scaled_truth)]
    least = floor * powers[1].mean(-1, keepdim=True).detach()
    has_variation = least[..., 0] > 100 * torch.finfo(predictions.dtype).eps ** 2 * floor
    least = torch.where(has_variation[..., None], least, torch.ones_like(least))
    distance = ((powers[0] + least).log() - (powers[1] + least).log()) ** 2
    return weighted_mean(
        distance.mean(-1), torch.where(has_variation, weights.sum((-2, -1)), torch.zeros_like(least[..., 0]))
    )


def _scale_to_target(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in units of the largest target of each map; the mean may be large relative to the variation."""
    top = torch.where(valid, target.abs(), torch.zeros_like(target)).amax((-2, -1), keepdim=True)
    unit = torch.where(top > 0, top, torch.ones_like(top))
    return prediction / unit, target / unit


def kernel_smoothness(kernels: Iterable[Tensor]) -> Tensor:
    """Return the mean over all kernels of ``w' L w``, L the graph Laplacian of the kernel's grid.

    ``w' L w`` is the sum of squared differences between neighbouring weights. It is zero only for constant kernels, and
    at most eight times ``w' w``.

    Parameters
    ----------
    kernels : iterable of tensors, shape (..., k_y, k_x)
        Weights of convolutions; each slice over the last two dimensions is one kernel.

    Raises
    ------
    ShapeError
        If there are none, or one has fewer than two dimensions.

    References
    ----------
    Chung, F. R. K. (1997), Spectral Graph Theory, American Mathematical Society.

    Examples
    --------
    >>> float(kernel_smoothness([torch.tensor([[1.0, 3.0]]), torch.ones(3, 2, 4, 4)]))  # 4 in one of 7 kernels
    0.571...
    """
    forms, count = [], 0
    for kernel in kernels:
        if kernel.ndim < 2:
            raise ShapeError(f"expected kernels of shape (..., k_y, k_x), received {tuple(kernel.shape)}")
        forms.append(kernel_roughness(kernel))
        count += kernel.shape[:-2].numel()
    if not count:
        raise ShapeError("expected at least one kernel of shape (..., k_y, k_x), received none")
    return torch.stack(forms).sum() / count
