"""Bounds of coordinates: detection, reading, and errors if they are lost.

The pair, or the corners of a cell, may be along any dimension of any name. Dimensions along which bounds are only
repeated, as after ``resample``, ``concat`` and ``where``, are dropped; bounds that change along them are refused.

A DataArray cannot hold bounds, and a selection by name drops them, but the coordinate still names them. The cells are
then known only for evenly spaced centres, whose edges are midway in every convention. Such axes are accepted silently:
``ds.tas.downscale(4)`` on a regular grid has the cells of ``ds.downscale(4)``. On all others (Gaussian latitudes,
stretched axes, curvilinear grids) midpoints are one guess among several, and the object is refused. Objects that name
no bounds always have edges midway between centres.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.dates import values_of
from downscale.cf.units import convert, size_in
from downscale.errors import GridError
from downscale.grid.axis import STORAGE_ROUNDING, Kind, is_evenly_spaced

XarrayObject = xr.Dataset | xr.DataArray

# Fallback names for coordinates whose named bounds do not exist.
CUSTOMARY = ("{}_bnds", "{}_bounds")
# Names for the dimension of the pair; the first unused one is taken.
PAIR_NAMES = ("bnds", "nv", "bounds_pair")
# Repeated bounds with more values than this are compared by samples.
MOST_VALUES = 20_000_000


def variables_of(obj: XarrayObject) -> Any:
    """Return every variable of an object by name."""
    return obj.variables if isinstance(obj, xr.Dataset) else obj.coords


def bounds_attribute(variable: Any) -> str | None:
    """Return the name of the bounds in the attributes of a coordinate."""
    values = (attrs.get("bounds") for attrs in (variable.attrs, variable.encoding))
    return next((text.strip() for text in values if isinstance(text, str) and text.strip()), None)


def bounds_in(obj: XarrayObject, name: str) -> str | None:
    """Return the name of the bounds of a coordinate if the object holds them."""
    keys = (bounds_attribute(obj[name]), *(pattern.format(name) for pattern in CUSTOMARY))
    return next((key for key in keys if key is not None and key in variables_of(obj)), None)


def bounds_name(obj: XarrayObject, name: str) -> str:
    """Return the name of the bounds variable of a coordinate, or the name that it should have."""
    return bounds_in(obj, name) or bounds_attribute(obj[name]) or CUSTOMARY[0].format(name)


def lost_bounds(obj: XarrayObject, name: str) -> str | None:
    """Return the name of bounds that a coordinate names but the object does not hold.

    Examples
    --------
    >>> lat = xr.Variable("lat", [0.0, 1.0, 3.0], {"bounds": "edges"})
    >>> lost_bounds(xr.Dataset({"tas": ("lat", [1.0, 2.0, 3.0])}, {"lat": lat}), "lat")
    'edges'
    """
    return bounds_attribute(obj[name]) if bounds_in(obj, name) is None else None


def bounds_variables(ds: xr.Dataset) -> set[str]:
    """Return the names of all variables that are bounds of another."""
    bounds_names = {str(attrs.get(key)).strip() for variable in ds.variables.values()
             for attrs in (variable.attrs, variable.encoding) for key in ("bounds", "climatology")}  # fmt: skip
    return {str(n) for n in ds.variables if n in bounds_names or (str(n).endswith("_bnds") and n in ds.data_vars)}


def corner_dimension(obj: XarrayObject, name: str) -> str | None:
    """Return the dimension of the pair or the corners in the bounds of a coordinate, or None without bounds."""
    bounds, coordinate_dims = bounds_in(obj, name), obj[name].dims
    extra = [] if bounds is None else [str(dim) for dim in obj[bounds].dims if dim not in coordinate_dims]
    if len(extra) < 2:
        return extra[0] if extra else None
    size, other_dims = 2 if len(coordinate_dims) < 2 else 4, _dimensions_of_fields(obj)
    # The last of the best: of the right size, and used by no field.
    return max(reversed(extra), key=lambda dim: (obj[bounds].sizes[dim] == size, dim not in other_dims))


def _dimensions_of_fields(obj: XarrayObject) -> set[str]:
    """Return the dimensions of everything but bounds."""
    if isinstance(obj, xr.DataArray):
        return {str(dim) for dim in obj.dims}
    bounds = bounds_variables(obj)
    return {str(dim) for name, variable in obj.variables.items() if name not in bounds for dim in variable.dims}


def new_pair_dimension(obj: XarrayObject, name: str) -> str:
    """Return a dimension for the pair of new bounds of a coordinate: its own, or one that no field uses."""
    used_dims, corner = _dimensions_of_fields(obj), corner_dimension(obj, name)
    if corner is not None and corner not in used_dims and obj[bounds_name(obj, name)].sizes[corner] == 2:
        return corner
    free = (dim for dim in PAIR_NAMES if dim not in used_dims and obj.sizes.get(dim, 2) == 2)
    return next(free, f"{name}_pair")


def read_bounds(obj: XarrayObject, name: str) -> NDArray[Any] | None:
    """Return the bounds of a coordinate in its units, shape (n, 2) or (n_y, n_x, corners), or None if there are none.

    They are numbers or dates, NaN where missing; dimensions of the coordinate come first, in its order.
    """
    bounds = bounds_in(obj, name)
    if bounds is None:
        return None
    dims = [str(dim) for dim in obj[name].dims]
    variable, corner = obj[bounds].variable, corner_dimension(obj, name)
    if corner is None or not set(dims) <= set(variable.dims):
        shape = "(n, 2)" if len(dims) < 2 else "(n_y, n_x, 4)"
        raise GridError(f"expected bounds of shape {shape}, received {bounds} with dimensions {variable.dims}; drop it")
    values = _drop_repeats(variable.transpose(..., *dims, corner), len(dims) + 1, bounds)
    return _convert_to_coordinate(values, variable, obj[name].variable, bounds)


def _drop_repeats(variable: xr.Variable, dim_count: int, label: str) -> NDArray[Any]:
    """Return values without the first dimensions, along which they must not change; missing values are ignored."""
    extra = [str(dim) for dim in variable.dims[: variable.ndim - dim_count]]
    if not extra:
        return values_of(variable)
    places = max(MOST_VALUES // max(int(np.prod(variable.shape[len(extra) :])), 1), 1)
    samples = max(int(places ** (1 / len(extra))), 2)
    rows = {dim: np.unique(np.linspace(0, variable.sizes[dim] - 1, samples).astype(int)) for dim in extra
            if variable.sizes[dim] > samples}  # fmt: skip
    values = values_of(variable.isel(rows))
    flat = values.reshape(-1, *values.shape[len(extra) :])
    if not len(flat):
        raise GridError(f"expected bounds, received {label} without values along {extra[0]!r}")
    is_missing = xr.DataArray(flat).isnull().values
    first = np.take_along_axis(flat, is_missing.argmin(axis=0)[None], axis=0)[0]
    if values.dtype.kind == "f":
        # Means of repeated values differ from them by rounding.
        largest = np.nanmax(np.abs(first)) if np.isfinite(first).any() else 0.0
        differs = np.abs(flat - first) > STORAGE_ROUNDING * largest
    else:
        differs = flat != first
    differs &= ~is_missing
    if differs.any():
        place = tuple(int(i) for i in np.argwhere(differs)[0])
        raise GridError(
            f"expected the same bounds all along {' and '.join(map(repr, extra))}, received "
            f"{label} that change from {first[place[1:]]} to {flat[place]}; select one, such as ds.isel({extra[0]}=0)"
        )
    return np.asarray(first)


def _convert_to_coordinate(
    values: NDArray[Any], bounds: xr.Variable, coordinate: xr.Variable, label: str
) -> NDArray[Any]:
    """Return bounds in the units of their coordinate, which they have unless they have their own units."""
    units = [str(variable.attrs.get("units") or "").strip() for variable in (bounds, coordinate)]
    are_numbers = values.dtype.kind in "fiu" and " since " not in "".join(units)
    if not are_numbers or not all(units) or units[0].lower() == units[1].lower():
        return values
    angles = [size_in(text, "degree", rare=False) for text in units]
    if angles[0] and angles[1]:
        return values if angles[0] == angles[1] else np.asarray(values * (angles[0] / angles[1]))
    zero, one = (None if any(angles) else convert(value, *units) for value in (0.0, 1.0))
    if zero is None or one is None:
        raise GridError(
            f"expected bounds in {units[1]!r} or units that fit, received {label} in {units[0]!r}; "
            "convert them, or delete their attribute units"
        )
    return values if (zero, one) == (0.0, 1.0) else np.asarray(zero + values * (one - zero))


def bounds_of(obj: XarrayObject, name: str) -> NDArray[np.float64] | None:
    """Return the bounds of a one-dimensional coordinate as numbers, shape (n, 2), or None if there are none.

    Rows without bounds, as after ``where``, get edges midway between evenly spaced centres, with a warning.
    """
    values = read_bounds(obj, name)
    if values is None:
        return None
    if values.dtype.kind not in "fiub":
        raise GridError(f"expected bounds as numbers, received {values.dtype}; convert them first")
    pairs = np.asarray(values, dtype=np.float64)
    is_blank = np.isnan(pairs).all(axis=1)
    if not is_blank.any():
        return pairs
    centres = np.asarray(values_of(obj[name].variable), dtype=np.float64)
    kind: Kind = "longitude" if size_in(str(obj[name].attrs.get("units") or ""), "degree", False) else "projected"
    rows = np.flatnonzero(is_blank)
    if not is_evenly_spaced(centres, kind):
        if is_blank.all():
            return None
        bounds = bounds_name(obj, name)
        raise GridError(
            f"expected bounds of every row, received {bounds} without those of {rows.size} rows (the first is row "
            f"{rows[0]}), as where() leaves them; take {bounds} from the object before"
        )
    step = float(np.median(np.diff(centres)))
    pairs[is_blank] = centres[is_blank, None] + step * np.array([-0.5, 0.5])
    warnings.warn(
        f"coordinate {name!r}: no bounds of {rows.size} rows (the first is row {rows[0]}); their edges are put midway "
        "between centres, which are evenly spaced",
        UserWarning, stacklevel=2,
    )  # fmt: skip
    return pairs


def plain_bounds(ds: xr.Dataset, name: str) -> xr.Variable | None:
    """Return the bounds of a coordinate as CF requires in files, or None if they already are or are not usable.

    The pair is the last dimension, nothing is repeated, and the units are those of the coordinate.
    """
    key, corner = bounds_in(ds, name), corner_dimension(ds, name)
    if key is None or corner is None:
        return None
    bounds, dims = ds[key].variable, (*ds[name].dims, corner)
    if bounds.dims == dims and "units" not in bounds.attrs:
        return None
    try:
        values = read_bounds(ds, name)
    except GridError:
        return None
    return xr.Variable(dims, values, encoding=bounds.encoding)


def unknown_cells_reason(obj: XarrayObject, name: str, centres: NDArray[np.float64], kind: Kind) -> str:
    """Return why the cells of an axis without values of its bounds are not known, or "" if they are."""
    bounds = bounds_in(obj, name) or bounds_attribute(obj[name])
    return (
        "" if bounds is None or is_evenly_spaced(centres, kind) else _lost_bounds_reason(name, bounds, "uneven steps")
    )


def unknown_corners_reason(obj: XarrayObject, names: tuple[str, str]) -> str:
    """Return why the corners of two-dimensional positions are not known, or "" if they name no bounds."""
    for name in names:
        bounds = lost_bounds(obj, name)
        if bounds is not None:
            return _lost_bounds_reason(name, bounds, "two-dimensional positions")
    return ""


def require_known(reason: str) -> None:
    """Raise a GridError if there is a reason why cells are not known."""
    if reason:
        raise GridError(reason)


def _lost_bounds_reason(name: str, bounds: str, purpose: str) -> str:
    return (
        f"coordinate {name!r}: expected its bounds {bounds!r} for {purpose}, received none; pass the Dataset that has "
        "them (data_vars= chooses a field), or delete the attribute bounds to take cells midway between centres"
    )


def corners_of(
    obj: XarrayObject, names: tuple[str, str], dims: tuple[str, str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the bounds of two-dimensional latitudes and longitudes, shapes (n_y, n_x, corners), or None."""
    corners = [read_bounds(obj, name) for name in names]
    if corners[0] is None and corners[1] is None:
        return None
    if corners[0] is None or corners[1] is None:
        present = names[0] if corners[0] is not None else names[1]
        raise GridError(f"expected bounds of both, received those of {present!r} only; add the others, or drop these")
    orders = [[obj[name].dims.index(dim) for dim in dims] for name in names]
    lat, lon = (np.asarray(values.transpose(*order, 2), dtype=np.float64)
                for values, order in zip(corners, orders, strict=True) if values is not None)  # fmt: skip
    return lat, lon


def without_lost_bounds(array: xr.DataArray) -> xr.DataArray:
    """Return an array whose coordinates name only bounds that it holds; the input is not modified."""
    coordinates = {}
    for name in [name for name in array.coords if lost_bounds(array, str(name)) is not None]:
        coordinates[name] = variable = array[name].variable.copy(deep=False)
        for attrs in (variable.attrs, variable.encoding):
            attrs.pop("bounds", None)
    return array.assign_coords(coordinates) if coordinates else array
