"""What CF metadata says of a field: horizontal axes or positions, bounds, cell methods (xarray; never torch).

Axes are found by cf-xarray (attributes first, then common names); bounds are read, never guessed, and where there are
none the edges lie midway between centres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from dask.local import get_sync

from downscale.cf.bounds import (
    bounds_name,
    bounds_of,
    bounds_variables,
    corners_of,
    require_known_cells,
    require_known_corners,
    without_lost_bounds,
)
from downscale.cf.codes import is_categorical as is_categorical
from downscale.cf.mapping import GridMapping, Locator, mapping_of
from downscale.cf.texts import usable
from downscale.errors import DownscaleError, GridError, InputError, ShapeError, listing
from downscale.grid.axis import CellAxis, Kind, axis_from_bounds, axis_from_centres, check_factor, draw_to_poles
from downscale.grid.curvilinear import CurvilinearGrid, curvilinear_grid, repeated_columns
from downscale.grid.latlon import RectilinearGrid, product_of
from downscale.grid.projected import projected_grid

XarrayObject = xr.Dataset | xr.DataArray

# Names of last resort, for files whose axes carry no attributes.
Y_NAMES = ("lat", "latitude", "nav_lat", "rlat", "grid_latitude", "y", "yc", "projection_y_coordinate")
X_NAMES = ("lon", "longitude", "long", "nav_lon", "rlon", "grid_longitude", "x", "xc", "projection_x_coordinate")
STANDARD = {
    "y": ("latitude", "grid_latitude", "projection_y_coordinate"),
    "x": ("longitude", "grid_longitude", "projection_x_coordinate"),
}
NORTH = ("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn")
EAST = ("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese")
LAT_NAMES = ("lat", "latitude", "nav_lat", "xlat", "tlat", "lat2d", "geolat", "gphit")
LON_NAMES = ("lon", "longitude", "nav_lon", "xlong", "tlong", "lon2d", "geolon", "glamt")
AREA = "areacella"
METRES = {
    **dict.fromkeys(("m", "metre", "meter", "metres", "meters"), 1.0),
    **dict.fromkeys(("km", "kilometre", "kilometer", "kilometres", "kilometers"), 1000.0),
}


@dataclass(frozen=True, eq=False)
class Horizontal:
    """The two horizontal dimensions of an object and the grid they make.

    Attributes
    ----------
    y, x : str
        Names of the dimensions (and of their coordinates, where they have any).
    grid : RectilinearGrid or CurvilinearGrid
        Cells in the order of the object, in degrees or metres.
    unit : float
        Metres in one unit of a projected coordinate; 1 for degrees.
    lat, lon : str or None
        Names of the two-dimensional latitudes and longitudes: of the object, or that a new grid may have.
    mapping : GridMapping or None
        Where the axes lie on the earth, if they are no latitude and longitude.
    notes : tuple of str
        What a user should know of the grid.
    rotated : bool
        Whether the axes are degrees about another pole, with or without a grid mapping that says which.
    """

    y: str
    x: str
    grid: RectilinearGrid | CurvilinearGrid
    unit: float = 1.0
    lat: str | None = None
    lon: str | None = None
    mapping: GridMapping | None = None
    notes: tuple[str, ...] = ()
    rotated: bool = False

    @property
    def dims(self) -> tuple[str, str]:
        """Names of the row and column dimension."""
        return self.y, self.x

    @property
    def planes(self) -> tuple[str, str] | None:
        """Names of two-dimensional latitudes and longitudes, None where the axes say all."""
        return None if self.lat is None or self.lon is None else (self.lat, self.lon)

    @property
    def locator(self) -> Locator | None:
        """The function from axes to longitudes and latitudes, None where the axes are these."""
        return None if self.mapping is None else self.mapping.locator()


def horizontal(obj: XarrayObject, guess: bool = False) -> Horizontal:
    """Find the horizontal axes or positions of a Dataset or DataArray and read their cells.

    Latitude and longitude, a rotated pole, metres of a projection, or two-dimensional latitudes and longitudes; in any
    order of dimensions.

    Parameters
    ----------
    obj : Dataset or DataArray
        Fields on the grid.
    guess : bool
        Whether cells whose bounds are lost may lie midway between centres (see :mod:`downscale.cf.bounds`): for
        pictures, and for what looks at dimensions only.

    Raises
    ------
    GridError
        If there are none, the cells are no rows and columns, or coordinates are not usable; the line names the axis.
    """
    y, x = _axis_name(obj, "y"), _axis_name(obj, "x")
    planes = _planes(obj)
    if y is not None and x is not None:
        counts = _counts(obj[y], "y") and _counts(obj[x], "x")
        if not (counts and planes is not None and set(obj[planes[0]].dims) == {y, x}):
            return _product(obj, y, x, planes, guess)
    if planes is None:
        raise GridError(_no_axes(obj))
    return _quadrilaterals(obj, *planes, guess)


def _product(obj: XarrayObject, y: str, x: str, planes: tuple[str, str] | None, guess: bool) -> Horizontal:
    """Read a grid that is the product of two one-dimensional coordinates."""
    y_kind, x_kind = _kind(obj[y], "y"), _kind(obj[x], "x")
    unit = _metres(obj[y], obj[x]) if y_kind == x_kind == "projected" else 1.0
    y_axis = _cells(obj, y, y_kind, unit, guess)
    x_axis = _cells(obj, x, x_kind, unit, guess)
    if x_axis.periodic and bounds_of(obj, y) is None:
        y_axis = draw_to_poles(y_axis)
    grid = RectilinearGrid(y_axis, x_axis)
    mapping = mapping_of(obj, (y, x))
    where = partial(Horizontal, y, x)
    if grid.spherical:
        if mapping is not None and mapping.rotated:
            return where(grid, 1.0, *_plane_names(obj, (y, x), planes), mapping, rotated=True)
        rotated = "grid" in f"{obj[y].attrs.get('standard_name', '')} {y}" or y.lower() == "rlat"
        note = f"{y}, {x}: no grid_mapping tells where the pole is; no longitudes and latitudes are written"
        return where(grid, notes=(note,) if rotated else (), rotated=rotated)
    embed = None if mapping is None else mapping.embedding()
    true = None
    if mapping is not None and embed is not None:
        true = projected_grid(y_axis, x_axis, embed, mapping.density())
    if true is None:
        what = "no grid_mapping" if mapping is None else f"the grid_mapping {mapping.name!r} cannot be used"
        return where(grid, unit, notes=(f"{y}, {x}: {what}; areas are those of the plane",))
    return where(true, unit, *_plane_names(obj, (y, x), planes), mapping)


def _plane_names(obj: XarrayObject, dims: tuple[str, str], planes: tuple[str, str] | None) -> tuple[str, str]:
    """Return the names of two-dimensional latitudes and longitudes: those that are there, else free ones."""
    if planes is not None and set(obj[planes[0]].dims) == set(dims):
        return planes
    held = obj.variables if isinstance(obj, xr.Dataset) else obj.coords
    taken = {*map(str, held), *map(str, obj.dims)}
    pairs = (("lat", "lon"), ("latitude", "longitude"), ("true_latitude", "true_longitude"))
    return next((pair for pair in pairs if not taken & set(pair)), pairs[-1])


def _counts(coordinate: xr.DataArray, axis: str) -> bool:
    """Return whether a coordinate only counts: it has neither a standard name nor units of length or angle."""
    units = str(coordinate.attrs.get("units", "")).lower()
    known = coordinate.attrs.get("standard_name") in STANDARD[axis] or units in METRES or units.startswith("degree")
    return not known and str(coordinate.name).lower() not in (*LAT_NAMES, *LON_NAMES, "rlat", "rlon")


def _planes(obj: XarrayObject) -> tuple[str, str] | None:
    """Return the names of two-dimensional latitudes and longitudes on the same dimensions.

    Of several, those that a field names in ``coordinates`` come first, then those on the dimensions of most fields.
    """
    every = {**dict(obj.coords), **(dict(obj.data_vars) if isinstance(obj, xr.Dataset) else {})}
    flat = {str(name): v for name, v in every.items() if v.ndim == 2 and v.dtype.kind in "fiu"}
    fields = list(obj.data_vars.values()) if isinstance(obj, xr.Dataset) else [obj]
    named = {word for v in (obj, *fields) for place in (v.attrs, v.encoding)
             for word in str(place.get("coordinates") or "").split()}  # fmt: skip
    found = []
    for lat in (name for name, v in flat.items() if _is_position(v, "latitude", NORTH, LAT_NAMES)):
        for lon in (name for name, v in flat.items() if _is_position(v, "longitude", EAST, LON_NAMES)):
            dims = set(flat[lat].dims)
            if dims == set(flat[lon].dims):
                carried = sum(dims <= set(v.dims) for v in fields)
                found.append(((lat in named) + (lon in named), carried, lat, lon))
    best = max(found, key=lambda item: item[:2], default=None)
    return None if best is None else best[2:]


def _is_position(variable: xr.DataArray, standard: str, units: tuple[str, ...], names: tuple[str, ...]) -> bool:
    said = variable.attrs.get("standard_name")
    if said is not None:
        return bool(said == standard)
    return str(variable.attrs.get("units", "")).lower() in units or str(variable.name).lower() in names


def _quadrilaterals(obj: XarrayObject, lat: str, lon: str, guess: bool) -> Horizontal:
    """Read a grid from two-dimensional latitudes and longitudes: of quadrilaterals, or the product that they are."""
    y, x = (str(dim) for dim in obj[lat].dims)
    if y.lower() in (*X_NAMES, "i", "ni", "nlon") and x.lower() in (*Y_NAMES, "j", "nj", "nlat"):
        y, x = x, y
    north, east = _numbers(obj[lat].transpose(y, x)), _numbers(obj[lon].transpose(y, x))
    where = partial(Horizontal, y, x, lat=lat, lon=lon)
    try:
        both = corners_of(obj, (lat, lon), (y, x))
        product = product_of(north, east, both)
        grid = product if product is not None else curvilinear_grid(east, north, *(both or ())[::-1])
    except DownscaleError as error:
        raise type(error)(f"coordinates {lat!r} and {lon!r}: {error}") from None
    if not isinstance(grid, CurvilinearGrid):
        if both is None and not guess:
            require_known_cells(obj, lat, north[:, 0], "latitude")
            require_known_cells(obj, lon, east[0], "longitude")
        return where(grid)
    if both is None and not guess:
        require_known_corners(obj, (lat, lon))
    repeated = repeated_columns(grid)
    notes = [f"{lat}, {lon}: no bounds; corners lie midway between centres"] if both is None else []
    if repeated:
        notes.append(f"{x}: the last {repeated} columns are the first again; sums count them twice, so leave them out")
    return where(grid, notes=tuple(notes))


def _numbers(variable: xr.DataArray) -> np.ndarray[Any, Any]:
    # Positions are read here and now, and on no cluster, as bounds are.
    return np.asarray(variable.compute(scheduler=get_sync).values, dtype=np.float64)


def _axis_name(obj: XarrayObject, axis: str) -> str | None:
    """Return the name of the one-dimensional coordinate along an axis: standard name, then attributes, then name."""
    lines = [str(name) for name in obj.dims if name in obj.coords and obj[name].ndim == 1]
    for standard in STANDARD[axis]:
        found = [name for name in lines if obj[name].attrs.get("standard_name") == standard]
        if found:
            return found[0]
    found = [name for name in lines if name in _cf_names(obj, axis)]
    if found:
        return found[0]
    legal = Y_NAMES if axis == "y" else X_NAMES
    found = [name for name in lines if name.lower() in legal]
    return found[0] if found else None


def _cf_names(obj: XarrayObject, axis: str) -> list[str]:
    import cf_xarray  # noqa: F401 - registers .cf; late, since it doubles the time of a bare import

    cf = obj.cf
    word = "latitude" if axis == "y" else "longitude"
    return [*cf.coordinates.get(word, []), *cf.axes.get(axis.upper(), [])]


def _no_axes(obj: XarrayObject) -> str:
    mesh = _mesh(obj)
    if mesh is not None:
        what, cells = mesh
        rows = max(round((cells / 2) ** 0.5), 1)
        return (
            f"expected a grid of rows and columns, received {what}; bring it to one first, for a global one of that "
            f"resolution by: cdo remapcon,r{2 * rows}x{rows} in.nc out.nc"
        )
    has = ", ".join(f"{name} ({size})" for name, size in obj.sizes.items()) or "none"
    return (
        "expected horizontal coordinates (latitude and longitude, or projected x and y), received dimensions "
        f"{has}; rename them or set standard_name and units"
    )


def _mesh(obj: XarrayObject) -> tuple[str, int] | None:
    """Return the words for cells that are no rows and columns, and how many there are, or None."""
    every = {**dict(obj.coords), **(dict(obj.data_vars) if isinstance(obj, xr.Dataset) else {})}
    names = (("latitude", NORTH, (*LAT_NAMES, "clat", "latcell")), ("longitude", EAST, (*LON_NAMES, "clon", "loncell")))
    dims = [{str(v.dims[0]) for v in every.values() if v.ndim == 1 and _is_position(v, *words)} for words in names]
    shared = sorted((dims[0] & dims[1]) - {str(n) for n in obj.dims if n in obj.coords and n in LAT_NAMES})
    if any(v.attrs.get("grid_mapping_name") == "healpix" for v in every.values()):
        shared = shared or [str(max(obj.sizes, key=lambda dim: obj.sizes[dim]))]
        return f"a HEALPix grid ({obj.sizes[shared[0]]} cells along {shared[0]!r})", int(obj.sizes[shared[0]])
    if shared:
        return f"an unstructured mesh ({obj.sizes[shared[0]]} cells along {shared[0]!r})", int(obj.sizes[shared[0]])
    if any(v.attrs.get("cf_role") == "mesh_topology" or "mesh" in v.attrs for v in every.values()):
        size = max(obj.sizes.values(), default=1)
        return f"an unstructured mesh ({size} cells)", int(size)
    return None


def _kind(coordinate: xr.DataArray, axis: str) -> Kind:
    standard, units = coordinate.attrs.get("standard_name", ""), str(coordinate.attrs.get("units", "")).lower()
    if standard.startswith("projection_") or units in METRES:
        return "projected"
    if standard in STANDARD[axis] or units.startswith("degree"):
        return "latitude" if axis == "y" else "longitude"
    degrees = str(coordinate.name).lower() not in ("y", "x", "yc", "xc")
    return ("latitude" if axis == "y" else "longitude") if degrees else "projected"


def _metres(y: xr.DataArray, x: xr.DataArray) -> float:
    """Return the metres in the one unit of two projected coordinates; those that name none are in metres."""
    units = [str(coordinate.attrs.get("units") or "m") for coordinate in (y, x)]
    sizes = {METRES.get(unit.lower()) for unit in units}
    if len(sizes) > 1 or None in sizes:
        names = f"{y.name!r} and {x.name!r}"
        raise GridError(f"expected {names} both in m or both in km, received {listing(units)}; convert them first")
    return sizes.pop() or 1.0


def _cells(obj: XarrayObject, name: str, kind: Kind, unit: float, guess: bool) -> CellAxis:
    centres = np.asarray(obj[name].values)
    if centres.dtype.kind not in "fiu":
        raise GridError(f"coordinate {name!r}: expected numbers, received {centres.dtype}; convert it first")
    try:
        bounds = bounds_of(obj, name)
        if bounds is not None:
            return axis_from_bounds(bounds * unit, kind, centres * unit, name)
        axis = axis_from_centres(centres * unit, kind)
    except DownscaleError as error:
        raise type(error)(f"coordinate {name!r}: {error}") from None
    if not guess:
        require_known_cells(obj, name, centres, kind)
    return axis


def horizontal_variables(ds: xr.Dataset, where: Horizontal) -> list[str]:
    """Return the names of the numeric fields on both horizontal dimensions; cell areas belong to the grid."""
    both, areas = set(where.dims), {*area_names(ds), *plane_names(ds, where), *bounds_variables(ds)}
    names = [str(n) for n, v in ds.data_vars.items() if both <= set(v.dims) and v.dtype.kind in "fiub"]
    return [name for name in names if name not in areas]


def plane_names(obj: XarrayObject, where: Horizontal) -> list[str]:
    """Return the names of two-dimensional latitudes and longitudes, and of their bounds, that a new grid gets anew."""
    present = [name for name in where.planes or () if name in obj.coords or name in getattr(obj, "variables", ())]
    return [*present, *(bounds_name(obj, name) for name in present)]


def area_names(ds: xr.Dataset) -> list[str]:
    """Return the names of the data variables that hold cell areas, which a new grid has its own of."""
    return [str(n) for n, v in ds.data_vars.items() if n == AREA or v.attrs.get("standard_name") == "cell_area"]


def as_dataset(obj: Any) -> tuple[xr.Dataset, str | None]:
    """Return ``obj`` as a Dataset, and the name of its variable if it was a DataArray."""
    if isinstance(obj, xr.Dataset):
        return usable(obj), None
    if not isinstance(obj, xr.DataArray):
        raise InputError(f"expected an xarray Dataset or DataArray, received {type(obj).__name__}; open the file first")
    name = str(obj.name) if obj.name is not None and obj.name not in obj.coords else "field"
    return usable(obj.to_dataset(name=name)), name


def as_array(ds: xr.Dataset, name: str, like: XarrayObject) -> xr.DataArray:
    """Return one variable as a DataArray with the name of ``like``, which names no bounds: it cannot hold them."""
    return without_lost_bounds(ds[name].rename(like.name if isinstance(like, xr.DataArray) else name))


def parse_factor(factor: Any, where: Horizontal) -> tuple[int, int]:
    """Return the refinement of rows and columns from an int or a mapping of dimension to int.

    Raises
    ------
    ShapeError
        If it is not a whole number of at least 1, or names another dimension.
    """
    if not isinstance(factor, Mapping):
        return check_factor(factor), check_factor(factor)
    unknown = [name for name in factor if name not in where.dims]
    if unknown:
        raise ShapeError(f"expected factor for the dimensions {listing(where.dims)}, received {listing(unknown)}")
    return check_factor(factor.get(where.y, 1)), check_factor(factor.get(where.x, 1))
