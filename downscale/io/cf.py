"""What CF metadata says of a field: horizontal axes, bounds, cell methods (xarray; never torch).

Axes are found by cf-xarray (attributes first, then common names); bounds are read, never guessed, and where there are
none the edges lie midway between centres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from downscale.errors import DownscaleError, GridError, InputError, ShapeError, listing
from downscale.grid.axis import CellAxis, Kind, axis_from_bounds, axis_from_centres, check_factor, draw_to_poles
from downscale.grid.latlon import RectilinearGrid

XarrayObject = xr.Dataset | xr.DataArray

# Names of last resort, for files whose axes carry no attributes.
Y_NAMES = ("lat", "latitude", "nav_lat", "rlat", "grid_latitude", "y", "yc", "projection_y_coordinate")
X_NAMES = ("lon", "longitude", "long", "nav_lon", "rlon", "grid_longitude", "x", "xc", "projection_x_coordinate")
STANDARD = {
    "y": ("latitude", "grid_latitude", "projection_y_coordinate"),
    "x": ("longitude", "grid_longitude", "projection_x_coordinate"),
}
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
        Names of the dimensions (and of their coordinates).
    grid : RectilinearGrid
        Cells in the order of the object, in degrees or metres.
    unit : float
        Metres in one unit of a projected coordinate; 1 for degrees.
    """

    y: str
    x: str
    grid: RectilinearGrid
    unit: float = 1.0

    @property
    def dims(self) -> tuple[str, str]:
        """Names of the row and column dimension."""
        return self.y, self.x


def horizontal(obj: XarrayObject) -> Horizontal:
    """Find the horizontal axes of a Dataset or DataArray and read their cells.

    Raises
    ------
    GridError
        If there are none, they are two-dimensional, or their coordinates are not usable; the line names the axis.
    """
    y, x = _axis_name(obj, "y"), _axis_name(obj, "x")
    if y is None or x is None:
        raise GridError(_no_axes(obj))
    y_kind, x_kind = _kind(obj[y], "y"), _kind(obj[x], "x")
    unit = _metres(obj[y], obj[x]) if y_kind == x_kind == "projected" else 1.0
    y_axis = _cells(obj, y, y_kind, unit)
    x_axis = _cells(obj, x, x_kind, unit)
    if x_axis.periodic and bounds_of(obj, y) is None:
        y_axis = draw_to_poles(y_axis)
    return Horizontal(y, x, RectilinearGrid(y_axis, x_axis), unit)


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
    two_d = [str(n) for n in obj.coords if obj[n].ndim == 2 and str(n).lower() in (*Y_NAMES, *X_NAMES)]
    has = ", ".join(f"{name} ({size})" for name, size in obj.sizes.items()) or "none"
    if two_d:
        return (
            f"expected one-dimensional latitude and longitude, received two-dimensional {', '.join(two_d)}; "
            "regrid to a rectilinear grid first, or give the projected x and y as coordinates"
        )
    return (
        "expected horizontal coordinates (latitude and longitude, or projected x and y), received dimensions "
        f"{has}; rename them or set standard_name and units"
    )


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


def bounds_name(obj: XarrayObject, name: str) -> str:
    """Return the name of the bounds variable of a coordinate, as given or as it should be."""
    coordinate = obj[name]
    return str(coordinate.attrs.get("bounds") or coordinate.encoding.get("bounds") or f"{name}_bnds")


def bounds_of(obj: XarrayObject, name: str) -> np.ndarray[Any, Any] | None:
    """Return the bounds of a coordinate, shape (n, 2), or None where the object holds none."""
    variable = bounds_name(obj, name)
    present = variable in obj.coords or (isinstance(obj, xr.Dataset) and variable in obj.variables)
    if not present or obj[variable].ndim != 2:
        return None
    # A few numbers of a coordinate: read here and now, even where they came as a lazy array, and on no cluster.
    bounds = obj[variable].transpose(name, ...).compute(scheduler="synchronous")
    return np.asarray(bounds.values, dtype=np.float64)


def _cells(obj: XarrayObject, name: str, kind: Kind, unit: float) -> CellAxis:
    centres = np.asarray(obj[name].values)
    if centres.dtype.kind not in "fiu":
        raise GridError(f"coordinate {name!r}: expected numbers, received {centres.dtype}; convert it first")
    bounds = bounds_of(obj, name)
    try:
        if bounds is not None:
            return axis_from_bounds(bounds * unit, kind, centres * unit)
        return axis_from_centres(centres * unit, kind)
    except DownscaleError as error:
        raise type(error)(f"coordinate {name!r}: {error}") from None


def horizontal_variables(ds: xr.Dataset, where: Horizontal) -> list[str]:
    """Return the names of the numeric fields on both horizontal dimensions; cell areas belong to the grid."""
    both, areas = set(where.dims), set(area_names(ds))
    names = [str(n) for n, v in ds.data_vars.items() if both <= set(v.dims) and v.dtype.kind in "fiub"]
    return [name for name in names if name not in areas]


def area_names(ds: xr.Dataset) -> list[str]:
    """Return the names of the data variables that hold cell areas, which a new grid has its own of."""
    return [str(n) for n, v in ds.data_vars.items() if n == AREA or v.attrs.get("standard_name") == "cell_area"]


def is_categorical(variable: xr.DataArray) -> bool:
    """Return whether values are codes, which must never be averaged."""
    return variable.dtype.kind == "b" or bool({"flag_values", "flag_masks", "flag_meanings"} & set(variable.attrs))


def quantity_of(variable: xr.DataArray) -> str:
    """Return "extensive" where ``cell_methods`` says that values are sums over area, else "intensive".

    Examples
    --------
    >>> quantity_of(xr.DataArray(0.0, attrs={"cell_methods": "time: mean area: sum"}))
    'extensive'
    """
    words = str(variable.attrs.get("cell_methods", "")).split()
    return "extensive" if any(pair == ("area:", "sum") for pair in pairwise(words)) else "intensive"


def as_dataset(obj: Any) -> tuple[xr.Dataset, str | None]:
    """Return ``obj`` as a Dataset, and the name of its variable if it was a DataArray."""
    if isinstance(obj, xr.Dataset):
        return obj, None
    if not isinstance(obj, xr.DataArray):
        raise InputError(f"expected an xarray Dataset or DataArray, received {type(obj).__name__}; open the file first")
    name = str(obj.name) if obj.name is not None and obj.name not in obj.coords else "field"
    return obj.to_dataset(name=name), name


def as_array(ds: xr.Dataset, name: str, like: XarrayObject) -> xr.DataArray:
    """Return one variable as a DataArray with the name of ``like``."""
    return ds[name].rename(like.name if isinstance(like, xr.DataArray) else name)


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
