"""Spectral loss, which compares the power of fields at every wavelength."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from downscale.fields.aggregate import like
from downscale.fields.spectrum import radial_power, rings, taper
from downscale.losses.counted import check_positive, counted, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor


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
    made, true, share = counted(prediction, target, weight)
    shape = (share.shape[-2], share.shape[-1])
    table, window, valid = rings(shape, step), like(taper(shape, periodic), made), share > 0
    found, expected = _relative(made, true, valid)
    powers = [radial_power(field, valid, window, table) for field in (found, expected)]
    least = floor * powers[1].mean(-1, keepdim=True).detach()
    varied = least[..., 0] > 100 * torch.finfo(made.dtype).eps ** 2 * floor
    least = torch.where(varied[..., None], least, torch.ones_like(least))
    distance = ((powers[0] + least).log() - (powers[1] + least).log()) ** 2
    return weighted_mean(distance.mean(-1), torch.where(varied, share.sum((-2, -1)), torch.zeros_like(least[..., 0])))


def _relative(made: Tensor, true: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in units of the largest target of each map; the mean may be large relative to the variation."""
    top = torch.where(valid, true.abs(), torch.zeros_like(true)).amax((-2, -1), keepdim=True)
    unit = torch.where(top > 0, top, torch.ones_like(top))
    return made / unit, true / unit
