"""Filling of gaps in a coarse field from neighbours, so that stencils near a coast are complete.

Filling does not affect cell means: with cell conservation the mean of a cell depends only on its own value.
"""

from __future__ import annotations

import numpy as np

from downscale.fields.aggregate import Array, like, namespace


def fill_missing(coarse: Array, missing: Array, radius: tuple[int, int], closed: bool, default: float = 0.0) -> Array:
    """Return the field with missing cells replaced by a weighted mean of valid neighbours, dominated by the nearest.

    ``radius`` is the number of rows and columns searched on each side, ``default`` the value without valid neighbours.

    Examples
    --------
    >>> field = np.array([[1.0, np.nan, 3.0]])
    >>> fill_missing(field, np.isnan(field), (0, 1), closed=False).tolist()
    [[1.0, 2.0, 3.0]]
    """
    xp = namespace(coarse)
    zeros, ones = xp.zeros_like(coarse), xp.ones_like(coarse)
    value, weight = xp.where(missing, zeros, coarse), xp.where(missing, zeros, ones)
    for axis, reach, wraps in ((-2, radius[0], False), (-1, radius[1], closed)):
        value, weight = _smooth(value, axis, reach, wraps), _smooth(weight, axis, reach, wraps)
    has_valid = weight > 0
    return xp.where(missing, xp.where(has_valid, value / xp.where(has_valid, weight, ones), zeros + default), coarse)


def _smooth(field: Array, axis: int, radius: int, closed: bool) -> Array:
    """Return sums of neighbours with weights that fall by a factor of four per cell, added in a fixed order."""
    size = field.shape[axis]
    total = namespace(field).zeros_like(field)
    for offset in range(-radius, radius + 1):
        index = np.arange(size) + offset
        decay = np.where(closed | ((index >= 0) & (index < size)), 0.25 ** abs(offset), 0.0)
        index = index % size if closed else index.clip(0, size - 1)
        neighbours = field[..., index, :] if axis == -2 else field[..., index]
        weights = like(decay, field)
        total = total + neighbours * (weights[:, None] if axis == -2 else weights)
    return total
