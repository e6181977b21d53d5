"""Fine cells within the cells of the grid of a model, and daily fields of both in memory, in bands and blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.bounds import bounds_variables
from downscale.cf.coordinates import horizontal_variables
from downscale.cf.horizontal import Horizontal, horizontal
from downscale.cf.mapping import is_mapping
from downscale.cf.units import same_units
from downscale.check.comparison import Nested, axes_of, compare_fields, order_like
from downscale.check.conservation import convert_units
from downscale.errors import GridError, InputError, listing
from downscale.fields.aggregate import Aggregation, SupermeshMean
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.subcells import Subcells
from downscale.projections.scores import as_daily_rain
from downscale.projections.years import TIME, in_years, years_of

Floats = NDArray[np.float64]
# Largest number of values of a field that are in memory at once.
MOST_VALUES = 12_000_000


@dataclass(frozen=True, eq=False)
class CoarseCells:
    """The operator A from a fine grid to a coarse one, for grids that nest or not.

    Attributes
    ----------
    axes, coarse_axes : Horizontal
        Both grids, the fine one in the order of the coarse one.
    cells : Aggregation or SupermeshMean
        Means over coarse cells.
    rows, columns : array of int
        The coarse row of each fine row, and the coarse column of each fine column.
    """

    axes: Horizontal
    coarse_axes: Horizontal
    cells: Aggregation | SupermeshMean
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    @classmethod
    def between(cls, coarse: xr.Dataset, fine: xr.Dataset) -> CoarseCells:
        """Return the operator of two grids; reads coordinates only."""
        comparison = compare_fields(_cells_of(coarse), _cells_of(fine))
        axes, coarse_axes = comparison.fine_axes, comparison.coarse_axes
        if isinstance(comparison, Nested):
            nested = comparison.cells
            (n_y, n_x), factors = nested.fine_shape, (nested.factor_y, nested.factor_x)
            rows, columns = np.arange(n_y) // factors[0], np.arange(n_x) // factors[1]
            return cls(axes, coarse_axes, nested, rows, columns)
        pairs = zip(axes_of(coarse_axes.grid), axes_of(axes.grid), strict=True)
        y, x = (Subcells.between(*pair) for pair in pairs)
        owners = [np.asarray(part.overlap.toarray().argmax(axis=0), np.int64) for part in (y, x)]
        return cls(axes, coarse_axes, SupermeshMean.across(y, x), *owners)

    def order(self, ds: xr.Dataset, label: str) -> xr.Dataset:
        """Return fields on the fine grid in its order.

        Raises
        ------
        GridError
            If their grid is another one.
        """
        there = horizontal(ds, guess=True)
        if there.grid.shape == self.axes.grid.shape:
            if isinstance(there.grid, CurvilinearGrid):
                return ds
            ordered, axes = order_like(ds, there, self.axes)
            pairs = zip(axes_of(axes.grid), axes_of(self.axes.grid), strict=True)
            if all(_same_axis(one.centres, other.centres) for one, other in pairs):
                return ordered.rename(dict(zip(there.dims, self.axes.dims, strict=True)))
        raise GridError(
            f"{label}: expected the grid of the observations, {_shape_words(self.axes)}, received "
            f"{_shape_words(there)} with other edges; regrid it first"
        )

    def is_coarse(self, ds: xr.Dataset) -> bool:
        """Return whether fields are on the coarse grid, by the number of its cells."""
        return horizontal(ds, guess=True).grid.shape == self.coarse_axes.grid.shape != self.axes.grid.shape

    def mean(self, values: Floats) -> Floats:
        """Return means of finite values over coarse cells, (..., n_y, n_x) on the fine grid; NaN without any."""
        if isinstance(self.cells, Aggregation):
            return np.asarray(self.cells.mean_of_finite(values))
        finite = np.isfinite(values)
        if finite.all():
            return self.cells.mean(values)
        maps = zip(values.reshape(-1, *values.shape[-2:]), finite.reshape(-1, *values.shape[-2:]), strict=True)
        means = [self.cells.apply_mask(valid).mean(one) for one, valid in maps]
        return np.reshape(means, (*values.shape[:-2], *means[0].shape))


def _cells_of(ds: xr.Dataset) -> xr.Dataset:
    """Return one map of zeros with the coordinates of a grid."""
    axes = horizontal(ds, guess=True)
    names = horizontal_variables(ds, axes)
    if not names:
        raise InputError(f"expected fields on {axes.y!r} and {axes.x!r}, received none; choose other variables")
    attrs = {key: value for key, value in ds[names[0]].attrs.items() if key == "grid_mapping"}
    return grid_variables(ds, axes).assign(cells=(axes.dims, np.zeros(axes.grid.shape), attrs))


def grid_variables(ds: xr.Dataset, axes: Horizontal) -> xr.Dataset:
    """Return the coordinates of a grid, with their bounds and its mapping, without any field."""
    bounds = bounds_variables(ds)

    def belongs(name: Any, variable: xr.Variable) -> bool:
        if is_mapping(variable):
            return True
        on_grid = bool(variable.dims) and variable.dims[0] in axes.dims and TIME not in variable.dims
        return on_grid and (name in bounds or (name in ds.coords and set(variable.dims) <= {*axes.dims}))

    names = [name for name, variable in ds.variables.items() if belongs(name, variable)]
    return ds[names].drop_vars([name for name in ds[names].variables if name not in names])


def _same_axis(one: Floats, other: Floats) -> bool:
    step = np.abs(np.diff(other)).min() if other.size > 1 else 1.0
    return bool(np.abs(one - other).max() < 1e-2 * step)


def _shape_words(axes: Horizontal) -> str:
    return f"{axes.grid.shape[0]} x {axes.grid.shape[1]} cells"


def field_of(ds: xr.Dataset, name: str, axes: Horizontal, label: str, units: str | None = None) -> xr.DataArray:
    """Return one lazy field of dimensions (time, y, x), rain in mm per day, others in ``units``.

    Raises
    ------
    InputError
        If there is no such field, or units are not compatible.
    """
    fields = horizontal_variables(ds, horizontal(ds, guess=True))
    if name not in fields:
        raise InputError(f"{label}: expected the variable {name!r}, received {listing(fields)}; add it or leave it out")
    field = ds[name]
    if set(field.dims) != {TIME, *axes.dims}:
        received = ", ".join(map(str, field.dims))
        raise InputError(f"{label}: expected {name!r} along {TIME!r}, {axes.y!r} and {axes.x!r}, received {received}")
    field = field.transpose(TIME, *axes.dims)
    rain = as_daily_rain(field)
    own = str(field.attrs.get("units", "1"))
    if rain is not None:
        return rain
    if units is None or same_units(own, units):
        return field
    try:
        return convert_units(field, own, units)
    except TypeError:
        raise InputError(f"{label}: expected {name!r} in {units!r}, received {own!r}; convert it") from None


def bands(shape: tuple[int, ...], count: int = 1) -> Iterator[slice]:
    """Yield slices of rows so that ``count`` fields of shape (n_days, n_y, n_x) stay within the memory limit."""
    size = max(int(MOST_VALUES // max(count * shape[0] * shape[2], 1)), 1)
    for first in range(0, shape[1], size):
        yield slice(first, min(first + size, shape[1]))


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of days so that a field of shape (n_days, n_y, n_x) stays within the memory limit."""
    size = max(int(MOST_VALUES // max(math.prod(shape[1:]), 1)), 1)
    for first in range(0, shape[0], size):
        yield slice(first, min(first + size, shape[0]))


def read(field: xr.DataArray, **parts: slice) -> Floats:
    """Return part of a field in float64, infinite values as NaN."""
    values = np.asarray(field.isel(parts).values, np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def select_period(ds: xr.Dataset, period: Any, label: str) -> xr.Dataset:
    """Return the days of a period of whole years, both inclusive; all days if it is None.

    Raises
    ------
    InputError
        If there are none.
    """
    if TIME not in ds.dims:
        raise InputError(f"{label}: expected daily fields along {TIME!r}, received {listing(map(str, ds.dims))}")
    if period is None:
        return ds
    chosen = in_years(ds, (int(period[0]), int(period[1])))
    if not chosen.sizes[TIME]:
        years = years_of(ds)
        raise InputError(
            f"{label}: expected days from {period[0]} to {period[1]}, received {years.min()} to {years.max()}; "
            "change the period"
        )
    return chosen


def period_words(ds: xr.Dataset, period: Any) -> str:
    """Return the first and last year of a period, by default those of a record."""
    years = ds[TIME].dt.year.values[[0, -1]] if period is None else period
    return f"{years[0]}-{years[1]}"


def fields_in(datasets: Mapping[str, xr.Dataset], variables: Any = None) -> list[str]:
    """Return the variables that all Datasets have, or the requested ones."""
    if variables is not None:
        return [variables] if isinstance(variables, str) else list(variables)
    first, *others = datasets.values()
    common = [name for name in horizontal_variables(first, horizontal(first, guess=True))
              if TIME in first[name].dims and all(name in ds.data_vars for ds in others)]  # fmt: skip
    if not common:
        raise InputError(f"expected a variable that {listing(datasets)} have in common, received none; name variables")
    return common
