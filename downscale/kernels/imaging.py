"""Spectral images of upsampling kernels: the repetitions from zero insertion that a filter should remove.

After zero insertion, a coarse wave of ``nu`` cycles per cell has equal lines at the fine frequencies ``(nu + m) / s``.
The kernel multiplies them by its response H: ``m = 0`` is the wave, all others are images of it. Images at ``nu = 0``
are the checkerboard of constants; they vanish if the kernel preserves constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from downscale.errors import InputError, OptionError, ShapeError, listing
from downscale.kernels.classic import block_weights, cubic_weights, linear_weights
from downscale.kernels.coverage import require_no_holes
from downscale.kernels.laws import Size, geometry_of
from downscale.kernels.sobolev import AxisWeights, axis_weights

Floats = NDArray[np.float64]
Complex = NDArray[np.complex128]

# A smaller fraction of the power of a wave is rounding.
LEAST_POWER = 1e-30
# Highest coarse frequency of the pass band, cycles per coarse cell: half of the Nyquist frequency.
PASS_BAND = 0.25
WAVES = 33
REFERENCES = ("conservative", "bilinear", "bicubic", "sobolev")


class AxisKernel(NamedTuple):
    """A kernel along one axis in density form: its weights sum to ``stride``."""

    weights: Floats
    stride: int
    padding: int


def decibels(ratio: ArrayLike) -> Floats:
    """Return a ratio of powers in decibels, with a minimum of -300.

    Examples
    --------
    >>> decibels([100.0, 0.5, 0.0]).round(2).tolist()
    [20.0, -3.01, -300.0]
    """
    return 10 * np.log10(np.maximum(np.asarray(ratio, dtype=np.float64), LEAST_POWER))


def dirichlet(frequency: ArrayLike, count: int) -> Floats:
    """Return the response of ``count`` equal taps: ``sin(pi f n) / (n sin(pi f))``, one at zero.

    Examples
    --------
    >>> dirichlet([0.0, 0.25, 0.5], 2).round(4).tolist()
    [1.0, 0.7071, 0.0]
    """
    f = np.asarray(frequency, dtype=np.float64)
    offsets = np.arange(count) - (count - 1) / 2
    return np.cos(2 * np.pi * np.multiply.outer(f, offsets)).mean(-1)


def ideal_response(frequency: ArrayLike, stride: int) -> Floats:
    """Return the ideal low-pass response: one below half a cycle per coarse cell, one half there, zero beyond."""
    f = np.abs((np.asarray(frequency, dtype=np.float64) + 0.5) % 1 - 0.5) * 2 * stride
    return np.where(np.isclose(f, 1), 0.5, (f < 1).astype(np.float64))


def reference_kernel(name: str, factor: int, taps: int = 7, order: float = 1.25) -> AxisKernel:
    """Return the kernel of a training-free method on a uniform axis far from its ends.

    Raises
    ------
    OptionError
        If there is no such method; the message lists the names.
    ShapeError
        If the factor is below two: nothing is inserted, so there are no images.

    Examples
    --------
    >>> reference_kernel("bilinear", 2).weights.tolist(), reference_kernel("conservative", 3).weights.tolist()
    ([0.25, 0.75, 0.75, 0.25], [1.0, 1.0, 1.0])
    """
    cells = 2 * taps + 5
    coarse, fine = np.arange(cells + 1.0), np.linspace(0.0, cells, cells * factor + 1)
    centres = 0.5 * (coarse[1:] + coarse[:-1]), 0.5 * (fine[1:] + fine[:-1])
    builders: dict[str, Callable[[], AxisWeights]] = {
        "conservative": lambda: block_weights(factor, cells),
        "bilinear": lambda: linear_weights(*centres),
        "bicubic": lambda: cubic_weights(*centres),
        "sobolev": lambda: axis_weights(coarse, fine, taps, order),
    }
    if name not in builders:
        raise OptionError(f"expected a kernel among {listing(builders)}, received {name!r}")
    require_finer((factor,))
    return _of_axis(builders[name](), factor, cells)


def _of_axis(weights: AxisWeights, factor: int, cells: int) -> AxisKernel:
    """Return the kernel from the rows of the middle cell, without zeros at its ends."""
    middle, reach = cells // 2, weights.taps + 1
    kernel = np.zeros((2 * reach + 1) * factor)
    for phase in range(factor):
        row = middle * factor + phase
        offset = middle - (weights.start[row] + np.arange(weights.taps))
        np.add.at(kernel, (offset + reach) * factor + phase, weights.weights[row])
    # Both ends alike, so that the kernel is still centred.
    margin = min(int((kernel != 0).argmax()), int((kernel[::-1] != 0).argmax()))
    return AxisKernel(kernel[margin : kernel.size - margin], factor, reach * factor - margin)


def require_finer(stride: Sequence[int]) -> None:
    """Raise ``ShapeError`` if all strides are one: no zeros are inserted, so there are no images."""
    if all(step == 1 for step in stride):
        sizes = " x ".join(map(str, stride))
        raise ShapeError(f"expected a stride of at least 2 along some axis, received {sizes}: it makes no images")


def response(kernel: Any, stride: Size, frequencies: Sequence[ArrayLike], padding: Size | None = None) -> Complex:
    """Return the response H of kernels, with phases about the centre of their coarse cell; one for a perfect pass.

    Parameters
    ----------
    kernel : array, shape (..., k) or (..., k_y, k_x)
        Weights in density form: they sum to ``prod(stride)`` if constants are preserved in the mean (global
        conservation).
    stride, padding : int or sequence of int
        As in :func:`downscale.kernels.laws.law_residual`.
    frequencies : sequence of arrays
        Cycles per fine cell, one array per axis, shapes (F_y,), (F_x,).

    Returns
    -------
    array of complex, shape (..., F) or (..., F_y, F_x)

    Examples
    --------
    >>> abs(response(np.ones(3), 3, [[0.0, 1 / 3]])).round(12).tolist()
    [1.0, 0.0]
    """
    transform = np.asarray(kernel, dtype=np.complex128)
    sizes, strides, pads = geometry_of(transform, stride, padding)
    for axis, (size, step, pad, f) in enumerate(zip(sizes, strides, pads, frequencies, strict=True)):
        position = np.arange(size) - pad - (step - 1) / 2
        waves = np.exp(-2j * np.pi * np.multiply.outer(np.asarray(f, dtype=np.float64), position)) / step
        dimension = transform.ndim - len(sizes) + axis
        transform = np.moveaxis(np.tensordot(transform, waves, axes=(dimension, 1)), -1, dimension)
    return transform


def images(kernel: Any, stride: Size, waves: Sequence[ArrayLike], padding: Size | None = None) -> Complex:
    """Return the gains of coarse waves and of all their images.

    Parameters
    ----------
    kernel, stride, padding
        As for :func:`response`.
    waves : sequence of arrays
        Cycles per coarse cell, -0.5 to 0.5, one array per axis.

    Returns
    -------
    array of complex, shape (..., F, s) or (..., F_y, F_x, s_y, s_x)
        Index zero of the last axes is the wave itself.
    """
    array = np.asarray(kernel)
    _, strides, _ = geometry_of(array, stride, padding)
    fine = [
        (np.add.outer(np.arange(step), np.asarray(nu, dtype=np.float64)) / step).ravel()
        for step, nu in zip(strides, waves, strict=True)
    ]
    gains = response(array, stride, fine, padding)
    axes, lead = len(strides), gains.ndim - len(strides)
    shape = [n for step, nu in zip(strides, waves, strict=True) for n in (step, np.size(nu))]
    table = gains.reshape(*gains.shape[:lead], *shape)
    order = [lead + 2 * i + 1 for i in range(axes)] + [lead + 2 * i for i in range(axes)]
    return table.transpose(*range(lead), *order)


@dataclass(frozen=True)
class Imaging:
    """Summary of the images of kernels; powers are added over all kernels of a layer.

    Attributes
    ----------
    rejection : dict of tuple to float
        Attenuation in decibels of each image relative to the waves of the pass band, by its number along each axis.
    of_constants : dict of tuple to float
        The same for the images of constants, the checkerboard; 300 is rounding.
    overall, overall_of_constants : float
        Attenuation of all images together, in decibels.
    pass_band_error : float
        Root mean square of ``|1 - H|`` over the pass band, with kernels scaled to preserve constants in the mean.
    pass_band_error_of_averages : float
        The same with waves as cell averages, ``|1 - H D|``, with D the response of averaging over a coarse cell.
    band : float
        Highest frequency of the pass band, cycles per coarse cell.
    """

    rejection: dict[tuple[int, ...], float]
    of_constants: dict[tuple[int, ...], float]
    overall: float
    overall_of_constants: float
    pass_band_error: float
    pass_band_error_of_averages: float
    band: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain texts and numbers."""

        def label_images(table: dict[tuple[int, ...], float]) -> dict[str, float]:
            return {",".join(f"{m}/s" for m in key): value for key, value in table.items()}

        return {
            "image_rejection_db": label_images(self.rejection),
            "checkerboard_of_constants_db": label_images(self.of_constants),
            "overall_rejection_db": self.overall,
            "overall_checkerboard_of_constants_db": self.overall_of_constants,
            "pass_band_error": self.pass_band_error,
            "pass_band_error_of_averages": self.pass_band_error_of_averages,
            "pass_band": self.band,
        }


def imaging(kernel: Any, stride: Size, padding: Size | None = None, band: float = PASS_BAND) -> Imaging:
    """Return the summary of the images of kernels, shape (..., k) or (..., k_y, k_x), as of transposed convolutions.

    Raises
    ------
    ShapeError
        If no axis is refined, or a kernel is smaller than its stride.
    InputError
        If a weight is not finite, or the kernels pass nothing.
    OptionError
        If the pass band is not between 0 and 0.5 cycles per coarse cell.

    References
    ----------
    Vaidyanathan (1990), Multirate digital filters, filter banks, polyphase networks, and applications,
    Proceedings of the IEEE 78, 56-93.

    Examples
    --------
    >>> bilinear = reference_kernel("bilinear", 2)
    >>> summary = imaging(bilinear.weights, 2, bilinear.padding)
    >>> round(summary.overall, 1), summary.overall_of_constants
    (31.9, 300.0)
    """
    array = np.asarray(kernel, dtype=np.float64)
    sizes, strides, pads = geometry_of(array, stride, padding)
    if not 0 < band <= 0.5:
        raise OptionError(f"expected a pass band above 0 and up to 0.5 cycles per coarse cell, received {band!r}")
    require_finite(array)
    require_finer(strides)
    require_no_holes(sizes, strides, pads)
    flat = array.reshape(-1, *sizes)
    nu = np.linspace(-band, band, WAVES)
    gains = images(flat, strides, [nu] * len(strides), pads)
    power, constant_power = _image_powers(gains), _image_powers(images(flat, strides, [[0.0]] * len(strides), pads))
    wave, constant = float(power.flat[0]), float(constant_power.flat[0])
    if wave <= 0:
        raise InputError("expected kernels that pass something, received weights of zero only; train the layer first")
    image_numbers = [number for number in product(*map(range, strides)) if any(number)]
    error, error_of_averages = _pass_band(gains, strides, nu)
    return Imaging(
        {m: float(-decibels(power[m] / wave)) for m in image_numbers},
        {m: float(-decibels(constant_power[m] / max(constant, wave))) for m in image_numbers},
        float(-decibels((power.sum() - wave) / wave)),
        float(-decibels((constant_power.sum() - constant) / max(constant, wave))),
        error,
        error_of_averages,
        float(band),
    )


def require_finite(weights: Floats) -> None:
    """Raise ``InputError`` if a weight is NaN or infinite; the message has the index of the first."""
    bad = ~np.isfinite(weights)
    if bad.any():
        index = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        raise InputError(
            f"expected finite weights, received {weights[index]} at {list(index)} ({int(bad.sum())} of {bad.size}); "
            "train with a smaller learning rate, or get the file again"
        )


def _image_powers(gains: Complex) -> Floats:
    """Return the mean power of each image over waves, added over kernels, shape ``stride``."""
    power = np.abs(gains) ** 2
    axes = (gains.ndim - 1) // 2
    return power.sum(0).mean(tuple(range(axes)))


def _pass_band(gains: Complex, strides: tuple[int, ...], nu: Floats) -> tuple[float, float]:
    """Return both errors of the pass band, with kernels weighted by the power of their own gain."""
    axes = len(strides)
    wave_index: Any = (..., *(0,) * axes)
    middle: Any = (slice(None), *(nu.size // 2,) * axes)
    waves = gains[wave_index]
    level = waves[middle].reshape(-1, *(1,) * axes)
    power = np.abs(level) ** 2
    if power.sum() <= LEAST_POWER * prod(strides):
        return float("nan"), float("nan")
    average = np.ones(())
    for step in strides:
        average = np.multiply.outer(average, dirichlet(nu / step, step))
    errors = [(np.abs(level - waves * target) ** 2).sum() / (power.sum() * waves[0].size) for target in (1.0, average)]
    return float(errors[0] ** 0.5), float(errors[1] ** 0.5)
