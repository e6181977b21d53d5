"""Grids as products of two cell axes: lat-lon on the sphere, metres on a plane or of a map projection.

The true area of projected cells is the integral of a density, square metres of the earth per square metre of the plane.
It is a Chebyshev series, integrated exactly over each cell. It comes from the projection itself or, if a pole is in the
domain, from the derivatives of the function from the plane to points in space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev, legendre
from numpy.typing import NDArray

from downscale.errors import GridError
from downscale.grid.axis import CellAxis, axis_from_bounds, axis_from_centres, extend_to_poles
from downscale.grid.sphere import EARTH_RADIUS

Floats = NDArray[np.float64]
# From metres of the plane (x, y), arrays of one shape, to points in space in metres, shape (..., 3).
Embedding = Callable[[Floats, Floats], Floats]
# From metres of the plane (x, y) to the density of area there, NaN where it is unknown.
Density = Callable[[Floats, Floats], Floats]

DEGREES = (4, 8, 12, 18, 24, 34, 48)
# Relative error of the density: the target, and the limit for projections computed with few digits.
ACCURACY, LEAST_ACCURACY = 1e-10, 1e-8
# Closer to one than this, areas are those of the plane: the projection is equal-area.
EQUAL_AREA = 1e-8
# Maximum difference in degrees of the rows or columns of two-dimensional positions that repeat one axis.
SAME_DEGREES = 1e-6


@dataclass(frozen=True, eq=False)
class RectilinearGrid:
    """A grid of cells that is the product of a y axis (rows) and an x axis (columns).

    Parameters
    ----------
    y, x : CellAxis
        Latitude and longitude (also of a rotated pole), or two projected axes in metres.

    Notes
    -----
    Cell areas are exact on the sphere, R^2 (lon2 - lon1) (sin(lat2) - sin(lat1)), and products of one weight per row
    and one per column. Refinement preserves them: the areas of the subcells add up to the area of the whole.
    """

    y: CellAxis
    x: CellAxis

    def __post_init__(self) -> None:
        if (self.y.kind == "latitude") != (self.x.kind == "longitude"):
            raise GridError(
                f"expected latitude with longitude, or two axes in metres, received {self.y.kind} with {self.x.kind}"
            )

    def __getstate__(self) -> dict[str, CellAxis]:
        # Values computed on demand are not sent to workers: the areas of a fine grid outweigh everything else.
        return {"y": self.y, "x": self.x}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.y.size, self.x.size

    @property
    def spherical(self) -> bool:
        """Whether the axes are latitude and longitude."""
        return self.y.kind == "latitude"

    @property
    def separable(self) -> bool:
        """Whether areas are products of one weight per row and one per column."""
        return True

    @cached_property
    def cell_area(self) -> NDArray[np.float64]:
        """Cell areas in m2, shape (n_y, n_x)."""
        return self.areas(slice(None), slice(None))

    def areas(self, rows: Any, columns: Any) -> NDArray[np.float64]:
        """Return the areas in m2 of the cells of some rows and columns, without computing all others."""
        y, x = self.y.measure[rows], self.x.measure[columns]
        return EARTH_RADIUS**2 * np.multiply.outer(y, x) if self.spherical else np.multiply.outer(y, x)

    @cached_property
    def y_metres(self) -> NDArray[np.float64]:
        """Signed positions of row centres in metres, shape (n_y,)."""
        return EARTH_RADIUS * np.deg2rad(self.y.centres) if self.spherical else self.y.centres

    @cached_property
    def x_radians_or_metres(self) -> NDArray[np.float64]:
        """Column centres in radians of longitude (multiply by ``x_scale``) or in metres, shape (n_x,)."""
        return np.deg2rad(self.x.centres) if self.spherical else self.x.centres

    @cached_property
    def x_scale(self) -> NDArray[np.float64]:
        """Metres per unit of ``x_radians_or_metres`` at each row, shape (n_y,)."""
        return EARTH_RADIUS * np.cos(np.deg2rad(self.y.centres)) if self.spherical else np.ones(self.y.size)

    def refine(self, factor_y: int, factor_x: int) -> RectilinearGrid:
        """Return the grid with every cell cut into ``factor_y`` by ``factor_x`` parts."""
        return self.with_axes(self.y.refine(factor_y), self.x.refine(factor_x))

    def coarsen(self, factor_y: int, factor_x: int) -> RectilinearGrid:
        """Return the grid with blocks of ``factor_y`` by ``factor_x`` cells joined."""
        return self.with_axes(self.y.coarsen(factor_y), self.x.coarsen(factor_x))

    def with_axes(self, y: CellAxis, x: CellAxis) -> RectilinearGrid:
        """Return a grid of the same kind on other axes."""
        return RectilinearGrid(y, x)

    def adopt(self, fine: RectilinearGrid) -> RectilinearGrid:
        """Return ``fine``: cells of product grids are defined by their axes."""
        return fine

    def describe(self, row: int, column: int) -> str:
        """Return the position of a cell as text."""
        if self.y.kind in ("time", "vertical"):
            # The number of a step is more readable than seconds since the first date.
            step = f"step {row} of time" if self.y.kind == "time" else f"layer {self.y.centres[row]:g}"
            return f"{step}, column {column}"
        names = ("latitude", "longitude") if self.spherical else ("y", "x")
        return f"{names[0]} {self.y.centres[row]:g}, {names[1]} {self.x.centres[column]:g}"

    def nest_factors(self, fine: object) -> tuple[int, int] | None:
        """Return the integers by which ``fine`` refines this grid in the same order, or None."""
        if not isinstance(fine, RectilinearGrid):
            return None
        factors = self.y.nest_factor(fine.y), self.x.nest_factor(fine.x)
        return None if None in factors else factors  # type: ignore[return-value]


def find_product_grid(
    lat: NDArray[np.float64],
    lon: NDArray[np.float64],
    corners: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> RectilinearGrid | None:
    """Return the product grid that two-dimensional positions repeat, or None if they are not one.

    ``corners`` are latitudes and longitudes in degrees, each of shape (n_y, n_x, 4).

    Examples
    --------
    >>> lon, lat = np.meshgrid([5.0, 15.0], [-10.0, 10.0])
    >>> find_product_grid(lat, lon).y.edges
    array([-20.,   0.,  20.])
    """
    is_valid = np.isfinite(lat).all() and np.isfinite(lon).all() and min(lat.shape) > 1
    if not is_valid or np.ptp(lat, axis=1).max() > SAME_DEGREES or np.ptp(lon, axis=0).max() > SAME_DEGREES:
        return None
    if corners is None:
        y, x = axis_from_centres(lat[:, 0], "latitude"), axis_from_centres(lon[0], "longitude")
        return RectilinearGrid(extend_to_poles(y) if x.periodic else y, x)
    pairs = []
    for values, axis in zip(corners, (1, 0), strict=True):
        limits = np.stack([values.min(axis=2), values.max(axis=2)], axis=2)
        if not np.isfinite(limits).all() or np.ptp(limits, axis=axis).max() > SAME_DEGREES:
            return None
        pairs.append(limits.take(0, axis=axis))
    return RectilinearGrid(
        axis_from_bounds(pairs[0], "latitude", lat[:, 0]), axis_from_bounds(pairs[1], "longitude", lon[0])
    )


@dataclass(frozen=True, eq=False)
class AreaDensity:
    """True area per unit of area of the plane, as a Chebyshev series in y (first axis of ``coefficients``) and x.

    The polynomials run from -1 to 1 over ``y_range`` and ``x_range``, in metres.
    """

    coefficients: Floats
    y_range: tuple[float, float]
    x_range: tuple[float, float]

    def areas(self, y: CellAxis, x: CellAxis) -> Floats:
        """Return the integrals over the cells in m2, shape (n_y, n_x).

        Invariant: the parts of a cell add up to the cell.
        """
        rows, columns = (
            _polynomial_means(y, self.y_range, len(self.coefficients)),
            _polynomial_means(x, self.x_range, len(self.coefficients)),
        )
        return np.multiply.outer(y.measure, x.measure) * (rows @ self.coefficients @ columns.T)

    @classmethod
    def fit(cls, embed: Embedding, y: CellAxis, x: CellAxis, density: Density | None = None) -> AreaDensity | None:
        """Return the series of the density over a domain; None if the projection does not cover all of it smoothly.

        Examples
        --------
        >>> flat = lambda x, y: np.stack([2 * x, y, 0 * x], axis=-1)
        >>> axis = CellAxis(np.array([0.0, 1000.0, 2000.0]), "projected")
        >>> AreaDensity.fit(flat, axis, axis).areas(axis, axis).tolist()
        [[2000000.0, 2000000.0], [2000000.0, 2000000.0]]
        """
        ranges = (float(y.edges.min()), float(y.edges.max())), (float(x.edges.min()), float(x.edges.max()))
        best, least_change = None, LEAST_ACCURACY
        for source in (density, None):
            series, change = _fit_series(embed, source, *ranges)
            if change < least_change:
                best, least_change = series, change
            if density is None or least_change < 10 * ACCURACY:
                break
        return None if best is None else cls(best, *ranges)


def _fit_series(
    embed: Embedding, density: Density | None, y_range: tuple[float, float], x_range: tuple[float, float]
) -> tuple[Floats | None, float]:
    """Return the series with the least change on doubling its degree, and that change."""
    # Positions that are not nodes of any degree.
    check = np.sin(np.linspace(-1.5, 1.5, 11))
    previous, best, least_change = None, None, np.inf
    for degree in DEGREES:
        series = _expand_density(embed, density, y_range, x_range, degree)
        if series is None:
            break
        current = chebyshev.chebgrid2d(check, check, series)
        change = np.inf if previous is None else float(np.abs(current / previous - 1).max())
        if change < least_change:
            best, least_change = series, change
        if change < ACCURACY:
            break
        previous = current
    return best, least_change


def _expand_density(
    embed: Embedding, density: Density | None, y_range: tuple[float, float], x_range: tuple[float, float], degree: int
) -> Floats | None:
    """Return the coefficients of the density of area, shape (degree + 1, degree + 1), or None off the earth."""
    nodes = chebyshev.chebpts1(degree + 1)
    half = np.diff(y_range)[0] / 2, np.diff(x_range)[0] / 2
    y, x = np.meshgrid(np.mean(y_range) + half[0] * nodes, np.mean(x_range) + half[1] * nodes, indexing="ij")
    # Values at the roots give coefficients by the discrete orthogonality of the polynomials.
    basis = chebyshev.chebvander(nodes, degree)
    inverse = basis.T * (np.where(np.arange(degree + 1) == 0, 1.0, 2.0) / (degree + 1))[:, None]
    values = _density_from_points(embed(x, y), basis, inverse, half) if density is None else density(x, y)
    return inverse @ values @ inverse.T if np.isfinite(values).all() else None


def _density_from_points(
    points: Floats, basis: NDArray[Any], inverse: NDArray[Any], half: tuple[float, float]
) -> Floats:
    """Return the density at the nodes from points in space: the magnitude of the product of their derivatives."""
    if not np.isfinite(points).all():
        return np.full(points.shape[:-1], np.nan)
    space = _multiply_both(inverse, points - points.mean(axis=(0, 1)), inverse)
    along_y = _multiply_both(basis[:, :-1], chebyshev.chebder(space, axis=0), basis)
    along_x = _multiply_both(basis, chebyshev.chebder(space, axis=1), basis[:, :-1])
    length: Floats = np.linalg.norm(np.cross(along_x / half[1], along_y / half[0]), axis=-1)
    return length


def _multiply_both(rows: NDArray[Any], values: NDArray[Any], columns: NDArray[Any]) -> Floats:
    """Return the product with a matrix along each of the first two axes."""
    return np.einsum("ij,jkc,lk->ilc", rows, values, columns, optimize=True)


def _polynomial_means(axis: CellAxis, limits: tuple[float, float], count: int) -> Floats:
    """Return the means of Chebyshev polynomials over cells, shape (n, count), by Gauss points, exact to rounding."""
    points, weights = legendre.leggauss(count // 2 + 1)
    positions = axis.centres[:, None] + 0.5 * np.diff(axis.edges)[:, None] * points
    reference_positions = (positions - np.mean(limits)) / (np.diff(limits)[0] / 2)
    return np.einsum("p,npk->nk", 0.5 * weights, chebyshev.chebvander(reference_positions, count - 1))


@dataclass(frozen=True, eq=False)
class ProjectedGrid(RectilinearGrid):
    """A product grid in metres of a projection whose areas are those on the earth.

    Parameters
    ----------
    y, x : CellAxis
        Projected axes in metres.
    density : AreaDensity
        Area on the earth per unit of area of the plane.

    Notes
    -----
    Invariant: the areas of the parts add up to the area of the whole. Distances are those of the plane.
    """

    density: AreaDensity

    def __getstate__(self) -> dict[str, Any]:
        return {"y": self.y, "x": self.x, "density": self.density}

    @property
    def separable(self) -> bool:
        """False: areas are not products of rows and columns."""
        return False

    @cached_property
    def cell_area(self) -> Floats:
        """Cell areas on the earth in m2, shape (n_y, n_x)."""
        return self.density.areas(self.y, self.x)

    def areas(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
        """Return the areas of the cells of some rows and columns."""
        return self.cell_area[np.ix_(rows, columns)]

    def with_axes(self, y: CellAxis, x: CellAxis) -> ProjectedGrid:
        """Return the grid of the same projection on other axes of its domain."""
        return ProjectedGrid(y, x, self.density)


def projected_grid(
    y: CellAxis, x: CellAxis, embed: Embedding, density: Density | None = None
) -> RectilinearGrid | None:
    """Return the grid with its true areas: a plain one if the projection is equal-area, None if it fails."""
    area_density = AreaDensity.fit(embed, y, x, density)
    if area_density is None:
        return None
    nodes = np.linspace(-1, 1, 21)
    deviation = np.abs(chebyshev.chebgrid2d(nodes, nodes, area_density.coefficients) - 1).max()
    return RectilinearGrid(y, x) if deviation < EQUAL_AREA else ProjectedGrid(y, x, area_density)
