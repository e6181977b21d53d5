"""Horizontal gradients in physical metres by Sobel's stencil (numpy or torch; knows spacings, no file).

A plane that is inclined in metres has its exact slope at every latitude, up to the edges of the domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.fields.aggregate import like, namespace
from downscale.grid.latlon import RectilinearGrid

Array = Any
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spacing:
    """Distances between the neighbours of each cell, in metres.

    Attributes
    ----------
    dy : array, shape (n_y,)
        Signed distance from the row before to the row after.
    dx : array, shape (n_y, n_x)
        Signed distance from the column before to the column after.
    periodic : bool
        Whether the last column neighbours the first.
    """

    dy: Floats
    dx: Floats
    periodic: bool

    @classmethod
    def of(cls, grid: RectilinearGrid) -> Spacing:
        """Measure the spacings of a grid."""
        y = _extended(grid.y_metres)
        x = grid.x_radians_or_metres
        if grid.x.periodic:
            turn = np.copysign(2 * np.pi, x[-1] - x[0]) if x.size > 1 else 2 * np.pi
            x = np.concatenate([[x[-1] - turn], x, [x[0] + turn]])
        else:
            x = _extended(x)
        return cls(y[2:] - y[:-2], np.multiply.outer(grid.x_scale, x[2:] - x[:-2]), grid.x.periodic)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.dx.shape[0], self.dx.shape[1]

    def window(self, rows: NDArray[np.int64], columns: NDArray[np.int64], closed: bool) -> Spacing:
        """Return the spacings of some rows and columns; ``closed`` where the columns still close the circle."""
        return Spacing(self.dy[rows], self.dx[np.ix_(rows, columns)], closed)


def _extended(x: Floats) -> Floats:
    """Continue positions by one beyond both ends."""
    if x.size == 1:
        return np.array([x[0] - 1.0, x[0], x[0] + 1.0])
    return np.concatenate([[2 * x[0] - x[1]], x, [2 * x[-1] - x[-2]]])


def sobel(field: Array, spacing: Spacing) -> tuple[Array, Array]:
    """Return the gradient eastward (along x) and northward (along y), units of the field a metre.

    Parameters
    ----------
    field : array, shape (..., n_y, n_x)
        Values at cell centres. Beyond open edges it is continued linearly, so that planes keep their slope.
    spacing : Spacing
        Distances in metres.

    References
    ----------
    Sobel, I. and Feldman, G. (1968), A 3x3 isotropic gradient operator for image processing, Stanford Artificial
    Intelligence Project.
    """
    dx, dy = like(spacing.dx, field), like(spacing.dy, field)[:, None]
    # Rows differ in metres: each is divided by its own spacing before the smoothing across rows.
    along_x = _difference(_continued(field, -1, spacing.periodic), -1) / dx
    along_y = _difference(_continued(field, -2, False), -2) / dy
    return _smoothed(along_x, -2, False), _smoothed(along_y, -1, spacing.periodic)


def slope(field: Array, spacing: Spacing) -> Array:
    """Return the length of the gradient, units of the field a metre, shape (..., n_y, n_x)."""
    east, north = sobel(field, spacing)
    return (east**2 + north**2) ** 0.5


def _continued(field: Array, axis: int, periodic: bool) -> Array:
    """Add one row or column at both ends: the far end on a circle, else a linear continuation."""
    first, last = _take(field, axis, 0), _take(field, axis, -1)
    if periodic:
        return _join([last, field, first], axis)
    if field.shape[axis] == 1:
        return _join([first, field, last], axis)
    return _join([2 * first - _take(field, axis, 1), field, 2 * last - _take(field, axis, -2)], axis)


def _smoothed(field: Array, axis: int, periodic: bool) -> Array:
    """Average with the neighbours by 1, 2, 1; beyond an open end the outer value stands in."""
    first, last = _take(field, axis, 0), _take(field, axis, -1)
    wide = _join([last, field, first] if periodic else [first, field, last], axis)
    if axis == -1:
        return 0.25 * (wide[..., :-2] + 2 * wide[..., 1:-1] + wide[..., 2:])
    return 0.25 * (wide[..., :-2, :] + 2 * wide[..., 1:-1, :] + wide[..., 2:, :])


def _difference(wide: Array, axis: int) -> Array:
    return wide[..., 2:] - wide[..., :-2] if axis == -1 else wide[..., 2:, :] - wide[..., :-2, :]


def _take(field: Array, axis: int, index: int) -> Array:
    part = slice(index, index + 1 if index != -1 else None)
    return field[..., part] if axis == -1 else field[..., part, :]


def _join(parts: list[Array], axis: int) -> Array:
    xp = namespace(parts[0])
    return (xp.concatenate if xp is np else xp.cat)(parts, axis)
