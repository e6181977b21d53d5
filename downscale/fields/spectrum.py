"""Fourier analysis of maps: power spectra averaged over rings of wavenumber, and exact shifts.

Compared maps must have the same gaps and edges, so that both have the same leakage.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import ShapeError
from downscale.fields.aggregate import like, namespace
from downscale.fields.gradient import Spacing

Array = Any
LEAST_CELLS = 4
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Rings:
    """Fourier modes of a map in rings of equal wavenumber.

    ``order`` has flat indices into the modes of a real transform, ring by ring. ``ring`` is the ring of each mode from
    0, ``weight`` its weight, which adds up to one per ring. ``wavenumber`` is the middle of each ring, in cycles per
    metre (or per cell, if steps are 1).
    """

    order: NDArray[np.int64]
    ring: NDArray[np.int64]
    weight: NDArray[np.float64]
    wavenumber: NDArray[np.float64]


def has_rings(shape: tuple[int, int], step: tuple[float, float] = (1.0, 1.0)) -> bool:
    """Return whether maps have a ring: enough cells, and a wavenumber that both axes resolve."""
    lowest, highest = _range(shape, step)
    return min(shape) >= LEAST_CELLS and lowest <= highest * (1 + ROUNDING)


def _range(shape: tuple[int, int], step: tuple[float, float]) -> tuple[float, float]:
    """Return the larger of the two lowest wavenumbers, and the smaller of the two highest."""
    return max(1 / (shape[0] * step[0]), 1 / (shape[1] * step[1])), min(0.5 / step[0], 0.5 / step[1])


@lru_cache(maxsize=16)
def rings(shape: tuple[int, int], step: tuple[float, float] = (1.0, 1.0)) -> Rings:
    """Return the rings of the modes of maps of ``shape``, with rows and columns ``step`` metres apart.

    The width of a ring is the larger of the two lowest wavenumbers. Rings end at the smaller of the two highest:
    beyond, in the corners, not all directions are resolved. The mean of the map belongs to no ring.

    Examples
    --------
    >>> rings((8, 8)).wavenumber.tolist()
    [0.125, 0.25, 0.375, 0.5]
    """
    n_y, n_x = shape
    if min(shape) < LEAST_CELLS:
        smallest = f"{LEAST_CELLS} x {LEAST_CELLS}"
        raise ShapeError(f"expected a map of at least {smallest} cells for a power spectrum, received {n_y} x {n_x}")
    along_y, along_x = np.fft.fftfreq(n_y, step[0]), np.fft.rfftfreq(n_x, step[1])
    magnitude = np.hypot(along_y[:, None], along_x)
    width, highest = _range(shape, step)
    # A mode between two rings belongs to the shorter waves, whatever the rounding.
    number = np.floor(magnitude / width + 0.5 + ROUNDING).astype(np.int64)
    in_ring = (number > 0) & (magnitude <= highest * (1 + ROUNDING))
    if not has_rings(shape, step):
        lengths = f"{n_y} x {n_x} cells of {step[0]:g} x {step[1]:g} m"
        raise ShapeError(f"expected a map with a wavenumber that both axes resolve, received {lengths}; add cells")
    # A real transform omits the mirror images of all columns but the first and, for an even size, the last.
    multiplicity = np.full(along_x.size, 2.0)
    multiplicity[0] = 1.0
    if n_x % 2 == 0:
        multiplicity[-1] = 1.0
    order = np.flatnonzero(in_ring)
    order = order[np.argsort(number.ravel()[order], kind="stable")]
    ring = number.ravel()[order] - 1
    counts = np.broadcast_to(multiplicity, magnitude.shape).ravel()[order]
    ring_numbers, ring = np.unique(ring, return_inverse=True)
    weight = counts / np.bincount(ring, counts)[ring]
    return Rings(order, ring, weight, (ring_numbers + 1) * width)


def mean_steps(spacing: Spacing) -> tuple[float, float]:
    """Return the mean distance of rows and of columns, in metres."""
    return float(np.abs(spacing.dy).mean()) / 2, float(np.abs(spacing.dx).mean()) / 2


def taper(shape: tuple[int, int], periodic: bool = False) -> NDArray[np.float64]:
    """Return Hann's window, shape (n_y, n_x); constant along a closed circle of columns.

    References
    ----------
    Harris, F. J. (1978), On the use of windows for harmonic analysis with the discrete Fourier transform, Proceedings
    of the IEEE 66, 51-83.
    """
    y, x = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape)
    return np.multiply.outer(y, np.ones_like(x) if periodic else x)


def radial_power(field: Array, valid: Array, window: Array, table: Rings) -> Array:
    """Return the mean power of each ring: (..., n_y, n_x) -> (..., n_rings), units of the field squared.

    Invariant: for any window and gaps, white noise has its variance in every ring (in the mean of many realisations,
    except for the mean that is subtracted). A map without valid values has zero power.
    """
    xp = namespace(field)
    weight = xp.where(valid, window, xp.zeros_like(field))
    total, square = weight.sum((-2, -1)), (weight**2).sum((-2, -1))
    ones = xp.ones_like(total)
    mean = (weight * xp.where(valid, field, xp.zeros_like(field))).sum((-2, -1)) / xp.where(total > 0, total, ones)
    anomaly = weight * (xp.where(valid, field, xp.zeros_like(field)) - mean[..., None, None])
    modes = xp.fft.rfft2(anomaly)
    power = (modes.real**2 + modes.imag**2).reshape(*field.shape[:-2], -1)
    return _ring_sums(power, table) / xp.where(square > 0, square, ones)[..., None]


def _ring_sums(power: Array, table: Rings) -> Array:
    if namespace(power) is np:
        starts = np.searchsorted(table.ring, np.arange(table.wavenumber.size))
        return np.add.reduceat(power[..., table.order] * like(table.weight, power), starts, axis=-1)
    integers = sys.modules["torch"].int64
    order, ring = power.new_tensor(table.order, dtype=integers), power.new_tensor(table.ring, dtype=integers)
    powers = power.index_select(-1, order) * like(table.weight, power)
    return power.new_zeros((*power.shape[:-1], table.wavenumber.size)).index_add(-1, ring, powers)


def fourier_shift(field: Array, rows: float = 0.0, columns: float = 0.0) -> Array:
    """Return a periodic field (..., n_y, n_x) shifted by ``rows`` and ``columns`` cells towards larger indices.

    The field is interpolated by a trigonometric polynomial, so that shifts by whole cells are a roll to rounding, and
    shifts add up. Of a wave of two cells, only the real part is kept.

    References
    ----------
    Unser, Thevenaz and Yaroslavsky (1995), Convolution-based interpolation for fast, high-quality rotation of images,
    IEEE Transactions on Image Processing 4, 1371-1381.

    Examples
    --------
    >>> fourier_shift(np.array([[1.0, 0.0, 0.0, 0.0]]), columns=2).round(12).tolist()
    [[0.0, 0.0, 1.0, 0.0]]
    """
    return _shift_axis(_shift_axis(field, float(rows), -2), float(columns), -1)


def _shift_axis(field: Array, cells: float, axis: int) -> Array:
    if cells == 0:
        return field
    xp, size = namespace(field), field.shape[axis]
    waves = np.arange(size // 2 + 1) / size
    phase = np.exp(-2j * np.pi * waves * cells)
    if size % 2 == 0:
        phase[-1] = phase[-1].real
    phase = phase.reshape(-1, *(1,) * (-1 - axis))
    if xp is np:
        return np.fft.irfft(np.fft.rfft(field, axis=axis) * phase, n=size, axis=axis).astype(field.dtype)
    modes = xp.fft.rfft(field, dim=axis)
    return xp.fft.irfft(modes * xp.as_tensor(phase, dtype=modes.dtype, device=field.device), n=size, dim=axis)
