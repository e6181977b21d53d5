"""Local roughness of a coarse field, extrapolated to scales below its cells.

Structure functions ``S(l)``, mean squares of differences between cells ``l`` apart, determine a power law and its
curvature. Extrapolated below the cells, they give the unresolved variance. Only neighbours within a finite radius are
used, and sums are in a fixed order, so that any division of the field gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Distances between the cells compared; cells on each side of the two windows.
LAGS = (1, 2, 4)
NEAR, WIDE = 1, 12
REACH = WIDE + LAGS[-1]
# Isotropic Gaussian fields with the spectrum k**-(2 + 2 H), averaged over cells: apparent exponents from lag 1 to 2 and
# from 2 to 4, and the mean square error of the Sobolev kernel in units of S(1), by factor. From synthesised fields of
# 1024 x 1024 fine cells; tests/test_cascade.py recomputes them.
HURST = np.array([-0.25, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
SHORT = np.array([0.30, 0.43, 0.49, 0.54, 0.59, 0.65, 0.70, 0.76, 0.81, 0.87, 0.90, 0.93])
LONG = np.array([0.15, 0.27, 0.32, 0.38, 0.45, 0.52, 0.58, 0.66, 0.72, 0.80, 0.84, 0.88])
UNRESOLVED_FRACTIONS = {
    2: np.array([0.626, 0.418, 0.348, 0.285, 0.228, 0.177, 0.135, 0.099, 0.067, 0.042, 0.026, 0.014]),
    4: np.array([1.586, 0.867, 0.670, 0.509, 0.384, 0.285, 0.201, 0.139, 0.096, 0.053, 0.037, 0.018]),
    8: np.array([2.991, 1.321, 0.957, 0.688, 0.485, 0.332, 0.242, 0.161, 0.108, 0.064, 0.040, 0.025]),
    16: np.array([4.850, 1.729, 1.183, 0.807, 0.547, 0.379, 0.269, 0.169, 0.109, 0.070, 0.051, 0.036]),
}
# If the curvature exceeds that of a power law, it is extrapolated: octaves of variance lost per unit of excess, up to a
# limit. Chosen on radar composites of five kinds.
CURVATURE_GAIN, MOST_OCTAVES = 15.0, 2.3


@dataclass(frozen=True)
class Roughness:
    """Estimates of the unresolved variability in coarse cells, shape (N, ny, nx).

    ``spread`` is the standard deviation of fine values about the kernel's, in units of the field. ``slope`` is the
    exponent H of the power law below the cells: amplitudes fall by 2**-H per octave.
    """

    spread: Tensor
    slope: Tensor


def roughness(x: Tensor, factor: float, closed: bool = False, smoothing: float = 0.0) -> Roughness:
    """Return the power law of a coarse field, shape (N, ny, nx), extrapolated below its cells; undefined at NaN.

    ``smoothing`` is added to the exponent H below the cells, for smoothing by instruments and models.
    """
    halo = REACH if closed else 0
    field = torch.cat([x[..., -halo:], x, x[..., :halo]], dim=-1) if halo and x.shape[-1] >= halo else x
    steps = [_steps(field, lag) for lag in LAGS]
    near_mean = _mean(*steps[0], NEAR)
    s1, s2, s4 = (_mean(square, count, WIDE) for square, count in steps)
    short_exponent, long_exponent = _exponent(s1, s2), _exponent(s2, s4)
    excess = (_table(short_exponent, SHORT, LONG) - long_exponent).clamp_min(0)
    octaves = (CURVATURE_GAIN * excess).clamp_max(MOST_OCTAVES)
    unresolved_fraction = torch.exp(_table(short_exponent, SHORT, _log_unresolved_fraction(factor)))
    variance_fraction = unresolved_fraction * torch.exp2(-octaves)
    slope = (_table(short_exponent, SHORT, HURST) + smoothing).clamp_min(0)
    estimates = [torch.sqrt(near_mean * variance_fraction), slope]
    if field is not x:
        estimates = [estimate[..., halo:-halo] for estimate in estimates]
    return Roughness(*estimates)


def _steps(field: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """Return the sums of squared differences with the cells ``lag`` away, and their number."""
    total, count = torch.zeros_like(field), torch.zeros_like(field)
    for axis in (-2, -1):
        size = field.shape[axis] - lag
        if size <= 0:
            continue
        square = (field.narrow(axis, lag, size) - field.narrow(axis, 0, size)) ** 2
        is_finite = torch.isfinite(square)
        square, valid = torch.where(is_finite, square, torch.zeros_like(square)), is_finite.to(field)
        for first in (0, lag):
            total.narrow(axis, first, size).add_(square)
            count.narrow(axis, first, size).add_(valid)
    return total, count


def _mean(total: Tensor, count: Tensor, radius: int) -> Tensor:
    sums, number = _box(total, radius), _box(count, radius)
    return sums / torch.where(number > 0, number, torch.ones_like(number))


def _box(field: Tensor, radius: int) -> Tensor:
    """Return sums over boxes, with zeros beyond the ends, added in a fixed order."""
    for axis in (-2, -1):
        size, sums = field.shape[axis], field.clone()
        for offset in range(1, min(radius, size - 1) + 1):
            sums.narrow(axis, offset, size - offset).add_(field.narrow(axis, 0, size - offset))
            sums.narrow(axis, 0, size - offset).add_(field.narrow(axis, offset, size - offset))
        field = sums
    return field


def _exponent(near: Tensor, far: Tensor) -> Tensor:
    """Return half the logarithm to base two of a ratio; that of noise if nothing varies."""
    varies = (near > 0) & (far > 0)
    ones = torch.ones_like(near)
    return 0.5 * torch.log2(torch.where(varies, far, ones) / torch.where(varies, near, ones))


def _log_unresolved_fraction(factor: float) -> NDArray[np.float64]:
    """Return the logarithm of the unresolved fraction for any factor; constant beyond the largest in the table."""
    logarithms = np.log([UNRESOLVED_FRACTIONS[key] for key in UNRESOLVED_FRACTIONS])
    octave = np.log2([*UNRESOLVED_FRACTIONS])
    return np.array([np.interp(np.log2(max(factor, 1.0)), octave, column) for column in logarithms.T])


def _table(values: Tensor, x: NDArray[np.float64], y: NDArray[np.float64]) -> Tensor:
    """Return interpolated values of a table, constant beyond its ends."""
    interpolation = torch.full_like(values, float(y[0]))
    for low, high, first, last in zip(x[:-1], x[1:], y[:-1], y[1:], strict=True):
        fraction = ((values - float(low)) / float(high - low)).clamp(0, 1)
        interpolation = interpolation + fraction * float(last - first)
    return interpolation
