"""Coordinates of a grid as CF writes them: centres, bounds, areas (xarray; never torch)."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import xarray as xr

from downscale.grid.axis import FULL_CIRCLE, LONGEST_STEP, CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sphere import EARTH_RADIUS
from downscale.io.cf import AREA, Horizontal, XarrayObject, bounds_name

CF_ATTRS = {
    "latitude": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
}
# What was true of the coarse values only.
STALE_ATTRS = ("actual_range", "valid_min", "valid_max", "valid_range")
AREA_ATTRS = {"standard_name": "cell_area", "long_name": "area of grid cells", "units": "m2"}


def new_coordinates(source: XarrayObject, where: Horizontal, grid: RectilinearGrid) -> dict[Hashable, xr.Variable]:
    """Return centres, bounds and cell areas of ``grid`` in the names, order and convention of ``source``."""
    made: dict[Hashable, xr.Variable] = {}
    for name, axis in ((where.y, grid.y), (where.x, grid.x)):
        made.update(_axis_variables(source, name, axis, where.unit))
    made[AREA] = xr.Variable(where.dims, grid.cell_area, dict(AREA_ATTRS))
    return made


def _axis_variables(source: XarrayObject, name: str, axis: CellAxis, unit: float) -> dict[Hashable, xr.Variable]:
    old = source[name]
    bounds = bounds_name(source, name)
    corner = source[bounds].dims[-1] if bounds in source.coords and source[bounds].ndim == 2 else "bnds"
    centres, edges = axis.centres / unit, np.stack([axis.edges[:-1], axis.edges[1:]], axis=1) / unit
    if axis.kind == "longitude":
        turn = _turns(np.asarray(old.values, dtype=np.float64), centres)
        centres, edges = centres + turn, edges + turn[:, None]
    attrs = {**(CF_ATTRS.get(axis.kind, {}) if "standard_name" not in old.attrs else {}), **old.attrs}
    for stale in STALE_ATTRS:
        attrs.pop(stale, None)
    attrs["bounds"] = bounds
    return {name: xr.Variable((name,), centres, attrs), bounds: xr.Variable((name, corner), edges)}


def _turns(old: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return whole circles that bring centres back to the branch of coordinates that jump at the seam.

    Coordinates that do not jump stay monotone, even where parts of a cell at the seam leave the branch by less than
    a cell.
    """
    jumps = old.size > 2 and np.abs(np.diff(old)).max() > LONGEST_STEP
    if not jumps:
        return np.zeros_like(centres)
    west = -180.0 if old.min() < 0 else 0.0
    # The seam itself lies on the side where the old coordinates have it.
    if (old == west + FULL_CIRCLE).any():
        return np.floor((west - centres) / FULL_CIRCLE + 1) * FULL_CIRCLE
    return -np.floor((centres - west) / FULL_CIRCLE) * FULL_CIRCLE


def kept_coordinates(source: XarrayObject, where: Horizontal) -> dict[Hashable, xr.Variable]:
    """Return the coordinates that do not lie on the horizontal axes: times, levels, members, grid mappings."""
    gone = set(where.dims)
    return {
        name: coord.variable.copy(deep=False) for name, coord in source.coords.items() if not gone & set(coord.dims)
    }


def dropped_coordinates(source: XarrayObject, where: Horizontal) -> list[str]:
    """Return the names of horizontal coordinates that a new grid cannot keep (two-dimensional longitudes, ...)."""
    made = {where.y, where.x, bounds_name(source, where.y), bounds_name(source, where.x), AREA}
    gone = set(where.dims)
    return [str(n) for n, coord in source.coords.items() if gone & set(coord.dims) and n not in made]


def sphere_mapping() -> xr.Variable:
    """Return the grid mapping of latitudes and longitudes on the sphere whose areas the package uses."""
    attrs = {"grid_mapping_name": "latitude_longitude", "earth_radius": EARTH_RADIUS}
    return xr.Variable((), np.int32(0), attrs)
