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
Stored = tuple[NDArray[Any], NDArray[Any], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class BoundedAxis:
    """The cells along one dimension that is not horizontal."""

    dim: str
    name: str  # of the coordinate on the dimension whose bounds are the cells
    axis: CellAxis  # in seconds since ``clock.origin`` (time), or in ``units``
    clock: Clock | None = None  # None if the axis is not time
    units: str = ""  # of a coordinate that is not time
    stored: Stored | None = None  # the target's own coordinate for these cells; None: midpoints, as in the source

    def refine(self, factor: int) -> BoundedAxis:
        """Return the axis with each cell cut into ``factor`` equal parts."""
        return self if factor == 1 else replace(self, axis=self.axis.refine(factor), stored=None)


def read_axis(ds: xr.Dataset, key: str, target: bool = False) -> BoundedAxis:
    """Return the cells along a dimension, or along the dimension of a one-dimensional coordinate.

    In a ``target``, daily stamps at midnight represent the day that begins.
    """
    dim, name = _coordinate(ds, key)
    variable = ds[name].variable
    metadata = {**variable.encoding, **variable.attrs}
    try:
        if is_time(variable):
            return _read_times(ds, dim, name, metadata, target)
        return _read_layers(ds, dim, name, metadata)
    except DownscaleError as error:
        raise type(error)(f"coordinate {name!r}: {error}") from None


def _coordinate(ds: xr.Dataset, key: str) -> tuple[str, str]:
    """Return the dimension and the coordinate of a key."""
    if key not in ds.dims:
        if key not in ds.coords or ds[key].ndim != 1:
            raise GridError(f"expected a dimension among {listing(ds.dims)}, received {key!r}")
        return str(ds[key].dims[0]), key
    has_coordinate = key in ds.coords
    if has_coordinate and (is_time(ds[key].variable) or _has_pairs(ds, key)):
        return key, key
    bounded = [str(n) for n in ds.coords if n != key and ds[n].dims == (key,) and _has_pairs(ds, str(n))]
    if len(bounded) > 1:
        raise GridError(
            f"expected one coordinate with bounds along {key!r}, received {listing(bounded)}; name one of them instead"
        )
    if not bounded and not has_coordinate:
        raise GridError(f"expected a coordinate with bounds along {key!r}, received none; assign one")
    return key, (bounded or [key])[0]


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
    stored: Stored | None = (dates, clock.dates(_edge_pairs(edges)), {}) if target else None
    return BoundedAxis(dim, name, CellAxis(edges, "time"), clock, stored=stored)


def methods_along(variable: xr.DataArray, *names: str) -> list[str]:
    """Return the methods in ``cell_methods`` along an axis, in order.

    Examples
    --------
    >>> methods_along(xr.DataArray(0.0, attrs={"cell_methods": "time: lat: sum (interval: 1 day) lon: mean"}), "time")
    ['sum']
    """
    return [method for axes, method in cell_methods(variable) if axes & set(names)]


def _read_layers(ds: xr.Dataset, dim: str, name: str, metadata: dict[str, Any]) -> BoundedAxis:
    coordinate, units = ds[name], str(metadata.get("units") or "")
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
    if coordinate.dtype.kind not in "fiu":
        raise GridError(f"expected dates or numbers, received {coordinate.dtype}; choose an axis with bounds")
    pairs = read_bounds(ds, name)
    if pairs is None:
        # Pressures are much more often levels than layers.
        reason = "; values at levels are no means of layers" if units and fits(units, "Pa") else ""
        raise GridError(
            f"expected bounds of the axis, received none{reason}; give the edges of its layers as {name}_bnds (bounds)"
        )
    stored: Stored = coordinate.values, pairs, dict(coordinate.attrs)
    return BoundedAxis(dim, name, axis_from_bounds(pairs, "vertical", coordinate.values, name), None, units, stored)


def _edge_pairs(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([edges[:-1], edges[1:]], axis=1)


def target_axis(line: BoundedAxis, target: Any) -> BoundedAxis:
    """Return the cells of a target, in the seconds or units of the source.

    A target is a frequency such as "D" or "MS", an object with such an axis, its coordinate, or bounds of shape (n, 2).
    """
    if isinstance(target, str):
        if line.clock is None:
            raise OptionError(f"expected the cells of a target for {line.name!r}, received {target!r}; give bounds")
        span = float(line.axis.edges[0]), float(line.axis.edges[-1])
        return replace(line, axis=CellAxis(frequency_edges(line.clock, *span, target), "time"), stored=None)
    found = _target_of(line, target)
    if (found.clock is None) != (line.clock is None):
        kinds = ["a time" if cells.clock is not None else "an axis of numbers" for cells in (line, found)]
        raise GridError(f"expected a target for {line.name!r} that is {kinds[0]}, received {kinds[1]}")
    if line.clock is None or found.clock is None:
        return _in_units_of(line, found)
    adopt, stored = line.clock.adopt, found.stored
    edges = line.clock.seconds(adopt(found.clock.dates(found.axis.edges)))
    return replace(line, axis=CellAxis(edges, "time"), stored=stored and (adopt(stored[0]), adopt(stored[1]), {}))


def _target_of(line: BoundedAxis, target: Any) -> BoundedAxis:
    """Return the axis of a target object."""
    if isinstance(target, xr.DataArray) and target.ndim == 1 and not set(target.dims) & set(target.coords):
        target = target.values
    if isinstance(target, xr.DataArray):
        target = target.coords.to_dataset()
    if isinstance(target, xr.Dataset):
        return read_axis(target, _axis_in(target, line), target=True)
    values = np.asarray(target)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 2) or not values.size:
        raise GridError(
            f"expected a target for {line.name!r} of n coordinates or of bounds (n, 2), received {values.shape}"
        )
    if values.ndim == 1:
        return read_axis(xr.Dataset(coords={line.name: (line.name, values)}), line.name, target=True)
    units = {"units": line.units} if line.units else {}
    attrs = {**units, "bounds": "cells"}
    labels = values[:, 0] if values.dtype.kind in "MO" else np.asarray(values, dtype=np.float64).mean(axis=1)
    dataset = xr.Dataset(coords={line.name: (line.name, labels, attrs), "cells": ((line.name, "bnds"), values)})
    return replace(read_axis(dataset, line.name, target=True), stored=None)


def _axis_in(target: xr.Dataset, line: BoundedAxis) -> str:
    """Return the matching axis of a target: by name, else its only time or its only coordinate with bounds."""
    for name in (line.name, line.dim):
        if name in target.coords and target[name].ndim == 1:
            return name
    lines = [str(n) for n in target.coords if target[n].ndim == 1]
    if line.clock is not None:
        matching = [name for name in lines if is_time(target[name].variable)]
    else:
        matching = [name for name in lines if target[name].dtype.kind in "fiu" and _has_pairs(target, name)]
    if len(matching) != 1:
        raise GridError(f"expected a target with an axis {line.name!r}, received {listing(lines) or 'none'}; rename it")
    return matching[0]


def _in_units_of(line: BoundedAxis, found: BoundedAxis) -> BoundedAxis:
    """Return target layers in the units of the source; the written coordinate keeps the target's units."""
    directions = [axis.stored[2].get("positive") if axis.stored else None for axis in (line, found)]
    if None not in directions and directions[0] != directions[1]:
        raise GridError(
            f"expected a target for {line.name!r} that counts {directions[0]}, received one that counts "
            f"{directions[1]} (positive); turn its sign"
        )
    edges = found.axis.edges
    if found.units != line.units:
        zero, one = (convert(value, found.units, line.units) for value in (0.0, 1.0))
        if not found.units or not line.units or zero is None or one is None:
            raise GridError(
                f"expected a target for {line.name!r} in units that fit {line.units or 'none'!r}, received "
                f"{found.units or 'none'!r}; convert it, or set the attribute units"
            )
        edges = zero + edges * (one - zero)
    return replace(line, axis=CellAxis(edges, "vertical"), stored=found.stored)


def new_axis_coordinates(ds: xr.Dataset, source: BoundedAxis, line: BoundedAxis) -> dict[Hashable, xr.Variable]:
    """Return coordinate and bounds of new cells in the names, type and calendar of the source.

    Times keep their units, except units without a fixed length (months, years).
    """
    old, bounds, corner = ds[source.name], bounds_name(ds, source.name), new_pair_dimension(ds, source.name)
    labels, pairs, attrs = line.stored or (line.axis.centres, _edge_pairs(line.axis.edges), {})
    if line.stored is None and line.clock is not None:
        labels, pairs = line.clock.dates(labels), line.clock.dates(pairs)
    if line.stored is None and line is source:
        # Unchanged cells keep their stamps.
        labels = values_of(old.variable)
    attrs = {key: value for key, value in {**old.attrs, **attrs, "bounds": bounds}.items() if key not in STALE}
    encoding: dict[str, Any] = {}
    if line.clock is not None:
        encoding = {key: old.encoding[key] for key in ("units", "calendar") if key in old.encoding}
        if "units" in encoding:
            # Fine stamps are seldom whole days.
            days = re.sub(r"^\s*(?:months?|years?|common_years?)\b", "days", str(encoding["units"]))
            encoding |= {"units": days, "dtype": np.dtype("f8")}
    return {
        source.name: xr.Variable(source.dim, labels, attrs, encoding),
        bounds: xr.Variable((source.dim, corner), pairs, None, encoding),
    }


def split_coordinates(ds: xr.Dataset, line: BoundedAxis) -> tuple[dict[Hashable, xr.Variable], list[str]]:
    """Return the coordinates that are not on a dimension, and the names of those on it, which are lost."""
    line_names = {line.name, bounds_name(ds, line.name)}
    coords = {name: coord.variable.copy(deep=False) for name, coord in ds.coords.items() if line.dim not in coord.dims}
    return coords, [str(name) for name, coord in ds.coords.items() if line.dim in coord.dims and name not in line_names]


def require_variables(ds: xr.Dataset, line: BoundedAxis, wanted: Any) -> list[str]:
    """Return the names of the fields along a dimension, or of the ``wanted`` ones."""
    bounds = bounds_variables(ds)
    fields = [str(n) for n, v in ds.data_vars.items() if line.dim in v.dims and v.dtype.kind in "fiub"]
    legal = [name for name in fields if name not in bounds]
    names = legal if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [name for name in names if name not in ds.data_vars]
    names = [name for name in names if name in legal]
    if unknown or not names:
        raise InputError(
            f"expected a numeric variable with dimension {line.dim!r}, received "
            f"{listing(unknown or ds.data_vars) or 'no variables'}"
        )
    return names
