"""Axes with bounds that are not horizontal (times and layers): reading, targets, writing.

The bounds define the cells of such an axis. Times without bounds are accepted if their stamps are unambiguous
(:func:`downscale.cf.dates.natural_edges`), layers without bounds never are. Times become seconds since the first edge,
in their own calendar; other coordinates keep their numbers and units.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.attributes import STALE_ATTRS
from downscale.cf.bounds import bounds_in, bounds_name, bounds_variables, lost_bounds, new_pair_dimension, read_bounds
from downscale.cf.dates import Clock, frequency_edges, is_time, natural_edges, pair_edges, values_of
from downscale.cf.quantities import cell_methods
from downscale.cf.units import convert, fits
from downscale.errors import DownscaleError, GridError, InputError, OptionError, listing
from downscale.grid.axis import CellAxis, axis_from_bounds

STALE = (*STALE_ATTRS, "climatology", "formula_terms")
PERIOD_METHODS = ("mean", "sum", "maximum", "minimum", "mid_range", "range", "median", "mode", "standard_deviation",
                  "variance")  # fmt: skip

# Labels, bounds and attributes of a coordinate.
Coordinate = tuple[NDArray[Any], NDArray[Any], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class BoundedAxis:
    """The cells along one dimension that is not horizontal."""

    dim: str
    name: str  # of the coordinate on the dimension whose bounds are the cells
    axis: CellAxis  # in seconds since ``clock.origin`` (time), or in ``units``
    clock: Clock | None = None  # None if the axis is not time
    units: str = ""  # of a coordinate that is not time
    coordinate: Coordinate | None = None  # of the target for these cells; None: midpoints, as in the source

    def refine(self, factor: int) -> BoundedAxis:
        """Return the axis with each cell cut into ``factor`` equal parts."""
        return self if factor == 1 else replace(self, axis=self.axis.refine(factor), coordinate=None)


def read_axis(ds: xr.Dataset, key: str, target: bool = False) -> BoundedAxis:
    """Return the cells along a dimension, or along the dimension of a one-dimensional coordinate.

    In a ``target``, daily stamps at midnight represent the day that begins.
    """
    dim, name = _find_coordinate(ds, key)
    variable = ds[name].variable
    metadata = {**variable.encoding, **variable.attrs}
    try:
        if is_time(variable):
            return _read_times(ds, dim, name, metadata, target)
        return _read_layers(ds, dim, name, metadata)
    except DownscaleError as error:
        raise type(error)(f"coordinate {name!r}: {error}") from None


def _find_coordinate(ds: xr.Dataset, key: str) -> tuple[str, str]:
    """Return the dimension and the coordinate of a key."""
    if key not in ds.dims:
        if key not in ds.coords or ds[key].ndim != 1:
            raise GridError(f"expected a dimension among {listing(ds.dims)}, received {key!r}")
        return str(ds[key].dims[0]), key
    has_coordinate = key in ds.coords
    if has_coordinate and (is_time(ds[key].variable) or _has_pairs(ds, key)):
        return key, key
    names_with_bounds = [str(n) for n in ds.coords if n != key and ds[n].dims == (key,) and _has_pairs(ds, str(n))]
    if len(names_with_bounds) > 1:
        raise GridError(
            f"expected one coordinate with bounds along {key!r}, received {listing(names_with_bounds)}; name one "
            "of them instead"
        )
    if not names_with_bounds and not has_coordinate:
        raise GridError(f"expected a coordinate with bounds along {key!r}, received none; assign one")
    return key, (names_with_bounds or [key])[0]


def _has_pairs(ds: xr.Dataset, name: str) -> bool:
    bounds = bounds_in(ds, name)
    return bounds is not None and ds[bounds].ndim > 1 and ds[name].dims[0] in ds[bounds].dims


def _read_times(ds: xr.Dataset, dim: str, name: str, metadata: dict[str, Any], target: bool) -> BoundedAxis:
    if "climatology" in metadata:
        raise GridError(
            f"expected periods that follow each other, received the climatology {metadata['climatology']!r}; give the "
            "months of one year as bounds instead"
        )
    dates, pairs = values_of(ds[name].variable), read_bounds(ds, name)
    if pairs is not None and pairs.dtype.kind not in "MO":
        raise GridError(f"expected dates as bounds, received {pairs.dtype}; name them in attribute bounds, then decode")
    clock = Clock.of(dates if pairs is None else pairs)
    stamps = clock.seconds(dates)
    if pairs is None:
        missing_bounds = lost_bounds(ds, name)
        fields = [v for v in ds.data_vars.values() if dim in v.dims and v.dtype.kind in "fiu"]
        are_means = all(set(methods_along(field, dim, name, "time")) & set(PERIOD_METHODS) for field in fields)
        edges = natural_edges(dates, clock, missing_bounds is None and (target or (bool(fields) and are_means)))
        # Stamps at an end may refer to the period before.
        is_central = edges is not None and (np.abs((stamps - edges[:-1]) / np.diff(edges) - 0.5) <= 0.25).all()
        if edges is None or (missing_bounds is not None and not is_central):
            first_dates = ", ".join(str(date) for date in dates[:3])
            bounds = "" if missing_bounds is None else f" {missing_bounds!r},"
            remedy = (
                f"add {name}_bnds, or cell_methods 'time: mean' to daily means, or ds.cf.add_bounds({name!r})"
                if missing_bounds is None
                else "pass the Dataset that has them (data_vars= chooses a field), or add them"
            )
            raise GridError(
                f"expected bounds of the time axis,{bounds} received none and {dates.size} stamps, {first_dates}..., "
                f"whose periods are not clear; {remedy}"
            )
    else:
        edges = pair_edges(pairs, clock)
        outside_rows = np.flatnonzero((stamps < edges[:-1]) | (stamps > edges[1:]))
        if outside_rows.size:
            row = int(outside_rows[0])
            raise GridError(
                f"expected bounds around their dates, received {pairs[row, 0]} to {pairs[row, 1]} for {dates[row]}; "
                "repair the bounds or drop them"
            )
    coordinate: Coordinate | None = (dates, clock.dates(_edge_pairs(edges)), {}) if target else None
    return BoundedAxis(dim, name, CellAxis(edges, "time"), clock, coordinate=coordinate)


def methods_along(variable: xr.DataArray, *names: str) -> list[str]:
    """Return the methods in ``cell_methods`` along an axis, in order.

    Examples
    --------
    >>> methods_along(xr.DataArray(0.0, attrs={"cell_methods": "time: lat: sum (interval: 1 day) lon: mean"}), "time")
    ['sum']
    """
    return [method for axes, method in cell_methods(variable) if axes & set(names)]


def _read_layers(ds: xr.Dataset, dim: str, name: str, metadata: dict[str, Any]) -> BoundedAxis:
    variable, units = ds[name], str(metadata.get("units") or "")
    if " since " in units:
        raise GridError(
            f"expected decoded dates, received numbers in {units!r}; open with decode_times=True, or call "
            "xarray.decode_cf(ds), after counting in days where the units are months or years"
        )
    if "formula_terms" in metadata:
        raise GridError(
            "expected layers of one thickness everywhere, received hybrid levels (formula_terms), whose thickness "
            "varies from place to place; interpolate to layers of pressure or height first"
        )
    if variable.dtype.kind not in "fiu":
        raise GridError(f"expected dates or numbers, received {variable.dtype}; choose an axis with bounds")
    pairs = read_bounds(ds, name)
    if pairs is None:
        # Pressures are much more often levels than layers.
        reason = "; values at levels are no means of layers" if units and fits(units, "Pa") else ""
        raise GridError(
            f"expected bounds of the axis, received none{reason}; give the edges of its layers as {name}_bnds (bounds)"
        )
    axis = axis_from_bounds(pairs, "vertical", variable.values, name)
    return BoundedAxis(dim, name, axis, None, units, (variable.values, pairs, dict(variable.attrs)))


def _edge_pairs(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([edges[:-1], edges[1:]], axis=1)


def target_axis(source: BoundedAxis, target: Any) -> BoundedAxis:
    """Return the cells of a target, in the seconds or units of the source.

    A target is a frequency such as "D" or "MS", an object with such an axis, its coordinate, or bounds of shape (n, 2).
    """
    if isinstance(target, str):
        if source.clock is None:
            raise OptionError(f"expected the cells of a target for {source.name!r}, received {target!r}; give bounds")
        span = float(source.axis.edges[0]), float(source.axis.edges[-1])
        return replace(source, axis=CellAxis(frequency_edges(source.clock, *span, target), "time"), coordinate=None)
    target_cells = _read_target(source, target)
    if (target_cells.clock is None) != (source.clock is None):
        kinds = ["a time" if cells.clock is not None else "an axis of numbers" for cells in (source, target_cells)]
        raise GridError(f"expected a target for {source.name!r} that is {kinds[0]}, received {kinds[1]}")
    if source.clock is None or target_cells.clock is None:
        return _convert_to_source(source, target_cells)
    adopt, coordinate = source.clock.adopt, target_cells.coordinate
    edges = source.clock.seconds(adopt(target_cells.clock.dates(target_cells.axis.edges)))
    return replace(
        source, axis=CellAxis(edges, "time"), coordinate=coordinate and (adopt(coordinate[0]), adopt(coordinate[1]), {})
    )


def _read_target(source: BoundedAxis, target: Any) -> BoundedAxis:
    """Return the axis of a target object."""
    if isinstance(target, xr.DataArray) and target.ndim == 1 and not set(target.dims) & set(target.coords):
        target = target.values
    if isinstance(target, xr.DataArray):
        target = target.coords.to_dataset()
    if isinstance(target, xr.Dataset):
        return read_axis(target, _find_axis(target, source), target=True)
    values = np.asarray(target)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 2) or not values.size:
        raise GridError(
            f"expected a target for {source.name!r} of n coordinates or of bounds (n, 2), received {values.shape}"
        )
    if values.ndim == 1:
        return read_axis(xr.Dataset(coords={source.name: (source.name, values)}), source.name, target=True)
    units = {"units": source.units} if source.units else {}
    attrs = {**units, "bounds": "cells"}
    labels = values[:, 0] if values.dtype.kind in "MO" else np.asarray(values, dtype=np.float64).mean(axis=1)
    dataset = xr.Dataset(coords={source.name: (source.name, labels, attrs), "cells": ((source.name, "bnds"), values)})
    return replace(read_axis(dataset, source.name, target=True), coordinate=None)


def _find_axis(target: xr.Dataset, source: BoundedAxis) -> str:
    """Return the matching axis of a target: by name, else its only time or its only coordinate with bounds."""
    for name in (source.name, source.dim):
        if name in target.coords and target[name].ndim == 1:
            return name
    coordinates = [str(n) for n in target.coords if target[n].ndim == 1]
    if source.clock is not None:
        matching = [name for name in coordinates if is_time(target[name].variable)]
    else:
        matching = [name for name in coordinates if target[name].dtype.kind in "fiu" and _has_pairs(target, name)]
    if len(matching) != 1:
        raise GridError(
            f"expected a target with an axis {source.name!r}, received {listing(coordinates) or 'none'}; rename it"
        )
    return matching[0]


def _convert_to_source(source: BoundedAxis, target_cells: BoundedAxis) -> BoundedAxis:
    """Return target layers in the units of the source; the written coordinate keeps the target's units."""
    directions = [axis.coordinate[2].get("positive") if axis.coordinate else None for axis in (source, target_cells)]
    if None not in directions and directions[0] != directions[1]:
        raise GridError(
            f"expected a target for {source.name!r} that counts {directions[0]}, received one that counts "
            f"{directions[1]} (positive); turn its sign"
        )
    edges = target_cells.axis.edges
    if target_cells.units != source.units:
        zero, one = (convert(value, target_cells.units, source.units) for value in (0.0, 1.0))
        if not target_cells.units or not source.units or zero is None or one is None:
            raise GridError(
                f"expected a target for {source.name!r} in units that fit {source.units or 'none'!r}, received "
                f"{target_cells.units or 'none'!r}; convert it, or set the attribute units"
            )
        edges = zero + edges * (one - zero)
    return replace(source, axis=CellAxis(edges, "vertical"), coordinate=target_cells.coordinate)


def new_axis_coordinates(ds: xr.Dataset, source: BoundedAxis, target: BoundedAxis) -> dict[Hashable, xr.Variable]:
    """Return coordinate and bounds of new cells in the names, type and calendar of the source.

    Times keep their units, except units without a fixed length (months, years).
    """
    old, bounds, corner = ds[source.name], bounds_name(ds, source.name), new_pair_dimension(ds, source.name)
    labels, pairs, attrs = target.coordinate or (target.axis.centres, _edge_pairs(target.axis.edges), {})
    if target.coordinate is None and target.clock is not None:
        labels, pairs = target.clock.dates(labels), target.clock.dates(pairs)
    if target.coordinate is None and target is source:
        # Unchanged cells keep their stamps.
        labels = values_of(old.variable)
    attrs = {key: value for key, value in {**old.attrs, **attrs, "bounds": bounds}.items() if key not in STALE}
    encoding: dict[str, Any] = {}
    if target.clock is not None:
        encoding = {key: old.encoding[key] for key in ("units", "calendar") if key in old.encoding}
        if "units" in encoding:
            # Fine stamps are seldom whole days.
            days = re.sub(r"^\s*(?:months?|years?|common_years?)\b", "days", str(encoding["units"]))
            encoding |= {"units": days, "dtype": np.dtype("f8")}
    return {
        source.name: xr.Variable(source.dim, labels, attrs, encoding),
        bounds: xr.Variable((source.dim, corner), pairs, None, encoding),
    }


def split_coordinates(ds: xr.Dataset, axis: BoundedAxis) -> tuple[dict[Hashable, xr.Variable], list[str]]:
    """Return the coordinates that are not on a dimension, and the names of those on it, which are lost."""
    axis_names = {axis.name, bounds_name(ds, axis.name)}
    coords = {name: coord.variable.copy(deep=False) for name, coord in ds.coords.items() if axis.dim not in coord.dims}
    return coords, [str(name) for name, coord in ds.coords.items() if axis.dim in coord.dims and name not in axis_names]


def require_variables(ds: xr.Dataset, axis: BoundedAxis, data_vars: Any) -> list[str]:
    """Return the names of the fields along a dimension, or of the ``data_vars`` ones."""
    bounds = bounds_variables(ds)
    fields = [str(n) for n, v in ds.data_vars.items() if axis.dim in v.dims and v.dtype.kind in "fiub"]
    legal = [name for name in fields if name not in bounds]
    names = legal if data_vars is None else [data_vars] if isinstance(data_vars, str) else list(data_vars)
    unknown = [name for name in names if name not in ds.data_vars]
    names = [name for name in names if name in legal]
    if unknown or not names:
        raise InputError(
            f"expected a numeric variable with dimension {axis.dim!r}, received "
            f"{listing(unknown or ds.data_vars) or 'no variables'}"
        )
    return names
