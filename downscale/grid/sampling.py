"""Means of a field on latitudes and longitudes over cells of any other kind, sampled at true positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.grid.axis import FULL_CIRCLE, CellAxis
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sphere import arc, degrees_of, inner_points, unit_vectors
from downscale.grid.subcells import overlap_matrix

Floats = NDArray[np.float64]
# From axes (x, y) to longitudes and latitudes in degrees, arrays of one shape.
Locator = Callable[[Floats, Floats], tuple[Floats, Floats]]

# Maximum number of samples in memory; and source cells along a side of a fine cell above which they are averaged first.
BLOCK_SAMPLES, MOST_SAMPLES = 1_000_000, 4


@dataclass(frozen=True, eq=False)
class CellPositions:
    """Cells of any grid with the longitudes and latitudes of their inner points.

    ``locator`` converts the axes of a product grid to degrees.
    """

    grid: Any
    locator: Locator | None = None

    def points(self, rows: slice, count: int) -> tuple[Floats, Floats]:
        """Return longitudes and latitudes of ``count`` by ``count`` points of each cell, (rows, n_x, count, count)."""
        offsets = (np.arange(count) + 0.5) / count
        if isinstance(self.grid, CurvilinearGrid):
            return degrees_of(inner_points(self._corners[rows], offsets, offsets))
        assert self.locator is not None
        y, x = (low[:, None] + offsets * (high - low)[:, None] for low, high in map(_ends, (self.grid.y, self.grid.x)))
        shape = (*y[rows].shape, *x.shape)
        lon, lat = self.locator(
            np.broadcast_to(x, shape).reshape(-1), np.broadcast_to(y[rows][..., None, None], shape).reshape(-1)
        )
        return tuple(v.reshape(shape).transpose(0, 2, 1, 3) for v in (lon, lat))  # type: ignore[return-value]

    @cached_property
    def _corners(self) -> Floats:
        return np.asarray(self.grid.all_corners())

    @cached_property
    def size(self) -> tuple[float, float]:
        """Typical side of a cell and the middle latitude, in degrees."""
        rows = self.grid.shape[0]
        lon, lat = self.points(slice(rows // 2, rows // 2 + 1), 2)
        p = unit_vectors(lon, lat)
        # Two points along a side are half a side apart.
        sides = [arc(p[..., 0, 0, :], p[..., 1, 0, :]), arc(p[..., 0, 0, :], p[..., 0, 1, :])]
        return float(2 * np.rad2deg(np.sqrt(np.nanmedian(sides[0] * sides[1])))), float(np.nanmedian(lat))

    def blocks(self, count: int) -> Iterator[slice]:
        """Yield slices of rows with few samples."""
        step = max(BLOCK_SAMPLES // (self.grid.shape[1] * count**2), 1)
        return (slice(start, min(start + step, self.grid.shape[0])) for start in range(0, self.grid.shape[0], step))


def _ends(axis: Any) -> tuple[Floats, Floats]:
    return (axis.low, axis.high) if hasattr(axis, "low") else (axis.edges[:-1], axis.edges[1:])


@dataclass(frozen=True, eq=False)
class Sampling:
    """Means of a field of ``source`` cells over the cells of ``positions``.

    Points of each fine cell, about as many as it contains source cells, get the field by bilinear interpolation. Their
    mean is the value of the cell: an area mean if the source is finer, an interpolation if it is coarser. If a fine
    cell contains many source cells, these are averaged by area first.
    """

    source: RectilinearGrid
    positions: CellPositions

    @cached_property
    def _counts(self) -> tuple[tuple[int, int], int]:
        """Source cells to join along rows and columns, and points along a side of a fine cell."""
        side, lat = self.positions.size
        steps = [float(np.median(np.abs(np.diff(axis.edges)))) for axis in (self.source.y, self.source.x)]
        ratios = side / steps[0], side / max(steps[1] * np.cos(np.deg2rad(lat)), 1e-6)
        join_counts = tuple(
            max(min(int(ratio / MOST_SAMPLES), size // 2), 1)
            for ratio, size in zip(ratios, self.source.shape, strict=True)
        )
        largest_ratio = max(ratio / join for ratio, join in zip(ratios, join_counts, strict=True))
        return (join_counts[0], join_counts[1]), int(np.clip(np.ceil(largest_ratio), 1, 2 * MOST_SAMPLES))

    def means(self, values: NDArray[Any]) -> Floats:
        """Return the means, with the shape of the fine grid; ``values`` must not contain NaN."""
        (join_y, join_x), count = self._counts
        y, x = _join_cells(self.source.y, join_y), _join_cells(self.source.x, join_x)
        field = np.asarray(values, np.float64)
        if join_y * join_x > 1:
            field = overlap_matrix(self.source.y, y) @ field @ overlap_matrix(self.source.x, x).T
        out = np.empty(self.positions.grid.shape)
        for rows in self.positions.blocks(count):
            lon, lat = self.positions.points(rows, count)
            out[rows] = _bilinear(field, _find_neighbours(y, lat), _find_neighbours(x, lon)).mean(axis=(-2, -1))
        return out

    def covered_fraction(self) -> Floats:
        """Return the fraction of each fine cell that the source covers, 0 to 1."""
        y, x = self.source.y, self.source.x
        if x.periodic and np.ptp(y.edges) > 180 - 1e-6:
            return np.ones(self.positions.grid.shape)
        count = self._counts[1] + 1
        out = np.empty(self.positions.grid.shape)
        for rows in self.positions.blocks(count):
            lon, lat = self.positions.points(rows, count)
            in_lat = (lat >= y.edges.min() - 1e-6) & (lat <= y.edges.max() + 1e-6)
            out[rows] = (in_lat & ((lon - x.edges.min() + 1e-6) % FULL_CIRCLE <= np.ptp(x.edges) + 2e-6)).mean((-2, -1))
        return out


def _join_cells(axis: CellAxis, count: int) -> CellAxis:
    if count == 1:
        return axis
    return CellAxis(np.append(axis.edges[:-1:count], axis.edges[-1]), axis.kind, axis.closed)


def _find_neighbours(axis: CellAxis, degrees: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return the cells on both sides of each position and the weight of the second."""
    centres, index = axis.centres, np.arange(axis.size)
    if not axis.ascending:
        centres, index = centres[::-1], index[::-1]
    if axis.kind == "longitude":
        low = axis.edges.min()
        degrees = low + (degrees - low) % FULL_CIRCLE
        if axis.periodic:
            centres = np.concatenate([centres[-1:] - FULL_CIRCLE, centres, centres[:1] + FULL_CIRCLE])
            index = np.concatenate([index[-1:], index, index[:1]])
    if centres.size == 1:
        zeros = np.zeros(degrees.shape, np.int64)
        return zeros, zeros, np.zeros(degrees.shape)
    right = np.clip(np.searchsorted(centres, degrees), 1, centres.size - 1)
    weight = np.clip((degrees - centres[right - 1]) / (centres[right] - centres[right - 1]), 0.0, 1.0)
    return index[right - 1], index[right], weight


def _bilinear(field: Floats, rows: tuple[Any, Any, Floats], columns: tuple[Any, Any, Floats]) -> Floats:
    (top, bottom, y_weight), (left, right, x_weight) = rows, columns
    upper = field[top, left] * (1 - x_weight) + field[top, right] * x_weight
    lower = field[bottom, left] * (1 - x_weight) + field[bottom, right] * x_weight
    return np.asarray(upper * (1 - y_weight) + lower * y_weight)
