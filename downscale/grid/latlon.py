"""Grids as products of two cell axes: lat-lon on the sphere or metres on a plane."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from downscale.errors import GridError
from downscale.grid.axis import CellAxis, axis_from_bounds, axis_from_centres, draw_to_poles
from downscale.grid.sphere import EARTH_RADIUS, cell_area, metres_north, metres_per_radian_east

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
    Cell areas are products of one weight per row and one per column. Refinement preserves them: the areas of the parts
    add up to the area of the whole.
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
        if self.spherical:
            return cell_area(self.y, self.x)
        return np.multiply.outer(self.y.measure, self.x.measure)

    def areas(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the areas of the cells of some rows and columns, without computing all others."""
        y, x = self.y.measure[rows], self.x.measure[columns]
        return EARTH_RADIUS**2 * np.multiply.outer(y, x) if self.spherical else np.multiply.outer(y, x)

    @cached_property
    def y_metres(self) -> NDArray[np.float64]:
        """Signed positions of row centres in metres, shape (n_y,)."""
        return metres_north(self.y) if self.spherical else self.y.centres

    @cached_property
    def x_radians_or_metres(self) -> NDArray[np.float64]:
        """Column centres in radians of longitude (multiply by ``x_scale``) or in metres, shape (n_x,)."""
        return np.deg2rad(self.x.centres) if self.spherical else self.x.centres

    @cached_property
    def x_scale(self) -> NDArray[np.float64]:
        """Metres per unit of ``x_radians_or_metres`` at each row, shape (n_y,)."""
        return metres_per_radian_east(self.y) if self.spherical else np.ones(self.y.size)

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


def product_of(
    lat: NDArray[np.float64],
    lon: NDArray[np.float64],
    corners: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> RectilinearGrid | None:
    """Return the product grid that two-dimensional positions repeat, or None if they are not one.

    Parameters
    ----------
    lat, lon : arrays, shape (n_y, n_x)
        Centres in degrees: one latitude per row and one longitude per column.
    corners : (array, array), shapes (n_y, n_x, 4), optional
        Latitudes and longitudes of the corners.

    Examples
    --------
    >>> lon, lat = np.meshgrid([5.0, 15.0], [-10.0, 10.0])
    >>> product_of(lat, lon).y.edges
    array([-20.,   0.,  20.])
    """
    flat = np.isfinite(lat).all() and np.isfinite(lon).all() and min(lat.shape) > 1
    if not flat or np.ptp(lat, axis=1).max() > SAME_DEGREES or np.ptp(lon, axis=0).max() > SAME_DEGREES:
        return None
    if corners is None:
        y, x = axis_from_centres(lat[:, 0], "latitude"), axis_from_centres(lon[0], "longitude")
        return RectilinearGrid(draw_to_poles(y) if x.periodic else y, x)
    pairs = []
    for values, axis in zip(corners, (1, 0), strict=True):
        ends = np.stack([values.min(axis=2), values.max(axis=2)], axis=2)
        if not np.isfinite(ends).all() or np.ptp(ends, axis=axis).max() > SAME_DEGREES:
            return None
        pairs.append(ends.take(0, axis=axis))
    return RectilinearGrid(
        axis_from_bounds(pairs[0], "latitude", lat[:, 0]), axis_from_bounds(pairs[1], "longitude", lon[0])
    )
