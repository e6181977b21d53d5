"""Wiener filter of a uniform blur, and generalised cross-validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from downscale.deconvolution.spread import Everywhere
from downscale.deconvolution.weights import Kernel

if TYPE_CHECKING:
    from torch import Tensor

# Range of weights for cross-validation, then the number of halvings of the step around the best.
# Below the least weight, rounding, edges and rows unlike the middle one outweigh the gain.
WEIGHTS, HALVINGS = np.logspace(-6, 3, 37), 4
LEAST = 1e-6


def filtered(data: Tensor, kernel: Kernel, weight: float, order: int = 2) -> Tensor:
    """Return ``conj(h) x / (|h|^2 + weight g^order)`` by Fourier transforms, with g the symbol of the Laplacian.

    The field is periodic along all axes. Order 2 is the Wiener filter for a ratio of noise to signal that grows as the
    fourth power of wavenumber. The mean of the field is conserved.

    References
    ----------
    Hunt, B. R. (1973), The application of constrained least squares estimation to image restoration by digital
    computer, IEEE Trans. Comput. C-22, 805-812.
    """
    shape = tuple(data.shape)
    symbol = mirrored_symbol(kernel, shape, data)
    power = (symbol * symbol.conj()).real
    waves = torch.fft.rfftn(data) * symbol.conj() / (power + weight * laplacian(kernel, shape, data) ** order)
    return torch.fft.irfftn(waves, s=shape)


def laplacian(kernel: Kernel, shape: tuple[int, ...], reference: Tensor) -> Tensor:
    """Return the symbol of minus the Laplacian on closed axes, in units of the mean step, of a real transform."""
    mean = float(np.prod(kernel.steps) ** (1 / len(shape)))
    total = torch.zeros(())
    for axis, (n, step) in enumerate(zip(shape, kernel.steps, strict=True)):
        last = axis == len(shape) - 1
        angle = 2 * np.pi * (np.arange(n // 2 + 1) if last else np.arange(n)) / n
        one = reference.new_tensor((2 - 2 * np.cos(angle)) * (mean / step) ** 2)
        total = one if axis == 0 else total[..., None] + one
    return total


def cross_validated(data: Tensor, kernel: Kernel, order: int) -> float:
    """Return the weight of least generalised cross-validation error for a field mirrored at its open edges.

    Parameters
    ----------
    data : tensor
        The field, with gaps filled.
    kernel : Kernel
        Uniform weights; a middle row represents grids on which they vary.

    Notes
    -----
    The error ``n |r|^2 / tr(I - T)^2`` is exact for the mirrored field: both sums are over Fourier modes.

    References
    ----------
    Golub, G. H., Heath, M. & Wahba, G. (1979), Generalized cross-validation as a method for choosing a good ridge
    parameter, Technometrics 21, 215-223.
    """
    wide = mirrored(data, kernel.periodic)
    wide = wide - wide.mean()
    shape = tuple(wide.shape)
    power = mirrored_symbol(kernel, shape, data).abs() ** 2
    energy, rough = torch.fft.rfftn(wide).abs() ** 2, laplacian(kernel, shape, data) ** order
    # A real transform stores most modes once for two.
    twice = torch.full_like(rough, 2.0)
    twice[..., 0] = 1.0
    if shape[-1] % 2 == 0:
        twice[..., -1] = 1.0

    def error(log_weight: float) -> float:
        left = 10**log_weight * rough
        off = left / (power + left).clamp(min=1e-300)
        return float((twice * off**2 * energy).sum() / (twice * off).sum() ** 2)

    if not float(energy.sum()) > 0:
        return LEAST
    places = np.log10(WEIGHTS)
    best, step = float(places[int(np.argmin([error(p) for p in places]))]), float(places[1] - places[0])
    for _ in range(HALVINGS):
        step /= 2
        best = min((best - step, best, best + step), key=error)
    return max(10**best, LEAST)


def mirrored(data: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """Return the data with the mirror image appended along open axes."""
    for axis, closed in enumerate(periodic):
        if not closed and data.shape[axis] > 1:
            data = torch.cat([data, data.flip(axis)], dim=axis)
    return data


def mirrored_symbol(kernel: Kernel, shape: tuple[int, ...], reference: Tensor) -> Tensor:
    """Return the symbol of weights on closed axes of ``shape``, cut to their size."""
    values, centre = _within(kernel, shape)
    return Everywhere(Kernel(values, centre, (True,) * len(shape), kernel.steps), shape, reference).symbol


def _within(kernel: Kernel, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the weights cut to a field's size, for closed axes shorter than their reach."""
    values, centre = kernel.values, list(kernel.centre)
    for axis, size in enumerate(shape):
        if values.shape[axis] > size:
            half = (size - 1) // 2
            first = centre[axis] - half
            values = np.take(values, np.arange(first, first + 2 * half + 1), axis=axis)
            centre[axis] = half
    return values / values.sum(), tuple(centre)
