"""Exact shifts of periodic fields by fractions of a cell, with their Fourier series."""

from __future__ import annotations

from typing import Any

import numpy as np

from downscale.fields.aggregate import namespace

Array = Any


def fourier_shift(field: Array, rows: float = 0.0, columns: float = 0.0) -> Array:
    """Shift a periodic field by fractions of a cell towards larger indices; the shape (..., n_y, n_x) is unchanged.

    The field is interpolated by a trigonometric polynomial, so that shifts by whole cells are a roll to rounding, and
    shifts add up. Of a wave of two cells, only the real part is kept.

    Parameters
    ----------
    field : array, shape (..., n_y, n_x)
        Values on a torus, at least two cells per axis.
    rows, columns : float
        Shift in cells.

    References
    ----------
    Unser, Thevenaz and Yaroslavsky (1995), Convolution-based interpolation for fast, high-quality rotation of images,
    IEEE Transactions on Image Processing 4, 1371-1381.

    Examples
    --------
    >>> fourier_shift(np.array([[1.0, 0.0, 0.0, 0.0]]), columns=2).round(12).tolist()
    [[0.0, 0.0, 1.0, 0.0]]
    """
    return _along(_along(field, float(rows), -2), float(columns), -1)


def _along(field: Array, cells: float, axis: int) -> Array:
    if cells == 0:
        return field
    xp, size = namespace(field), field.shape[axis]
    waves = np.arange(size // 2 + 1) / size
    turn = np.exp(-2j * np.pi * waves * cells)
    if size % 2 == 0:
        turn[-1] = turn[-1].real
    turn = turn.reshape(-1, *(1,) * (-1 - axis))
    if xp is np:
        return np.fft.irfft(np.fft.rfft(field, axis=axis) * turn, n=size, axis=axis).astype(field.dtype)
    modes = xp.fft.rfft(field, dim=axis)
    return xp.fft.irfft(modes * xp.as_tensor(turn, dtype=modes.dtype, device=field.device), n=size, dim=axis)
