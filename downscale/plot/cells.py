"""Values of fields on cells, prepared for plotting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.coordinates import horizontal_variables
from downscale.cf.horizontal import Horizontal, XarrayObject, horizontal
from downscale.errors import GridError, InputError, OptionError, listing
from downscale.grid.axis import CellAxis
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.sphere import arc

Array = NDArray[np.float64]

MOST_CELLS = 1600  # along one axis of a panel of some 600 pixels
WITHIN = 0.6  # of a diagonal: maximum distance of the centre of a part from that of its cell
MOST = 0.9  # of the cells


@dataclass(frozen=True)
class Cells:
    """A horizontal field on ascending axes: values of shape (y, x), missing ones NaN.

    ``mapped`` is whether the axes belong to a known projection or a rotated pole.
    """

    values: Array
    y: CellAxis
    x: CellAxis
    mapped: bool = False

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.y.size, self.x.size

    def at(self, y: CellAxis, x: CellAxis) -> Array:
        """Return the values of the cells that contain the centres of other cells; NaN outside."""
        rows, columns = cell_of(self.y, y.centres), cell_of(self.x, x.centres)
        values = self.values[np.ix_(rows, columns)]
        values[rows < 0] = np.nan
        values[:, columns < 0] = np.nan
        return values

    def under(self, fine: Cells) -> Array:
        """Return the values at the cells of another field."""
        return self.at(fine.y, fine.x)

    def holding(self, values: Array) -> Cells:
        """Return other values on the same cells."""
        return replace(self, values=values)


@dataclass(frozen=True)
class Mesh:
    """A horizontal field on quadrilaterals: values of shape (y, x), missing ones NaN."""

    values: Array
    grid: CurvilinearGrid

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.grid.shape

    def under(self, fine: Mesh) -> Array:
        """Return the values of the cells that are divided into those of another field."""
        rows, columns = (n // m for n, m in zip(fine.sizes, self.sizes, strict=True))
        if (rows * self.sizes[0], columns * self.sizes[1]) == fine.sizes:
            corners, centres = self.grid.all_corners(), self.grid.centres
            reach = np.maximum(arc(corners[..., 0, :], corners[..., 2, :]), arc(corners[..., 1, :], corners[..., 3, :]))
            distance = arc(centres.repeat(rows, 0).repeat(columns, 1), fine.grid.centres)
            # Curvilinear grids have a few cells whose centre is outside: on land, along a fold.
            if (distance <= WITHIN * reach.repeat(rows, 0).repeat(columns, 1)).mean() > MOST:
                return self.values.repeat(rows, 0).repeat(columns, 1)
        raise GridError(
            f"expected a fine field whose rows and columns are parts of the {self.sizes[0]} x {self.sizes[1]} coarse "
            f"cells, received {fine.sizes[0]} x {fine.sizes[1]} cells; crop both to one domain, or remap one"
        )

    def holding(self, values: Array) -> Mesh:
        """Return other values on the same cells."""
        return replace(self, values=values)


Drawn = Cells | Mesh


def find_field(obj: XarrayObject) -> tuple[xr.DataArray, Horizontal]:
    """Return the one field of an object and its axes."""
    where = horizontal(obj, guess=True)
    if isinstance(obj, xr.DataArray):
        return obj, where
    names = horizontal_variables(obj, where)
    if len(names) != 1:
        raise InputError(f"expected one field, received a Dataset with {listing(names) or 'none'}; name one")
    return obj[names[0]], where


def check_select(select: Mapping[str, int], fields: tuple[xr.DataArray, xr.DataArray]) -> None:
    """Refuse dimensions and indices that the fields do not have."""
    legal = {str(dim) for field in fields for dim in field.dims}
    for name, index in select.items():
        if name not in legal:
            raise OptionError(f"expected select to name one of {listing(sorted(legal))}, received {name!r}")
        # An index refers to the coarse field, if that has the dimension.
        size = next(field.sizes[name] for field in fields if name in field.dims)
        if not isinstance(index, (int, np.integer)) or not -size <= index < size:
            raise OptionError(f"expected an index of {name!r} from 0 to {size - 1}, received {index!r}")


def reduce_field(field: xr.DataArray, where: Horizontal, select: Mapping[str, int]) -> xr.DataArray:
    """Return the field on its two horizontal dimensions, rows first, at the selected or first index of the others."""
    indices = {dim: select.get(str(dim), 0) for dim in field.dims if dim not in where.dims}
    return field.isel(indices).transpose(*where.dims)


def index_like(fine: xr.DataArray, coarse: xr.DataArray, select: Mapping[str, int]) -> dict[str, int]:
    """Return the indices of the fine field nearest in value to those of ``select`` in the coarse one.

    Dimensions of only one of them, and coordinates that are not numbers, keep their index.
    """
    indices = dict(select)
    for name in [str(dim) for dim in fine.dims if dim in coarse.dims]:
        if not (name in fine.coords and name in coarse.coords) or name not in fine.indexes:
            indices[name] = min(select.get(name, 0), fine.sizes[name] - 1)
            continue
        coarse_value, values = coarse[name].values[select.get(name, 0)], fine[name].values
        try:
            # If two are equally near, the later one: midnight belongs to the day that begins.
            indices[name] = values.size - 1 - int(np.abs(values - coarse_value)[::-1].argmin())
        except TypeError:
            matches = np.flatnonzero(values == coarse_value)
            indices[name] = int(matches[0]) if matches.size else min(select.get(name, 0), fine.sizes[name] - 1)
    return indices


def read_field(field: xr.DataArray, where: Horizontal) -> Drawn:
    """Return the values of a horizontal field with its cells of any kind."""
    if isinstance(where.grid, CurvilinearGrid):
        return Mesh(_known(field), where.grid)
    return read_cells(field, where)


def _known(field: xr.DataArray) -> Array:
    values = np.asarray(field.values, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def read_cells(field: xr.DataArray, where: Horizontal) -> Cells:
    """Return the values of a horizontal field in float64 on ascending axes; infinite values count as missing."""
    values = _known(field)
    y, x = where.grid.y, where.grid.x
    if not y.ascending:
        y, values = y.reverse(), values[::-1]
    if not x.ascending:
        x, values = x.reverse(), values[:, ::-1]
    return Cells(values, y, x, where.mapping is not None)


def read_static(obj: XarrayObject) -> Drawn:
    """Return a field without time, such as a land fraction."""
    field, where = find_field(obj)
    return read_field(reduce_field(field, where, {}), where)


def cell_of(axis: CellAxis, points: Array) -> NDArray[np.intp]:
    """Return the index of the cell of an ascending axis that contains each point, -1 outside."""
    edges = axis.edges
    if axis.kind == "longitude":
        points = edges[0] + np.mod(points - edges[0], 360.0)
    index = np.searchsorted(edges, points, side="right") - 1
    return np.where(index < axis.size, index, -1)


def window(axis: CellAxis, low: float, high: float, longest: float) -> CellAxis:
    """Crop an ascending axis to two limits and divide cells over ``longest``; gaps become cells as well."""
    edges, tolerance = axis.edges, 1e-7 * (high - low)
    if axis.kind == "longitude":
        edges = low + np.mod(edges - low, 360.0)
    inside = np.sort(edges[(edges > low + tolerance) & (edges < high - tolerance)])
    edges = np.concatenate([[low], inside[np.diff(inside, prepend=low) > tolerance], [high]])
    counts = np.maximum(1, np.ceil(np.diff(edges) / longest - 1e-6)).astype(int)
    steps = np.repeat(np.diff(edges) / counts, counts)
    step_number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    edges = np.repeat(edges[:-1], counts) + step_number * steps
    # Beyond a few cells per pixel, more cells cost time without a visible change.
    return CellAxis(np.append(edges[:: 1 + edges.size // MOST_CELLS], high), axis.kind)
