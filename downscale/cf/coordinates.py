"""Coordinates of a grid in CF form: centres, bounds, areas."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.bounds import bounds_name, corner_dimension, new_pair_dimension
from downscale.cf.evidence import STANDARD
from downscale.cf.horizontal import AREA, Horizontal, XarrayObject, degrees_of_unit, plane_names
from downscale.cf.mapping import positions
from downscale.grid.axis import FULL_CIRCLE, LONGEST_STEP, CellAxis
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid

CF_ATTRS = {
    "latitude": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
}
# Attributes of one-dimensional axes by kind, rows first.
AXIS_ATTRS = {
    "geographic": (CF_ATTRS["latitude"], CF_ATTRS["longitude"]),
    "rotated": tuple({"standard_name": f"grid_{name}", "long_name": f"{name} in rotated pole grid", "units": "degrees",
                      "axis": axis} for name, axis in (("latitude", "Y"), ("longitude", "X"))),
    "plane": tuple({"standard_name": f"projection_{name}_coordinate", "long_name": f"{name} coordinate of projection",
                    "axis": name.upper()} for name in "yx"),
    "scan": tuple({"standard_name": f"projection_{name}_angular_coordinate", "long_name": f"{name} scan angle",
                   "axis": name.upper()} for name in "yx"),
}  # fmt: skip
LENGTH_UNITS = {1.0: "m", 1000.0: "km", 0.3048: "foot", 1200 / 3937: "US_survey_foot"}
PLANE_ATTRS = {
    name: {key: CF_ATTRS[name][key] for key in ("standard_name", "long_name", "units")} for name in CF_ATTRS
}
HALF_CIRCLE = FULL_CIRCLE / 2
MAPPING_ATTRS = {"grid_mapping_name", "crs_wkt", "spatial_ref"}
# Attributes that are valid for the coarse values only.
STALE_ATTRS = ("actual_range", "valid_min", "valid_max", "valid_range")
# Areas of larger grids are lazy, in bands of this many cells: for one map they outweigh a field in float32.
EAGER_AREAS, BAND_CELLS = 8_000_000, 1_000_000
AREA_ATTRS = {"standard_name": "cell_area", "long_name": "area of grid cells", "units": "m2"}


def mapping_name(variable: xr.DataArray) -> str | None:
    """Return the name of the grid mapping of a variable, if it has one.

    Arithmetic drops encodings, and with them that name: the only mapping among the coordinates is used then.
    """
    given = variable.encoding.get("grid_mapping") or variable.attrs.get("grid_mapping")
    return str(given) if given else mapping_among(variable.coords)


def mapping_among(coords: Mapping[Any, xr.DataArray]) -> str | None:
    """Return the name of the first grid mapping among coordinates."""
    return next((str(n) for n, c in coords.items() if c.size == 1 and MAPPING_ATTRS & set(c.attrs)), None)


def new_coordinates(
    source: XarrayObject, where: Horizontal, grid: RectilinearGrid | CurvilinearGrid
) -> dict[Hashable, xr.Variable]:
    """Return centres, bounds and cell areas of ``grid`` in the names, order and convention of ``source``.

    Grids that are not a product of latitude and longitude also get two-dimensional latitudes and longitudes with their
    corners. Those of large grids are lazy, and those of very large ones have no corners.
    """
    made: dict[Hashable, xr.Variable] = {}
    for name, axis in ((where.y, grid.y), (where.x, grid.x)):
        if name in source.coords and axis.kind != "index":
            made.update(_axis_variables(source, name, axis, where))
    made.update(_plane_variables(source, where, grid))
    made[AREA] = xr.Variable(where.dims, areas_of(grid), dict(AREA_ATTRS))
    return made


def areas_of(grid: RectilinearGrid | CurvilinearGrid) -> Any:
    """Return cell areas; those of a large grid lazily in bands of rows if they are products of rows and columns."""
    n_y, n_x = grid.shape
    if n_y * n_x <= EAGER_AREAS or not grid.separable:
        return grid.cell_area
    step = max(BAND_CELLS // n_x, 1)
    rows = (step,) * (n_y // step) + ((n_y % step,) if n_y % step else ())
    none = np.empty((0, 0))
    return da.map_blocks(_band_areas, grid=grid, step=step, chunks=(rows, (n_x,)), dtype=np.float64, meta=none)


def _band_areas(
    grid: RectilinearGrid, step: int, block_id: tuple[int, int] = (0, 0)
) -> np.ndarray:
    rows = np.arange(block_id[0] * step, min((block_id[0] + 1) * step, grid.shape[0]))
    return grid.areas(rows, np.arange(grid.shape[1]))


def _plane_variables(
    source: XarrayObject, where: Horizontal, grid: RectilinearGrid | CurvilinearGrid
) -> dict[Hashable, xr.Variable]:
    """Return two-dimensional latitudes and longitudes and their corners, counter-clockwise as CF requires."""
    if where.planes is None:
        return {}
    lat, lon = where.planes
    there = lon in plane_names(source, where)
    # Only a projection has a choice; longitudes start at 0 if those of the source exceed 180.
    west = 0.0 if there and where.mapping is not None and (
        float(source[lon].max()) * degrees_of_unit(source[lon]) > 180
    ) else -180.0
    found = positions(grid, where.locator, west)
    turn = _into_branch(source[lon], found.lon) if there and isinstance(grid, CurvilinearGrid) else None
    made: dict[Hashable, xr.Variable] = {}
    for index, (name, word) in enumerate(((lat, "latitude"), (lon, "longitude"))):
        old, bounds = (dict(source[name].attrs), bounds_name(source, name)) if there else ({}, f"{name}_bnds")
        stale = (*STALE_ATTRS, "bounds")
        attrs = {key: value for key, value in {**PLANE_ATTRS[word], **old}.items() if key not in stale}
        unit = degrees_of_unit(source[name]) if there else 1.0
        centres = (found.lat, found.lon)[index]
        turned = turn is not None and word == "longitude"
        made[name] = xr.Variable(where.dims, _divided(centres + turn if turned else centres, unit), attrs)
        if found.corners is not None:
            made[name].attrs["bounds"] = bounds
            corners = found.corners[1 - index]
            corners = _divided(corners + turn[..., None] if turned else corners, unit)  # type: ignore[index]
            made[bounds] = xr.Variable((*where.dims, _corner_dim(source, name if there else None)), corners)
    return made


def _into_branch(old: xr.DataArray, new: Any) -> Any:
    """Return multiples of 360 degrees that bring longitudes into the branch of those of the source."""
    low, high = (float(end) * degrees_of_unit(old) for end in (old.min(), old.max()))
    wests = (-HALF_CIRCLE, 0.0, (low + high) / 2 - HALF_CIRCLE)
    west = next((west for west in wests if west <= low and high <= west + FULL_CIRCLE), wests[-1])
    return -np.floor((new - west) / FULL_CIRCLE) * FULL_CIRCLE


def _corner_dim(source: XarrayObject, name: str | None) -> str:
    """Return the dimension of four corners: that of the source, or an unused one."""
    own = None if name is None else corner_dimension(source, name)
    if own is not None and source[bounds_name(source, str(name))].sizes[own] == 4:
        return own
    return next(one for one in ("vertices", "corners", "cell_corners") if source.sizes.get(one, 4) == 4)


def _divided(values: Any, unit: float) -> Any:
    """Return degrees or metres in a unit of the file; values already in it are bit-identical."""
    return values if unit == 1.0 else values / unit


def _axis_variables(source: XarrayObject, name: str, axis: CellAxis, where: Horizontal) -> dict[Hashable, xr.Variable]:
    old = source[name]
    bounds = bounds_name(source, name)
    corner = new_pair_dimension(source, name)
    centres, edges = axis.centres, np.stack([axis.edges[:-1], axis.edges[1:]], axis=1)
    if axis.kind == "longitude":
        turn = _turns(np.asarray(old.values, dtype=np.float64) * where.unit, centres)
        centres, edges = centres + turn, edges + turn[:, None]
    centres, edges = _divided(centres, where.unit), _divided(edges, where.unit)
    attrs = {**_line_attrs(old.attrs, where, name), "bounds": bounds}
    return {name: xr.Variable((name,), centres, attrs), bounds: xr.Variable((name, corner), edges)}


def _line_attrs(old: Mapping[str, Any], where: Horizontal, name: str) -> dict[str, Any]:
    """Return the attributes of an axis: existing ones, and missing ones for its kind."""
    wanted = dict(AXIS_ATTRS[where.nature][name == where.x])
    attrs = {key: value for key, value in old.items() if key not in STALE_ATTRS}
    standard = str(attrs.get("standard_name") or "")
    if standard in STANDARD and where.nature not in STANDARD[standard][1]:
        # Units and grid mapping contradict it: an error of the tool that wrote it.
        del attrs["standard_name"]
        standard = ""
    if standard or (where.nature == "plane" and where.mapping is None):
        return attrs
    if where.nature == "plane" and where.unit in LENGTH_UNITS:
        wanted["units"] = LENGTH_UNITS[where.unit]
    if where.nature == "rotated" and where.mapping is None:
        return {**{key: wanted[key] for key in ("units", "axis")}, **attrs}
    return {**wanted, **attrs}


def _turns(old: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return multiples of 360 degrees that bring centres back to the branch of coordinates that jump at the seam.

    Coordinates that do not jump stay monotonic, even if parts of a cell at the seam leave the branch by less than a
    cell.
    """
    jumps = old.size > 2 and np.abs(np.diff(old)).max() > LONGEST_STEP
    if not jumps:
        return np.zeros_like(centres)
    west = -180.0 if old.min() < 0 else 0.0
    # The seam itself is on the side of the old coordinates.
    if (old == west + FULL_CIRCLE).any():
        return np.floor((west - centres) / FULL_CIRCLE + 1) * FULL_CIRCLE
    return -np.floor((centres - west) / FULL_CIRCLE) * FULL_CIRCLE


def kept_coordinates(source: XarrayObject, where: Horizontal) -> dict[Hashable, xr.Variable]:
    """Return the coordinates that are not on the horizontal axes: times, levels, members, grid mappings."""
    gone = set(where.dims)
    return {
        name: coord.variable.copy(deep=False) for name, coord in source.coords.items() if not gone & set(coord.dims)
    }


def made_names(source: XarrayObject, where: Horizontal) -> set[str]:
    """Return the names of variables of ``source`` that are created anew for a new grid."""
    axes = {where.y, where.x, bounds_name(source, where.y), bounds_name(source, where.x)}
    return {*axes, *plane_names(source, where), AREA}


def dropped_coordinates(source: XarrayObject, where: Horizontal) -> list[str]:
    """Return the names of horizontal coordinates that a new grid cannot keep (cell numbers, names of basins, ...)."""
    made, gone = made_names(source, where), set(where.dims)
    return [str(n) for n, coord in source.coords.items() if gone & set(coord.dims) and n not in made]
