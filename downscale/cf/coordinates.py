"""Coordinates of a grid in CF form (centres, bounds, areas), and selection of fields with all that locate them."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.attributes import AREA, STALE_ATTRS, find_referenced
from downscale.cf.bounds import (
    XarrayObject,
    bounds_in,
    bounds_variables,
    corner_dimension,
    new_pair_dimension,
    variables_of,
)
from downscale.cf.dates import is_time, values_of
from downscale.cf.evidence import POSITIONS, STANDARD, degrees_of_unit, seems_position
from downscale.cf.mapping import GridMapping, positions
from downscale.cf.units import CODE_UNITS, convert
from downscale.errors import InputError, listing
from downscale.grid.axis import FULL_CIRCLE, LONGEST_STEP, CellAxis
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid

if TYPE_CHECKING:
    from downscale.cf.horizontal import Horizontal


def select(ds: xr.Dataset, names: str | Iterable[Any]) -> xr.Dataset:
    """Return a Dataset of some fields with all variables that locate them.

    Its coordinates are the variables that the fields refer to (bounds, cell areas, grid mappings, ``formula_terms``,
    ancillary variables), directly or through others, and the coordinates, positions and areas on their dimensions.

    Examples
    --------
    >>> lat = xr.Variable("lat", [0.0, 1.0], {"bounds": "lat_bnds"})
    >>> cells = {"lat": lat, "lat_bnds": (("lat", "bnds"), [[-1.0, 0.5], [0.5, 1.5]])}
    >>> ds = xr.Dataset({"tas": ("lat", [1.0, 2.0]), "pr": ("lat", [3.0, 4.0])}, cells)
    >>> sorted(select(ds, "tas").variables), "lat_bnds" in ds[["tas"]].variables
    (['lat', 'lat_bnds', 'tas'], False)
    """
    field_names = [names] if isinstance(names, str) else list(names)
    missing_names = [name for name in field_names if name not in ds.variables]
    if missing_names:
        raise InputError(f"expected variables among {listing(ds.data_vars)}, received {listing(missing_names)}")
    selection = {str(name) for name in field_names}
    selection |= find_referenced(ds, selection)
    dims = {dim for name in selection - bounds_variables(ds) for dim in ds[name].dims}
    selection |= {
        str(name) for name, v in ds.variables.items() if set(v.dims) <= dims and _belongs_to_grid(ds, str(name))
    }
    selection |= {bounds for name in selection for bounds in [bounds_in(ds, name)] if bounds is not None}
    selection |= find_referenced(ds, selection & set(map(str, ds.coords)))
    subset = ds.drop_vars([name for name in ds.variables if str(name) not in selection])
    return subset.set_coords([name for name in subset.data_vars if name not in field_names])


def _belongs_to_grid(ds: xr.Dataset, name: str) -> bool:
    """Return whether a variable belongs to the grid: a coordinate, a grid mapping, cell areas, or a position."""
    attrs = ds[name].attrs
    if name in ds.coords or "grid_mapping_name" in attrs or "crs_wkt" in attrs:
        return True
    standard = str(attrs.get("standard_name", ""))
    if name == AREA or standard:
        return name == AREA or standard in ("cell_area", *POSITIONS)
    return seems_position(ds[name])


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
POSITION_ATTRS = {
    name: {key: CF_ATTRS[name][key] for key in ("standard_name", "long_name", "units")} for name in CF_ATTRS
}
HALF_CIRCLE = FULL_CIRCLE / 2
# Areas of larger grids are lazy, in bands of this many cells: for one map they outweigh a field in float32.
EAGER_AREAS, BAND_CELLS = 8_000_000, 1_000_000
AREA_ATTRS = {"standard_name": "cell_area", "long_name": "area of grid cells", "units": "m2"}


def new_coordinates(
    source: XarrayObject, axes: Horizontal, grid: RectilinearGrid | CurvilinearGrid
) -> dict[Hashable, xr.Variable]:
    """Return centres, bounds and cell areas of ``grid`` in the names, order and convention of ``source``.

    Grids that are not a product of latitude and longitude also get two-dimensional positions with their corners.
    """
    coordinates: dict[Hashable, xr.Variable] = {}
    for name, axis in ((axes.y, grid.y), (axes.x, grid.x)):
        if name in source.coords and axis.kind != "index":
            coordinates.update(_axis_variables(source, name, axis, axes))
    coordinates.update(_position_variables(source, axes, grid))
    coordinates[AREA] = xr.Variable(axes.dims, areas_of(grid), dict(AREA_ATTRS))
    return coordinates


def areas_of(grid: RectilinearGrid | CurvilinearGrid) -> Any:
    """Return cell areas; those of a large grid lazily in bands of rows if they are products of rows and columns."""
    n_y, n_x = grid.shape
    if n_y * n_x <= EAGER_AREAS or not grid.separable:
        return grid.cell_area
    step = max(BAND_CELLS // n_x, 1)
    rows = (step,) * (n_y // step) + ((n_y % step,) if n_y % step else ())
    empty = np.empty((0, 0))
    return da.map_blocks(_band_areas, grid=grid, step=step, chunks=(rows, (n_x,)), dtype=np.float64, meta=empty)


def _band_areas(grid: RectilinearGrid, step: int, block_id: tuple[int, int] = (0, 0)) -> np.ndarray:
    rows = np.arange(block_id[0] * step, min((block_id[0] + 1) * step, grid.shape[0]))
    return grid.areas(rows, np.arange(grid.shape[1]))


def _position_variables(
    source: XarrayObject, axes: Horizontal, grid: RectilinearGrid | CurvilinearGrid
) -> dict[Hashable, xr.Variable]:
    """Return two-dimensional latitudes and longitudes and their corners, counter-clockwise as CF requires."""
    if axes.positions is None:
        return {}
    lat, lon = axes.positions
    has_positions = lon in variables_of(source)
    # Only a projection has a choice; longitudes start at 0 if those of the source exceed 180.
    west = (
        0.0
        if has_positions
        and axes.mapping is not None
        and (float(source[lon].max()) * degrees_of_unit(source[lon]) > 180)
        else -180.0
    )
    lons, lats, corners = positions(grid, axes.locator, west)
    rings: list[Any] = [None, None] if corners is None else [corners[1], corners[0]]
    if has_positions and isinstance(grid, CurvilinearGrid):
        shift = _position_shift(source[lon], lons)
        lons, rings[1] = lons + shift, None if corners is None else rings[1] + shift[..., None]
    variables: dict[Hashable, xr.Variable] = {}
    for name, word, centres, ring in ((lat, "latitude", lats, rings[0]), (lon, "longitude", lons, rings[1])):
        attrs, unit, bounds, corner = dict(POSITION_ATTRS[word]), 1.0, axes.bounds_of(name), None
        if has_positions:
            attrs, unit = attrs | source[name].attrs, degrees_of_unit(source[name])
            corner = corner_dimension(source, name)
        attrs = {key: value for key, value in attrs.items() if key not in (*STALE_ATTRS, "bounds")}
        variables[name] = xr.Variable(axes.dims, centres if unit == 1 else centres / unit, attrs)
        if ring is not None:
            variables[name].attrs["bounds"] = bounds
            if corner is None or source[bounds].sizes[corner] != 4:
                corner = next(dim for dim in ("vertices", "corners", "cell_corners") if source.sizes.get(dim, 4) == 4)
            variables[bounds] = xr.Variable((*axes.dims, corner), ring if unit == 1 else ring / unit)
    return variables


def _position_shift(old: xr.DataArray, new: Any) -> Any:
    """Return multiples of 360 degrees that bring longitudes into the branch of those of the source."""
    low, high = (float(end) * degrees_of_unit(old) for end in (old.min(), old.max()))
    wests = (-HALF_CIRCLE, 0.0, (low + high) / 2 - HALF_CIRCLE)
    west = next((west for west in wests if west <= low and high <= west + FULL_CIRCLE), wests[-1])
    return -np.floor((new - west) / FULL_CIRCLE) * FULL_CIRCLE


def _axis_variables(source: XarrayObject, name: str, axis: CellAxis, axes: Horizontal) -> dict[Hashable, xr.Variable]:
    old, bounds, edges = source[name], axes.bounds_of(name), np.stack([axis.edges[:-1], axis.edges[1:]], axis=1)
    shift = np.zeros(axis.size)
    if axis.kind == "longitude":
        shift = _seam_shift(np.asarray(old.values, dtype=np.float64) * axes.unit, axis.centres)
    centres, edges = (axis.centres + shift) / axes.unit, (edges + shift[:, None]) / axes.unit
    attrs = {**_axis_attrs(old.attrs, axes, name), "bounds": bounds}
    dims = name, new_pair_dimension(source, name)
    return {name: xr.Variable((name,), centres, attrs), bounds: xr.Variable(dims, edges)}


def _axis_attrs(old: Mapping[str, Any], axes: Horizontal, name: str) -> dict[str, Any]:
    """Return the attributes of an axis: existing ones, and missing ones for its kind."""
    default_attrs = dict(AXIS_ATTRS[axes.system][name == axes.x])
    attrs = {key: value for key, value in old.items() if key not in STALE_ATTRS}
    standard = str(attrs.get("standard_name") or "")
    if standard in STANDARD and axes.system not in STANDARD[standard][1]:
        # Units and grid mapping contradict it: an error of the tool that wrote it.
        del attrs["standard_name"]
        standard = ""
    if standard or (axes.system == "plane" and axes.mapping is None):
        return attrs
    if axes.system == "plane" and axes.unit in LENGTH_UNITS:
        default_attrs["units"] = LENGTH_UNITS[axes.unit]
    if axes.system == "rotated" and axes.mapping is None:
        return {**{key: default_attrs[key] for key in ("units", "axis")}, **attrs}
    return {**default_attrs, **attrs}


def _seam_shift(old: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return multiples of 360 degrees that bring centres back to the branch of coordinates that jump at the seam.

    Coordinates that do not jump stay monotonic.
    """
    has_jump = old.size > 2 and np.abs(np.diff(old)).max() > LONGEST_STEP
    if not has_jump:
        return np.zeros_like(centres)
    west = -180.0 if old.min() < 0 else 0.0
    # The seam itself is on the side of the old coordinates.
    if (old == west + FULL_CIRCLE).any():
        return np.floor((west - centres) / FULL_CIRCLE + 1) * FULL_CIRCLE
    return -np.floor((centres - west) / FULL_CIRCLE) * FULL_CIRCLE


def copy_coordinates(source: XarrayObject, axes: Horizontal) -> dict[Hashable, xr.Variable]:
    """Return the coordinates that are not on the horizontal axes: times, levels, members, grid mappings."""
    dims = set(axes.dims)
    return {
        name: coord.variable.copy(deep=False) for name, coord in source.coords.items() if not dims & set(coord.dims)
    }


def find_lost_coordinates(source: XarrayObject, axes: Horizontal) -> list[str]:
    """Return the names of horizontal coordinates that a new grid cannot keep (cell numbers, names of basins, ...)."""
    replaced_names, dims = axes.replaced_names, set(axes.dims)
    return [str(n) for n, coord in source.coords.items() if dims & set(coord.dims) and n not in replaced_names]


NAMES = (AREA, "areacello")
# Stored areas may differ because of the radius, of midpoints as corners, or of land in ocean cells.
LEAST_RATIO, MOST_RATIO, MOST_DEVIATION, MOST_OUTLIERS = 0.5, 2.0, 0.2, 0.05


# Maximum number of cells compared; larger grids are sampled by rows.
MOST_CELLS = 200_000


def read_areas(ds: xr.Dataset, axes: Horizontal, field: str, role: str) -> tuple[xr.DataArray, float] | None:
    """Return the areas named by ``cell_measures`` of a field or by customary names, and square metres in their unit.

    Returns None if there are none, or if they contradict the grid, with a warning about the file ``role``.
    """
    words = str(ds[field].attrs.get("cell_measures") or ds[field].encoding.get("cell_measures") or "").split()
    measures = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "area:"]
    customary = [str(n) for n, v in ds.variables.items() if n in NAMES or v.attrs.get("standard_name") == "cell_area"]
    usable = (name for name in (*measures, *customary) if name in ds.variables and ds[name].dtype.kind in "fiu"
              and set(ds[name].dims) == set(axes.dims))  # fmt: skip
    names_and_scales = ((name, convert(1.0, str(ds[name].attrs.get("units") or "m2"), "m2")) for name in usable)
    name, scale = next((pair for pair in names_and_scales if pair[1] is not None), ("", None))
    if scale is None:
        return None
    areas = ds[name].transpose(*axes.dims)
    rows, columns = (np.arange(size) for size in axes.grid.shape)
    rows = rows[:: max(rows.size * columns.size // MOST_CELLS, 1)]
    cell_areas = axes.grid.areas(rows, columns)
    values = values_of(areas.isel({axes.y: rows}).variable).astype(np.float64) * scale
    is_valid = np.isfinite(values) & (values > 0) & (cell_areas > 0)
    ratio, weights = values[is_valid] / cell_areas[is_valid] if is_valid.any() else np.zeros(1), cell_areas[is_valid]
    median = float(np.median(ratio))
    # By area: those at a pole are small and uncertain.
    if (
        LEAST_RATIO <= median <= MOST_RATIO
        and weights[np.abs(ratio / median - 1) > MOST_DEVIATION].sum() <= MOST_OUTLIERS * weights.sum()
    ):
        return areas, scale
    warnings.warn(
        f"{name}: expected the cell areas of the {role} in m2, received {ratio.min():.3g} to {ratio.max():.3g} times "
        "these; areas from the cells are used, repair the file",
        UserWarning, stacklevel=4,
    )  # fmt: skip
    return None


def horizontal_variables(ds: xr.Dataset, axes: Horizontal) -> list[str]:
    """Return the names of the numeric fields on both horizontal dimensions, without cell areas."""
    dims, areas = set(axes.dims), {*area_names(ds), *axes.replaced_names, *bounds_variables(ds)}
    names = [str(n) for n, v in ds.data_vars.items() if dims <= set(v.dims) and v.dtype.kind in "fiub"]
    return [name for name in names if name not in areas]


def area_names(ds: xr.Dataset) -> list[str]:
    """Return the names of the data variables that hold cell areas, which a new grid creates anew."""
    return [str(n) for n, v in ds.data_vars.items() if n == AREA or v.attrs.get("standard_name") == "cell_area"]


def complete_metadata(ds: xr.Dataset, bounds: set[str]) -> None:
    """Complete the metadata of a Dataset in place; ``bounds`` inherit theirs from coordinates."""
    for name, variable in ds.variables.items():
        attrs = variable.attrs
        if variable.ndim == 0 and {"grid_mapping_name", "crs_wkt", "spatial_ref"} & set(attrs):
            _complete_mapping(attrs)
        elif name not in bounds:
            if not {"standard_name", "long_name"} & set(attrs):
                attrs["long_name"] = str(name).replace("_", " ")
            # A step count is no time axis: its dates are in another coordinate.
            if attrs.get("axis") == "T" and "units" not in attrs and not is_time(variable):
                del attrs["axis"]
            # Codes have no units.
            if str(attrs.get("units", "")).strip().lower() in CODE_UNITS:
                del attrs["units"]


def _complete_mapping(attrs: dict[Any, Any]) -> None:
    """Add attributes of a grid mapping that CF requires and its others imply."""
    if str(attrs.get("grid_mapping_name", "")).lower() in UNNAMED:
        attrs.pop("grid_mapping_name", None)
        crs = GridMapping("", {"crs_wkt": attrs.get("crs_wkt") or attrs.get("spatial_ref") or ""}).crs
        wkt_attrs = {} if crs is None else crs.to_cf()
        if str(wkt_attrs.get("grid_mapping_name", "")).lower() not in UNNAMED:
            attrs.update({key: value for key, value in wkt_attrs.items() if key not in attrs})
    if attrs.get("grid_mapping_name") == "polar_stereographic" and "latitude_of_projection_origin" not in attrs:
        parallel = attrs.get("standard_parallel")
        if parallel is not None:
            attrs["latitude_of_projection_origin"] = 90.0 if float(parallel) > 0 else -90.0


UNNAMED = ("", "none", "unknown")
