"""Grids of quadrilateral cells on the sphere, given by two-dimensional positions.

Cells are divided in index space: the parts of a side are on its great circle, so that their areas add up to that of the
cell. Neighbours along the index axes are neighbours of a field, whatever their directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from downscale.errors import GridError, ShapeError
from downscale.grid.axis import EDGE_TOLERANCE, STORAGE_LIMIT, STORAGE_ROUNDING, CellAxis, check_factor
from downscale.grid.sphere import (
    EARTH_RADIUS,
    arc,
    degrees_of,
    inner_points,
    normalise,
    part_corners,
    polygon_area,
    unit_vectors,
)

Floats = NDArray[np.float64]

# Maximum number of fine cells whose corners are in memory at once.
BLOCK_CELLS = 500_000
# A slope between centres nearer than this, in metres, is meaningless.
SHORTEST_STEP = 1.0


@dataclass(frozen=True, eq=False)
class CurvilinearGrid:
    """A grid of quadrilaterals, each divided into the same number of parts.

    Parameters
    ----------
    base_lon, base_lat : arrays, shape (n_y, n_x)
        Centres of the undivided cells, in degrees.
    base_corners : array, shape (n_y, n_x, 4, 2)
        Longitudes and latitudes of the corners: first row left and right, then second row right and left.
    cut : (int, int)
        Parts of each cell along rows and along columns.
    closed : bool
        Whether the last column neighbours the first.
    base_area : array, shape (n_y, n_x), optional
        Areas in steradians of cells that were joined from smaller ones, whose sides are not single great circles.
    derived : bool
        Whether the corners are midway between centres because no bounds were given.

    Notes
    -----
    Invariant: the areas of the parts add up to the area of the whole, in every cell that does not fold over itself.
    """

    base_lon: Floats
    base_lat: Floats
    base_corners: Floats
    cut: tuple[int, int] = (1, 1)
    closed: bool = False
    base_area: Floats | None = None
    derived: bool = False

    def __getstate__(self) -> dict[str, Any]:
        # Values computed on demand are not sent to workers, as in a rectilinear grid.
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def y(self) -> CellAxis:
        """Rows, in units of undivided cells."""
        return CellAxis(np.arange(self.base_lon.shape[0] + 1.0), "index").refine(self.cut[0])

    @cached_property
    def x(self) -> CellAxis:
        """Columns, in units of undivided cells; closed if the last neighbours the first."""
        return CellAxis(np.arange(self.base_lon.shape[1] + 1.0), "index", self.closed).refine(self.cut[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.base_lon.shape[0] * self.cut[0], self.base_lon.shape[1] * self.cut[1]

    @property
    def spherical(self) -> bool:
        """False: the axes count cells; they are not latitude and longitude."""
        return False

    @property
    def separable(self) -> bool:
        """False: areas are not products of rows and columns."""
        return False

    @cached_property
    def cell_area(self) -> Floats:
        """Cell areas in m2, shape (n_y, n_x)."""
        return EARTH_RADIUS**2 * np.concatenate([self._areas(rows) for rows in self._blocks()])

    def areas(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
        """Return the areas of the cells of some rows and columns."""
        return self.cell_area[np.ix_(rows, columns)]

    @cached_property
    def centres(self) -> Floats:
        """Unit vectors of the cell centres, shape (n_y, n_x, 3)."""
        if self.cut == (1, 1):
            return unit_vectors(self.base_lon, self.base_lat)
        along, across = ((np.arange(n) + 0.5) / n for n in reversed(self.cut))
        return np.concatenate([_mosaic(inner_points(self._vectors(rows), along, across)) for rows in self._blocks()])

    @cached_property
    def _positions(self) -> tuple[Floats, Floats]:
        if self.cut == (1, 1):
            return self.base_lon, self.base_lat
        return degrees_of(self.centres, np.repeat(np.repeat(self.base_lon, self.cut[0], 0), self.cut[1], 1))

    @property
    def lon(self) -> Floats:
        """Longitudes of the centres in degrees, near those of the undivided cells, shape (n_y, n_x)."""
        return self._positions[0]

    @property
    def lat(self) -> Floats:
        """Latitudes of the centres in degrees, shape (n_y, n_x)."""
        return self._positions[1]

    @property
    def corners(self) -> tuple[Floats, Floats]:
        """Longitudes and latitudes of the corners, counter-clockwise seen from above, shapes (n_y, n_x, 4)."""
        rings = self.base_corners if self.cut == (1, 1) else None
        if rings is None:
            vectors = np.concatenate([self._rings(rows) for rows in self._blocks()])
            lon, lat = degrees_of(vectors, self.lon[..., None])
        else:
            lon, lat = rings[..., 0], rings[..., 1]
            lon = lon + 360.0 * np.round((self.lon[..., None] - lon) / 360.0)
        return (lon, lat) if self.handedness > 0 else (lon[..., ::-1], lat[..., ::-1])

    @cached_property
    def handedness(self) -> int:
        """1 if rows, columns and the upward direction are right-handed (x east, y north), else -1."""
        middle = self.base_corners[self.base_lon.shape[0] // 2]
        return -1 if polygon_area(unit_vectors(middle[..., 0], middle[..., 1])).sum() < 0 else 1

    def refine(self, factor_y: int, factor_x: int) -> CurvilinearGrid:
        """Return the grid with every cell cut into ``factor_y`` by ``factor_x`` parts that are equal in index space."""
        cut = self.cut[0] * check_factor(factor_y), self.cut[1] * check_factor(factor_x)
        return self._with_cut(cut)

    def coarsen(self, factor_y: int, factor_x: int) -> CurvilinearGrid:
        """Return the grid with blocks of ``factor_y`` by ``factor_x`` cells joined; their areas are added."""
        factors = check_factor(factor_y), check_factor(factor_x)
        remainders = [cut % factor for cut, factor in zip(self.cut, factors, strict=True)]
        if not any(remainders):
            return self._with_cut((self.cut[0] // factors[0], self.cut[1] // factors[1]))
        for size, factor in zip(self.shape, factors, strict=True):
            if size % factor:
                raise ShapeError(
                    f"expected an index axis of a multiple of {factor} cells, received {size}; crop it first"
                )
        return self._join_cells(*factors)

    def nest_factors(self, fine: Any) -> tuple[int, int] | None:
        """Return the integers by which ``fine`` divides the cells of this grid in the same order, or None."""
        if not isinstance(fine, CurvilinearGrid) or any(n % m for n, m in zip(fine.shape, self.shape, strict=True)):
            return None
        factors = fine.shape[0] // self.shape[0], fine.shape[1] // self.shape[1]
        if 0 in factors:
            return None
        if fine.base_corners is self.base_corners:
            return factors if all(f == c * n for f, c, n in zip(fine.cut, self.cut, factors, strict=True)) else None
        corners, fine_corners = self.all_corners(), fine.all_corners()
        fine_corners = _block_corners(fine_corners, *factors)
        size = arc(corners[..., 0, :], corners[..., 2, :])
        tolerance = np.maximum(EDGE_TOLERANCE * size, np.minimum(STORAGE_ROUNDING * 2 * np.pi, STORAGE_LIMIT * size))
        return factors if (arc(corners, fine_corners) <= tolerance[..., None] + 1e-12).all() else None

    def adopt(self, fine: CurvilinearGrid) -> CurvilinearGrid:
        """Return equal parts of this grid if ``fine``, given without bounds, has their centres; else ``fine``."""
        remainders = [n % m for n, m in zip(fine.shape, self.shape, strict=True)]
        if not fine.derived or any(remainders):
            return fine
        parts = self.refine(fine.shape[0] // self.shape[0], fine.shape[1] // self.shape[1])
        tolerance = np.maximum(1e-3 * np.sqrt(parts.cell_area) / EARTH_RADIUS, STORAGE_ROUNDING * np.pi)
        return parts if (arc(parts.centres, fine.centres) <= tolerance).all() else fine

    def with_axes(self, y: CellAxis, x: CellAxis) -> CurvilinearGrid:
        """Return this grid itself: its rows and columns cannot be reordered by their axes."""
        return self

    def describe(self, row: int, column: int) -> str:
        """Return the position of a cell as text."""
        return f"row {row}, column {column} (latitude {self.lat[row, column]:g}, longitude {self.lon[row, column]:g})"

    def centre_distances(self) -> tuple[Floats, Floats]:
        """Return metres from the previous to the next row and column, shapes (n_y, n_x).

        Distances are measured on the sphere from centre to centre; beyond open ends the last one is repeated.
        """
        p = self.centres
        down = arc(p[:-1], p[1:])
        right = arc(p[:, :-1], p[:, 1:])
        seam = arc(p[:, -1:], p[:, :1])
        ends = (seam, seam) if self.closed else (right[:, :1], right[:, -1:])
        rows = np.concatenate([down[:1], down, down[-1:]]) * EARTH_RADIUS
        columns = np.concatenate([ends[0], right, ends[1]], axis=1) * EARTH_RADIUS
        distances = (rows[1:] + rows[:-1] if len(rows) else np.full(self.shape, 2.0),
                columns[:, 1:] + columns[:, :-1] if columns.size else np.full(self.shape, 2.0))  # fmt: skip
        return np.maximum(distances[0], SHORTEST_STEP), np.maximum(distances[1], SHORTEST_STEP)

    def all_corners(self) -> Floats:
        """Return unit vectors of the corners in index order, shape (n_y, n_x, 4, 3)."""
        return np.concatenate([self._rings(rows) for rows in self._blocks()])

    def _with_cut(self, cut: tuple[int, int]) -> CurvilinearGrid:
        return CurvilinearGrid(
            self.base_lon, self.base_lat, self.base_corners, cut, self.closed, self.base_area, self.derived
        )

    def _blocks(self) -> Iterator[slice]:
        """Yield rows of undivided cells, a few at a time."""
        n_y, n_x = self.base_lon.shape
        step = max(BLOCK_CELLS // (n_x * self.cut[0] * self.cut[1]), 1)
        return (slice(start, min(start + step, n_y)) for start in range(0, n_y, step))

    def _vectors(self, rows: slice) -> Floats:
        return unit_vectors(self.base_corners[rows, ..., 0], self.base_corners[rows, ..., 1])

    def _areas(self, rows: slice) -> Floats:
        """Return areas in steradians of the cells in some undivided rows."""
        parts = np.abs(polygon_area(part_corners(self._vectors(rows), self.cut[1], self.cut[0])))
        if self.base_area is not None:
            total = parts.sum(axis=(-2, -1))
            parts = parts * (self.base_area[rows] / np.where(total > 0, total, 1.0))[..., None, None]
        return _mosaic(parts)

    def _rings(self, rows: slice) -> Floats:
        return _mosaic(part_corners(self._vectors(rows), self.cut[1], self.cut[0]))

    def _join_cells(self, factor_y: int, factor_x: int) -> CurvilinearGrid:
        corners = _block_corners(self.all_corners(), factor_y, factor_x)
        area = self.cell_area / EARTH_RADIUS**2
        n_y, n_x = corners.shape[:2]
        total_area = area.reshape(n_y, factor_y, n_x, factor_x).sum(axis=(1, 3))
        centres = inner_points(corners, np.array([0.5]), np.array([0.5]))[..., 0, 0, :]
        lon, lat = degrees_of(centres, self.lon[::factor_y, ::factor_x])
        corner_degrees = np.stack(degrees_of(corners, lon[..., None]), axis=-1)
        return CurvilinearGrid(lon, lat, corner_degrees, (1, 1), self.closed, total_area, self.derived)


def _mosaic(parts: NDArray[Any]) -> NDArray[Any]:
    """Return parts (n_y, n_x, across, along, ...) arranged as (n_y * across, n_x * along, ...)."""
    n_y, n_x, across, along, *inner_shape = parts.shape
    return np.swapaxes(parts, 1, 2).reshape(n_y * across, n_x * along, *inner_shape)


def _block_corners(corners: Floats, factor_y: int, factor_x: int) -> Floats:
    """Return the corners of blocks of cells, shape (n_y, n_x, 4, 3)."""
    top, left = slice(None, None, factor_y), slice(None, None, factor_x)
    bottom, right = slice(factor_y - 1, None, factor_y), slice(factor_x - 1, None, factor_x)
    four = [corners[top, left, 0], corners[top, right, 1], corners[bottom, right, 2], corners[bottom, left, 3]]
    return np.stack(four, axis=2)


def curvilinear_grid(
    lon: ArrayLike, lat: ArrayLike, corner_lon: ArrayLike | None = None, corner_lat: ArrayLike | None = None
) -> CurvilinearGrid:
    """Return a grid from centres in degrees and, if available, CF bounds of four corners.

    Parameters
    ----------
    lon, lat : arrays, shape (n_y, n_x)
        Centres.
    corner_lon, corner_lat : arrays, shape (n_y, n_x, 4), optional
        Corners of each cell in order around it, from any corner and in either sense; by default midway between centres.

    Raises
    ------
    GridError
        If positions are missing or impossible, a grid without bounds has only one row or column, or bounds have another
        shape.

    Examples
    --------
    >>> lon, lat = np.meshgrid([5.0, 15.0, 25.0], [0.0, 10.0])
    >>> curvilinear_grid(lon, lat).shape
    (2, 3)
    """
    east, north = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    if east.ndim != 2 or east.shape != north.shape or not east.size:
        raise GridError(f"expected longitudes and latitudes of one shape (n_y, n_x), received {east.shape} and "
                        f"{north.shape}")  # fmt: skip
    _check_positions(east, north, "centres")
    if corner_lon is None or corner_lat is None:
        return _grid_from_centres(east, north)
    rings = np.stack([np.asarray(corner_lon, dtype=np.float64), np.asarray(corner_lat, dtype=np.float64)], axis=-1)
    if rings.shape != (*east.shape, 4, 2):
        raise GridError(f"expected bounds of shape {(*east.shape, 4)}, received {rings.shape[:-1]}; drop the bounds")
    _check_positions(rings[..., 0], rings[..., 1], "bounds")
    vectors = unit_vectors(rings[..., 0], rings[..., 1])
    order = _index_order(vectors)
    rings, vectors = rings[:, :, order], vectors[:, :, order]
    return CurvilinearGrid(east, north, np.ascontiguousarray(rings), (1, 1), _is_closed(vectors))


def count_repeated_columns(grid: CurvilinearGrid) -> int:
    """Return how many of the last columns repeat the first ones, as in ocean grids with a halo."""
    first = unit_vectors(grid.base_lon[:, :4], grid.base_lat[:, :4])
    n_x = grid.base_lon.shape[1]
    for count in range(min(3, n_x // 2), 0, -1):
        last = unit_vectors(grid.base_lon[:, n_x - count :], grid.base_lat[:, n_x - count :])
        if (arc(first[:, :count], last) < STORAGE_ROUNDING * 2 * np.pi).all():
            return count
    return 0


def _check_positions(lon: Floats, lat: Floats, role: str) -> None:
    missing = ~(np.isfinite(lon) & np.isfinite(lat))
    if missing.any():
        raise GridError(
            f"expected finite two-dimensional longitudes and latitudes, received {int(missing.sum())} missing {role}; "
            "take them from the grid file of the model, or crop the grid to where they are known"
        )
    if np.abs(lat).max() > 90 + 1e-6:
        worst = lat.flat[np.abs(lat).argmax()]
        raise GridError(f"expected latitudes within -90 to 90, received {worst:g}; check units or names")


def _index_order(vectors: Floats) -> list[int]:
    """Return the order of the corners of every cell: first row left and right, second row right and left.

    Of the eight orders around a cell, take the one with most corners shared by neighbours.
    """
    # Some rows in the middle are representative.
    first = max(vectors.shape[0] // 2 - 32, 0)
    vectors = vectors[first : first + 64]
    orders = [[(start + sense * k) % 4 for k in range(4)] for start in range(4) for sense in (1, -1)]
    return min(orders, key=lambda order: _misfit(vectors[:, :, order]))


def _misfit(v: Floats) -> float:
    """Return the distance of the shared corners of neighbours, and of rows from their own second side."""
    right = np.minimum(arc(v[:, :-1, 1], v[:, 1:, 0]), 1e-3) + np.minimum(arc(v[:, :-1, 2], v[:, 1:, 3]), 1e-3)
    down = np.minimum(arc(v[:-1, :, 3], v[1:, :, 0]), 1e-3) + np.minimum(arc(v[:-1, :, 2], v[1:, :, 1]), 1e-3)
    return float((right.mean() if right.size else 0.0) + (down.mean() if down.size else 0.0))


def _is_closed(vectors: Floats) -> bool:
    """Return whether the right corners of the last column are the left corners of the first."""
    if vectors.shape[1] < 3:
        return False
    distance = np.maximum(arc(vectors[:, -1, 1], vectors[:, 0, 0]), arc(vectors[:, -1, 2], vectors[:, 0, 3]))
    size = arc(vectors[:, 0, 0], vectors[:, 0, 2])
    tolerance = np.maximum(EDGE_TOLERANCE * size, np.minimum(STORAGE_ROUNDING * 2 * np.pi, STORAGE_LIMIT * size))
    return bool((distance <= tolerance + 1e-12).all())


def _grid_from_centres(lon: Floats, lat: Floats) -> CurvilinearGrid:
    """Return a grid with corners midway between four centres, extrapolated outside; closed if the circle closes."""
    if min(lon.shape) < 2:
        raise GridError(f"expected bounds for a grid of {lon.shape} cells, received none; add CF bounds")
    p = unit_vectors(lon, lat)
    steps, seam = arc(p[:, :-1], p[:, 1:]), arc(p[:, -1], p[:, 0])
    # The circle closes if the steps across the seam are like the adjacent ones, except for rows near a fold.
    end_steps = np.maximum(steps[:, 0], steps[:, -1])
    is_closed = lon.shape[1] > 3 and bool(((seam <= 2 * end_steps) & (seam >= 0.5 * end_steps)).mean() > 0.9)
    points = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    ends = points[:, -1:], points[:, :1]
    if not is_closed:
        ends = 2 * points[:, :1] - points[:, 1:2], 2 * points[:, -1:] - points[:, -2:-1]
    points = np.concatenate([ends[0], points, ends[1]], axis=1)
    node = normalise(points[:-1, :-1] + points[:-1, 1:] + points[1:, :-1] + points[1:, 1:])
    corners = np.stack([node[:-1, :-1], node[:-1, 1:], node[1:, 1:], node[1:, :-1]], axis=2)
    rings = np.stack(degrees_of(corners, lon[..., None]), axis=-1)
    return CurvilinearGrid(lon, lat, rings, (1, 1), is_closed, derived=True)
