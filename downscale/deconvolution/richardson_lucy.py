"""Richardson-Lucy deconvolution, which keeps fields positive and conserves the flux at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from downscale.errors import BoundsError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from downscale.deconvolution.blur import Blur

# Blurred values below this fraction of the largest are rounding errors of the transforms.
NEGLIGIBLE = 1e-14
# Median magnitude of a normal variable of variance one.
NORMAL_MEDIAN = 0.6744897501960817


@dataclass(frozen=True, eq=False)
class Solution:
    """A restored field, with parameters of the solution.

    Attributes
    ----------
    field : tensor
        With the shape of the data, zero at invalid cells.
    iterations : int
        Steps taken.
    parameter : float
        Weight of the roughness, NaN if the method has none.
    noise : float
        Standard deviation of the noise, given or estimated, NaN if the method does not use it.
    misfit : float
        Area-weighted root mean square of data minus blurred result.
    """

    field: Tensor
    iterations: int
    parameter: float
    noise: float
    misfit: float


def richardson_lucy(
    data: Tensor,
    blur: Blur,
    *,
    noise: float | None = None,
    iterations: int = 100,
    damping: float = 0.0,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Solution:
    """Return a restored positive field by ``y <- y H*(x / H y)``, from a uniform initial field.

    Parameters
    ----------
    data : tensor, of the shape of ``blur``
        The blurred field, zero at invalid cells.
    blur : Blur
        The operator H.
    noise : float, optional
        Standard deviation of the noise; estimated by default. The iteration stops when the misfit falls to it
        (discrepancy principle); with 0 it runs to the end.
    iterations : int
        Largest number of iterations.
    damping : float
        Weight of the total variation, 0 (none) to about 0.05: less graininess, and lower peaks.
    watch : callable, optional
        Called with the number and the field after each iteration.

    Raises
    ------
    BoundsError
        If data are negative.
    OptionError
        If an option is out of range.

    Notes
    -----
    Total conservation: the area sum of the result is that of the data, after each iteration and for any mask. The
    reason is that columns of H add up to one in area weights.

    References
    ----------
    Richardson, W. H. (1972), J. Opt. Soc. Am. 62, 55-59. Lucy, L. B. (1974), Astron. J. 79, 745-754. Dey, N. et al.
    (2006), Richardson-Lucy algorithm with total variation regularization for 3D confocal microscope deconvolution,
    Microsc. Res. Tech. 69, 260-266.
    """
    _require_usable(data, blur, iterations, damping, noise)
    level = noise_level(data, blur.mask) if noise is None else float(noise)
    flux, size = blur.flux(data), blur.flux(torch.ones_like(data))
    if not float(flux) > 0:
        return Solution(torch.zeros_like(data), 0, float("nan"), level, 0.0)
    field, step, misfit = flux / size * blur.mask, 0, float("inf")
    for step in range(iterations + 1):
        image = blur.forward(field)
        misfit = float(torch.sqrt(blur.flux((data - image) ** 2) / size))
        if step == iterations or misfit <= level:
            break
        image = image.clamp(min=NEGLIGIBLE * float(image.max()))
        field = field * blur.back(data / image * blur.mask)
        if damping:
            field = field / _total_variation_slope(field, damping)
        # Corrects rounding, and the effect of the total variation.
        field = field.clamp(min=0.0)
        field = field * (flux / blur.flux(field))
        if watch is not None:
            watch(step + 1, field)
    return Solution(field, step, float("nan"), level, misfit)


def _require_usable(data: Tensor, blur: Blur, iterations: int, damping: float, noise: float | None) -> None:
    if not isinstance(iterations, int) or iterations < 1:
        raise OptionError(f"expected at least one iteration, a whole number, received {iterations!r}")
    if not 0 <= damping < 0.25:
        raise OptionError(f"expected damping from 0 to below 0.25, received {damping!r}; try 0.01")
    if noise is not None and not 0 <= noise < float("inf"):
        raise OptionError(f"expected noise to be 0 or a positive number, received {noise!r}")
    least = float((data * blur.mask).min())
    if least < 0:
        raise BoundsError(
            f"expected values >= 0 for Richardson-Lucy deconvolution, received {least:g}; use method='tikhonov', or "
            "set negative values to zero"
        )


def _total_variation_slope(field: Tensor, damping: float) -> Tensor:
    """Return ``1 - damping div(grad y / |grad y|)``, positive for damping below a quarter in two dimensions."""
    scale = float(field.abs().max()) * 1e-6 + 1e-300
    axes = range(-field.ndim, 0)
    gradients = [torch.roll(field, -1, axis) - field for axis in axes]
    for axis, gradient in zip(axes, gradients, strict=True):
        gradient.narrow(axis, field.shape[axis] - 1, 1).zero_()
    length = torch.sqrt(sum((g * g for g in gradients), torch.full_like(field, scale**2)))
    slopes = [g / length for g in gradients]
    flows = (s - torch.roll(s, 1, axis) for axis, s in zip(axes, slopes, strict=True))
    divergence = sum(flows, torch.zeros_like(field))
    return (1 - damping * divergence).clamp(min=0.1)


def noise_level(data: Tensor, mask: Tensor) -> float:
    """Return the standard deviation of white noise, estimated from second differences along all axes.

    The estimate is the median of their magnitude, so that fronts have little effect. If most of a field is constant
    (dry), only non-zero differences count. Zero for fields of fewer than three cells along an axis.

    References
    ----------
    Immerkaer, J. (1996), Fast noise variance estimation, Computer Vision and Image Understanding 64, 300-302.
    """
    rough, valid, gain = data, mask, 1.0
    for axis in range(-data.ndim, 0):
        size = data.shape[axis]
        if size == 1:
            continue
        if size < 3:
            return 0.0
        left, middle, right = (rough.narrow(axis, k, size - 2) for k in range(3))
        rough = left - 2 * middle + right
        valid = torch.stack([valid.narrow(axis, k, size - 2) for k in range(3)]).amin(dim=0)
        gain *= 6.0**0.5
    differences = rough[valid > 0].abs()
    # Smaller differences are rounding errors.
    differences = differences[differences > 1e-12 * float(data.abs().max())] if differences.numel() else differences
    return float(differences.median()) / (NORMAL_MEDIAN * gain) if differences.numel() else 0.0
