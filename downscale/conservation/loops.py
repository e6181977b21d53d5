"""Compiled loops over neighbouring fine values."""

from __future__ import annotations

import numpy as np

from downscale.kernels.compiled import compiled


@compiled
def local_range(values, closed, inner, out):  # type: ignore[no-untyped-def]
    """Write the range over each value and its neighbours.

    Parameters
    ----------
    values : array, shape (n_y, n_x)
        NaN is left out.
    closed : bool
        Whether the last column neighbours the first.
    inner : bool
        Whether to leave out the largest and the smallest, too, if there are at least four values.
    out : array of the shape of ``values``
        Written; zero where a value is NaN.
    """
    n_y, n_x = values.shape
    for j in range(n_y):
        for i in range(n_x):
            out[j, i] = 0.0
            if np.isnan(values[j, i]):
                continue
            least, second_least, greatest, second_greatest, count = np.inf, np.inf, -np.inf, -np.inf, 0
            for dj in range(-1, 2):
                for di in range(-1, 2):
                    row, column = j + dj, i + di
                    if closed:
                        column = column % n_x
                    if row < 0 or row >= n_y or column < 0 or column >= n_x:
                        continue
                    value = values[row, column]
                    if np.isnan(value):
                        continue
                    count += 1
                    if value < least:
                        least, second_least = value, least
                    elif value < second_least:
                        second_least = value
                    if value > greatest:
                        greatest, second_greatest = value, greatest
                    elif value > second_greatest:
                        second_greatest = value
            out[j, i] = second_greatest - second_least if inner and count >= 4 else greatest - least
