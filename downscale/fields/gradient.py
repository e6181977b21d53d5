"""Horizontal gradients per metre by Sobel's stencil.

A plane that is inclined in metres has its exact slope at every latitude, up to the edges of the domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.fields.aggregate import like, namespace
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid

Array = Any
Floats = NDArray[np.float64]

# Margin of the squared slopes over the larger of the bounds of both directions, for unequal cells.
UNEQUAL_MARGIN = 1.1


@dataclass(frozen=True, eq=False)
class Spacing:
    """Distances between the neighbours of each cell, in metres, and its area.

    Attributes
    ----------
    dy : array, shape (n_y,) or (n_y, n_x)
        Signed distance from the previous to the next row; one number per row if all columns are equal.
    dx : array, shape (n_y, n_x)
        Signed distance from the previous to the next column.
    area : array, shape (n_y, n_x)
        Cell areas in m2.
    periodic : bool
        Whether the last column neighbours the first.
    """

    dy: Floats
    dx: Floats
    area: Floats
    periodic: bool

    @classmethod
    def of(cls, grid: RectilinearGrid | CurvilinearGrid) -> Spacing:
        """Return the spacings of a grid.

        On the sphere they are arcs, on a projection metres of the plane. On a grid of quadrilaterals they follow its
        rows and columns, so that slopes are exact if these cross at right angles.
        """
        if isinstance(grid, CurvilinearGrid):
            return cls(*grid.centre_distances(), grid.cell_area, grid.closed)
        y = _extrapolate(grid.y_metres)
        x = grid.x_radians_or_metres
        if grid.x.periodic:
            circle = np.copysign(2 * np.pi, x[-1] - x[0]) if x.size > 1 else 2 * np.pi
            x = np.concatenate([[x[-1] - circle], x, [x[0] + circle]])
        else:
            x = _extrapolate(x)
        dx = np.multiply.outer(grid.x_scale, x[2:] - x[:-2])
        return cls(y[2:] - y[:-2], dx, grid.cell_area, grid.x.periodic)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.dx.shape[0], self.dx.shape[1]

    def window(self, rows: NDArray[np.int64], columns: NDArray[np.int64], closed: bool) -> Spacing:
        """Return the spacings of some rows and columns; ``closed`` if the columns still close the circle."""
        cells = np.ix_(rows, columns)
        dy = self.dy[rows] if self.dy.ndim == 1 else self.dy[cells]
        return Spacing(dy, self.dx[cells], self.area[cells], closed)

    def columns(self, columns: NDArray[np.int64]) -> Spacing:
        """Return the spacings of all rows of some columns, which no longer close the circle."""
        dy = self.dy if self.dy.ndim == 1 else self.dy[:, columns]
        return Spacing(dy, self.dx[:, columns], self.area[:, columns], periodic=False)

    @property
    def dy_cells(self) -> Floats:
        """``dy`` in a shape that broadcasts with fields, (n_y, 1) or (n_y, n_x)."""
        return self.dy[:, None] if self.dy.ndim == 1 else self.dy


def _extrapolate(x: Floats) -> Floats:
    """Return positions with one more beyond each end, extrapolated."""
    if x.size == 1:
        return np.array([x[0] - 1.0, x[0], x[0] + 1.0])
    return np.concatenate([[2 * x[0] - x[1]], x, [2 * x[-1] - x[-2]]])


def sobel(field: Array, spacing: Spacing) -> tuple[Array, Array]:
    """Return the gradient eastward (along x) and northward (along y), units of the field per metre.

    Parameters
    ----------
    field : array, shape (..., n_y, n_x)
        Values at cell centres. Beyond open edges the field is extrapolated linearly, so that planes keep their slope.
    spacing : Spacing
        Distances in metres.

    References
    ----------
    Sobel, I. and Feldman, G. (1968), A 3x3 isotropic gradient operator for image processing, Stanford Artificial
    Intelligence Project.
    """
    dx, dy = like(spacing.dx, field), like(spacing.dy_cells, field)
    # Row distances differ: each difference is divided by its own spacing before the smoothing across rows.
    along_x = _difference(_pad_ends(field, -1, spacing.periodic), -1) / dx
    along_y = _difference(_pad_ends(field, -2, False), -2) / dy
    return _smooth(along_x, -2, False), _smooth(along_y, -1, spacing.periodic)


def slope(field: Array, spacing: Spacing) -> Array:
    """Return the magnitude of the gradient, units of the field per metre, shape (..., n_y, n_x)."""
    east, north = sobel(field, spacing)
    return (east**2 + north**2) ** 0.5


def gradient_bound(spacing: Spacing) -> Floats:
    """Return ``d`` with ``sum(area |grad f|**2) <= sum(d f**2)`` for every field f, shape (n_y, n_x).

    Either direction alone is bounded by the absolute sums of its stencils (Cauchy and Schwarz). For equal cells,
    Sobel's smoothing keeps the sum of both below the larger bound; the margin is for unequal cells.
    """
    dy = np.broadcast_to(spacing.dy_cells, spacing.shape)
    east = _stencil_bound(spacing.dx, spacing.area, -1, (spacing.periodic, False))
    north = _stencil_bound(dy, spacing.area, -2, (False, spacing.periodic))
    return UNEQUAL_MARGIN * np.maximum(east, north)


def _stencil_bound(distance: Floats, area: Floats, axis: int, periodic: tuple[bool, bool]) -> Floats:
    """Return the bound of one direction; ``periodic`` along the difference and across it."""
    along, across = periodic
    cross_axis, size = -3 - axis, distance.shape[axis]
    # Both neighbours count once; at an open end the linear extrapolation doubles the difference.
    counts = np.full(size, 2.0) if along else np.full(size, 2.0) * (1 + np.isin(np.arange(size), (0, size - 1)))
    sums = np.expand_dims(counts, cross_axis) / np.abs(distance)
    weights = _smooth(area * _smooth(sums, cross_axis, across), cross_axis, across) / np.abs(distance)
    terms = np.moveaxis(weights, axis, 0)
    if along:
        bound = np.roll(terms, 1, axis=0) + np.roll(terms, -1, axis=0)
    else:
        bound = np.zeros_like(terms)
        bound[2:] += terms[1:-1]
        bound[:-2] += terms[1:-1]
        bound[:2] += 2 * terms[:1]
        bound[-2:] += 2 * terms[-1:]
    return np.moveaxis(bound, 0, axis) * (along or size > 1)


def _pad_ends(field: Array, axis: int, periodic: bool) -> Array:
    """Return the field with one more row or column at both ends: the opposite end on a circle, else extrapolated."""
    first, last = _take(field, axis, 0), _take(field, axis, -1)
    if periodic:
        return _join([last, field, first], axis)
    if field.shape[axis] == 1:
        return _join([first, field, last], axis)
    return _join([2 * first - _take(field, axis, 1), field, 2 * last - _take(field, axis, -2)], axis)


def _smooth(field: Array, axis: int, periodic: bool) -> Array:
    """Return the average with the neighbours by 1, 2, 1; beyond an open end the outer value is repeated."""
    first, last = _take(field, axis, 0), _take(field, axis, -1)
    wide = _join([last, field, first] if periodic else [first, field, last], axis)
    if axis == -1:
        return 0.25 * (wide[..., :-2] + 2 * wide[..., 1:-1] + wide[..., 2:])
    return 0.25 * (wide[..., :-2, :] + 2 * wide[..., 1:-1, :] + wide[..., 2:, :])


def _difference(wide: Array, axis: int) -> Array:
    return wide[..., 2:] - wide[..., :-2] if axis == -1 else wide[..., 2:, :] - wide[..., :-2, :]


def _take(field: Array, axis: int, index: int) -> Array:
    section = slice(index, index + 1 if index != -1 else None)
    return field[..., section] if axis == -1 else field[..., section, :]


def _join(parts: list[Array], axis: int) -> Array:
    xp = namespace(parts[0])
    return (xp.concatenate if xp is np else xp.cat)(parts, axis)
