"""Fields as values on cells for drawing; knows grids and xarray, no figure and no projection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.errors import InputError, OptionError, listing
from downscale.grid.axis import CellAxis
from downscale.io.cf import Horizontal, XarrayObject, horizontal, horizontal_variables

Array = NDArray[np.float64]

MOST_CELLS = 1600  # along one axis of a panel of some 600 pixels


@dataclass(frozen=True)
class Cells:
    """A horizontal field on ascending axes: values of shape (y, x), missing ones NaN."""

    values: Array
    y: CellAxis
    x: CellAxis

    def at(self, y: CellAxis, x: CellAxis) -> Array:
        """Return the values of the cells that hold the centres of other cells; NaN where there is none."""
        rows, columns = cell_of(self.y, y.centres), cell_of(self.x, x.centres)
        values = self.values[np.ix_(rows, columns)]
        values[rows < 0] = np.nan
        values[:, columns < 0] = np.nan
        return values


def find_field(obj: XarrayObject) -> tuple[xr.DataArray, Horizontal]:
    """Return the one field of an object and where it lies.

    Raises
    ------
    GridError
        If there are no horizontal axes.
    InputError
        If a Dataset holds no field or several.
    """
    where = horizontal(obj)
    if isinstance(obj, xr.DataArray):
        return obj, where
    names = horizontal_variables(obj, where)
    if len(names) != 1:
        raise InputError(f"expected one field, received a Dataset with {listing(names) or 'none'}; name one")
    return obj[names[0]], where


def check_select(select: Mapping[str, int], fields: tuple[xr.DataArray, xr.DataArray]) -> None:
    """Refuse dimensions and indices that the fields do not have.

    Raises
    ------
    OptionError
        Naming the legal ones.
    """
    legal = {str(dim) for field in fields for dim in field.dims}
    for name, index in select.items():
        if name not in legal:
            raise OptionError(f"expected select to name one of {listing(sorted(legal))}, received {name!r}")
        size = min(field.sizes[name] for field in fields if name in field.dims)
        if not isinstance(index, (int, np.integer)) or not -size <= index < size:
            raise OptionError(f"expected an index of {name!r} from 0 to {size - 1}, received {index!r}")


def reduce_field(field: xr.DataArray, where: Horizontal, select: Mapping[str, int]) -> xr.DataArray:
    """Keep the two horizontal dimensions, rows first; of all others the selected or first index."""
    others = {dim: select.get(str(dim), 0) for dim in field.dims if dim not in where.dims}
    return field.isel(others).transpose(*where.dims)


def read_cells(field: xr.DataArray, where: Horizontal) -> Cells:
    """Read the values of a horizontal field in float64 onto ascending axes; infinities count as missing."""
    values = np.asarray(field.values, dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    y, x = where.grid.y, where.grid.x
    if not y.ascending:
        y, values = y.reverse(), values[::-1]
    if not x.ascending:
        x, values = x.reverse(), values[:, ::-1]
    return Cells(values, y, x)


def read_static(obj: XarrayObject) -> Cells:
    """Read a field without time, such as a land fraction."""
    field, where = find_field(obj)
    return read_cells(reduce_field(field, where, {}), where)


def cell_of(axis: CellAxis, points: Array) -> NDArray[np.intp]:
    """Index of the cell of an ascending axis that holds each point, -1 outside."""
    edges = axis.edges
    if axis.kind == "longitude":
        points = edges[0] + np.mod(points - edges[0], 360.0)
    index = np.searchsorted(edges, points, side="right") - 1
    return np.where(index < axis.size, index, -1)


def window(axis: CellAxis, low: float, high: float, longest: float) -> CellAxis:
    """Cut an ascending axis to two limits and divide cells over ``longest``; gaps become cells as well."""
    edges, hair = axis.edges, 1e-7 * (high - low)
    if axis.kind == "longitude":
        edges = low + np.mod(edges - low, 360.0)
    inside = np.sort(edges[(edges > low + hair) & (edges < high - hair)])
    edges = np.concatenate([[low], inside[np.diff(inside, prepend=low) > hair], [high]])
    counts = np.maximum(1, np.ceil(np.diff(edges) / longest - 1e-6)).astype(int)
    steps = np.repeat(np.diff(edges) / counts, counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    edges = np.repeat(edges[:-1], counts) + within * steps
    # Beyond a few cells a pixel, more cells cost time and change nothing that can be seen.
    return CellAxis(np.append(edges[:: 1 + edges.size // MOST_CELLS], high), axis.kind)
