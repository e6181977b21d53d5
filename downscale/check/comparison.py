"""Comparison of two fields for a conservation check: their common times and layers, and their grids.

Coarse cells are compared one by one if the fine grid nests, else by region.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import getitem
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.axes import read_axis
from downscale.cf.bounds import bounds_in, bounds_variables, require_known, unknown_cells_reason, unknown_corners_reason
from downscale.cf.horizontal import (
    Horizontal,
    NoAxesError,
    XarrayObject,
    as_dataset,
    horizontal,
    require_same_axes,
    with_named_mapping,
)
from downscale.cf.kinds import is_categorical
from downscale.cf.quantities import Bounds
from downscale.conservation.measures import (
    InfiniteValues,
    PartialResult,
    Signs,
    check_block,
    combine_all,
    count_outside,
    smallest_magnitude,
)
from downscale.conservation.regions import Neighbourhoods, Overlap, check_neighbourhoods, check_regions
from downscale.errors import DownscaleError, GridError
from downscale.fields.aggregate import SLACK, Aggregation, SupermeshMean
from downscale.grid.axis import FULL_CIRCLE, CellAxis
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import Subcells
from downscale.io.statics import pick_mask, regrid_mask
from downscale.process.computing import compute
from downscale.request import Request
from downscale.steps.axis_downscale import axis_quantity, downscale_axis

# Keep averages as they are: errors are for the check to find.
PLAIN = Request(method="conservative", bounds=None, check="skip")
Findings = tuple[PartialResult, InfiniteValues, Signs]
# First word of the settings of fields that were projected on their coarse means.
PROJECTED = "conserve"
# Maximum fine values per block: if sums need several copies in float64, and if they are used in place.
BLOCK_VALUES, UNCOPIED_VALUES = 4_000_000, 20_000_000


@dataclass(frozen=True, eq=False)
class Comparison:
    """A coarse and a fine Dataset with equal times and layers, and their grids.

    ``sizes`` are the mean magnitudes of the fine fields, if means along an axis were taken.
    """

    coarse: xr.Dataset
    fine: xr.Dataset
    sizes: xr.Dataset | None
    coarse_axes: Horizontal
    fine_axes: Horizontal


def compare_fields(
    coarse: XarrayObject, fine: XarrayObject, quantity: Any = None, mask: Any = None, na_thres: float = 1.0
) -> Nested | Overlapping:
    """Return the comparison of two fields: by cell if the fine grid nests, else by region.

    If ``fine`` has another number of cells along an axis, it is averaged over the cells of ``coarse``, weighted by the
    true lengths of its own cells; sums are summed. ``quantity`` chooses between means and sums if it refers to this
    axis, that is if maps have equally many cells.
    """
    coarse_ds, fine_ds = as_dataset(coarse)[0], as_dataset(fine)[0]
    if isinstance(coarse, xr.DataArray) and isinstance(fine, xr.DataArray):
        # Two arrays are compared regardless of their names.
        fine_ds = fine_ds.rename({next(iter(fine_ds.data_vars)): next(iter(coarse_ds.data_vars))})
    (coarse_ds, coarse_axes), (fine_ds, fine_axes) = _as_maps(coarse_ds, guess=False), _as_maps(fine_ds, guess=True)
    sizes: xr.Dataset | None = None
    request = replace(PLAIN, quantity=quantity if coarse_axes.grid.shape == fine_axes.grid.shape else None)
    for dim in [str(dim) for dim in coarse_ds.dims if dim not in {*coarse_axes.dims, *fine_axes.dims}]:
        is_shared = all(dim in ds.dims and dim in ds.coords for ds in (coarse_ds, fine_ds))
        if not is_shared or fine_ds.sizes[dim] == coarse_ds.sizes[dim]:
            continue
        # Rounding scales with the values, which may be much larger than their mean.
        magnitudes = fine_ds if sizes is None else sizes
        numbers = {name: v for name, v in _fields(magnitudes).items() if v.dtype.kind in "fiu"}
        magnitudes = magnitudes.assign({name: v.copy(data=np.abs(v.data)) for name, v in numbers.items()})
        try:
            fine_ds, sizes = (_average_along(ds, dim, coarse_ds, request) for ds in (fine_ds, magnitudes))
        except DownscaleError as error:
            raise GridError(
                f"expected {coarse_ds.sizes[dim]} values of {dim!r} in the fine field or cells to average over, "
                f"received {fine_ds.sizes[dim]} ({error})"
            ) from None
    fine_axes = with_named_mapping(fine_axes, fine_ds, coarse_axes)
    require_same_axes(
        fine_axes, coarse_axes, "fine field", "the coarse field", "remap one of them to the axes of the other first"
    )
    ordered, ordered_sizes, ordered_axes = fine_ds, sizes, fine_axes
    rectilinear = all(isinstance(axes.grid, RectilinearGrid) for axes in (coarse_axes, fine_axes))
    if rectilinear and coarse_axes.grid.y.kind == fine_axes.grid.y.kind:
        ordered, ordered_axes = order_like(fine_ds, fine_axes, coarse_axes)
        ordered_sizes = None if sizes is None else order_like(sizes, fine_axes, coarse_axes)[0]
    if not rectilinear or coarse_axes.grid.nest_factors(ordered_axes.grid) is not None:
        return _compare_nested(coarse_ds, ordered, ordered_sizes, coarse_axes, ordered_axes, mask)
    y, x = (Subcells.between(*axes) for axes in zip(axes_of(coarse_axes.grid), axes_of(fine_axes.grid), strict=True))
    hidden_cells = None if mask is None else regrid_mask(pick_mask(mask), fine_axes.grid, fine_axes) < 0.5
    overlap = Overlap.of((y, x), hidden_cells)
    if str(fine.attrs.get("downscale_settings", "")).startswith(PROJECTED):
        cells = SupermeshMean.across(y, x)
        return Crossing(
            coarse_ds, fine_ds, sizes, coarse_axes, fine_axes, common=overlap, near=None, na_thres=na_thres, cells=cells
        )
    near = None if overlap.exact else Neighbourhoods.of((y, x), hidden_cells)
    return Overlapping(coarse_ds, fine_ds, sizes, coarse_axes, fine_axes, common=overlap, near=near, na_thres=na_thres)


def _compare_nested(
    coarse: xr.Dataset, fine: xr.Dataset, sizes: xr.Dataset | None, coarse_axes: Horizontal, fine_axes: Horizontal,
    mask: Any,
) -> Nested:  # fmt: skip
    """Return the comparison by cell; fine axes are adjusted to those of the coarse grid to the last digit."""
    if isinstance(coarse_axes.grid, CurvilinearGrid) and isinstance(fine_axes.grid, CurvilinearGrid):
        # A large fine file has no corners of its own: use those of the parts of the coarse cells.
        adopted = coarse_axes.grid.adopt(fine_axes.grid)
        if adopted.derived and fine_axes.positions is not None:
            require_known(unknown_corners_reason(fine, fine_axes.positions))
        fine_axes = replace(fine_axes, grid=adopted)
    elif not isinstance(fine_axes.grid, CurvilinearGrid):
        # One fit of the areas of a projection for both: two fits differ in their last digits.
        new_axes = []
        for axis, coarse_axis in zip(axes_of(fine_axes.grid), axes_of(coarse_axes.grid), strict=True):
            parts = Subcells.between(coarse_axis, axis)
            new_axes.append(parts.axis if parts.regular and (np.diff(parts.owner) == 1).all() else axis)
        fine_axes = replace(fine_axes, grid=coarse_axes.grid.with_axes(*new_axes))
    cells = Aggregation.between(coarse_axes.grid, fine_axes.grid)
    valid = None if mask is None else regrid_mask(pick_mask(mask), fine_axes.grid, fine_axes) > 0.5
    return Nested(coarse, fine, sizes, coarse_axes, fine_axes, cells=cells, valid=valid)


def _fields(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the data variables that are not bounds."""
    bounds = bounds_variables(ds)
    return {str(name): field for name, field in ds.data_vars.items() if name not in bounds}


def _average_along(ds: xr.Dataset, dim: str, coarse: xr.Dataset, request: Request) -> Any:
    shared = [name for name, field in _fields(ds).items() if name in coarse.data_vars and not is_categorical(field)]
    ds = ds.assign({name: ds[name].astype("f8") for name in shared if ds[name].dtype.kind in "iu"})
    fields = ds.drop_vars([name for name, field in _fields(ds).items() if field.dtype.kind != "f"])
    if request.quantity is None:
        # Fine values are of the same quantity as the coarse ones.
        axis = read_axis(coarse, dim)
        shared = [name for name in _fields(fields) if name in coarse.data_vars]
        request = replace(request, quantity={name: axis_quantity(coarse[name], axis)[0] for name in shared})
    return downscale_axis(fields, dim, target=coarse, request=request)


def _as_maps(ds: xr.Dataset, guess: bool) -> tuple[xr.Dataset, Horizontal]:
    """Return fields and their grid; a series without horizontal axes gets one cell."""
    try:
        return ds, horizontal(ds, guess)
    except NoAxesError:
        if {"y", "x"} & set(map(str, ds.variables)):
            raise
    cell: dict[str, Any] = {}
    for name in ("y", "x"):
        attrs = {"standard_name": f"projection_{name}_coordinate", "units": "m", "bounds": f"{name}_bnds"}
        cell[name] = (name, np.array([0.5]), attrs)
        cell[f"{name}_bnds"] = ((name, "ends of a cell"), np.array([[0.0, 1.0]]))
    fields = {name: v.expand_dims({"y": [0.5], "x": [0.5]}, axis=(-2, -1)) for name, v in _fields(ds).items()}
    maps = ds.assign(fields).assign_coords(cell)
    return maps, horizontal(maps, guess)


@dataclass(frozen=True, eq=False)
class Nested(Comparison):
    """Checks coarse cells one by one, block by block along the other dimensions and along rows.

    ``valid`` is the mask of fine cells, ``areas`` are weights of coarse cells other than their own areas.
    """

    cells: Aggregation
    valid: np.ndarray | None = None
    areas: np.ndarray | None = None
    outside: int = 0

    @property
    def cell_kind_and_count(self) -> tuple[str, int]:
        """Name of the compared cells, and their number per map."""
        return "cells", int(np.prod(self.cells.coarse_shape))

    @property
    def hidden(self) -> np.ndarray | bool:
        """Coarse cells without any valid fine cell."""
        return False if self.valid is None else self.cells.apply_mask(self.valid).valid_fraction == 0

    def find_errors(self, x: xr.DataArray, y: xr.DataArray, bounds: Bounds, signs: bool, extensive: bool) -> Findings:
        """Return the findings of all blocks."""
        x = x if self.valid is None else x.where(~self.hidden)
        sizes = None if self.sizes is None else self.sizes[str(y.name)].transpose(*y.dims).data
        coarse, fine, factor = _as_dask(x.data), _as_dask(y.data), self.cells.factor_y
        needs_copies = extensive or sizes is not None or fine.dtype not in (np.float32, np.float64)
        lead_chunks, rows = block_sizes(fine, factor, BLOCK_VALUES if needs_copies else UNCOPIED_VALUES)
        fine = fine.rechunk((*lead_chunks, tuple(n * factor for n in rows), -1), method="tasks")
        coarse = coarse.rechunk((*lead_chunks, rows, -1), method="tasks")
        # Blocks are optimised together: one by one would take quadratic time.
        coarse_blocks, fine_blocks = coarse.to_delayed(), fine.to_delayed()
        size_blocks = None if sizes is None else _as_dask(sizes).rechunk(fine.chunks, method="tasks").to_delayed()
        starts = [np.cumsum([0, *sizes]) for sizes in coarse.chunks]
        # The data of a band of rows are the same at all times.
        bands = [self._band(first, count, extensive) for first, count in zip(starts[-2], rows, strict=False)]
        tasks = []
        for index in np.ndindex(fine.numblocks[:-1]):
            block_index = (*index, 0)
            origin = tuple(int(start[i]) for start, i in zip(starts, block_index, strict=True))
            tasks.append(dask.delayed(_compare_block, traverse=False)(
                coarse_blocks[block_index], fine_blocks[block_index], bands[index[-1]], origin, bounds, signs,
                None if size_blocks is None else size_blocks[block_index]
            ))  # fmt: skip
        findings, infinite, sign_counts = _combine_findings(tasks)
        return combine_all([findings, PartialResult(cells_lost=self._gaps(x, y))]), infinite, sign_counts

    def _band(self, first: int, count: int, extensive: bool) -> Any:
        """Return the operator of a band of coarse rows, its areas, and areas of cells if values are sums."""
        rows, columns = np.arange(first, first + count), np.arange(self.cells.coarse_shape[1])
        areas = partial(self.coarse_axes.grid.areas, rows, columns)
        if self.areas is not None:
            areas = partial(getitem, self.areas, rows)
        sums = None
        if extensive:
            fine_rows = slice(first * self.cells.factor_y, (first + count) * self.cells.factor_y)
            sums = self.coarse_axes.grid.cell_area[rows], self.fine_axes.grid.cell_area[fine_rows]
        return dask.delayed((self.cells.window(rows, columns), areas, sums), traverse=False)

    def _gaps(self, x: xr.DataArray, y: xr.DataArray) -> int:
        """Return the number of valid coarse cells that lack a fine value, not counting lost ones."""
        if self.valid is None:
            return 0
        is_missing = da.isnan(_as_dask(y.data)).rechunk({y.ndim - 2: -1, y.ndim - 1: -1}, method="tasks")
        cells = {y.ndim - 2: self.cells.factor_y, y.ndim - 1: self.cells.factor_x}
        any_missing = da.coarsen(np.any, is_missing & self.valid, cells)
        all_missing = da.coarsen(np.all, is_missing, cells)
        return int((any_missing & ~all_missing & np.isfinite(_as_dask(x.data))).sum().compute())

    def place(self, x: xr.DataArray, index: tuple[int, ...]) -> dict[str, Any]:
        """Return the coordinates of a coarse cell."""
        return cell_place(x, index)


@dataclass(frozen=True, eq=False)
class Overlapping(Comparison):
    """Checks the regions that two grids have in common, a few maps at a time."""

    common: Overlap
    near: Neighbourhoods | None
    na_thres: float

    @property
    def cell_kind_and_count(self) -> tuple[str, int]:
        """Name of the compared regions, and their number per map."""
        rows, columns = self.common.y.size, self.common.x.size
        if self.common.single:
            return "cells", rows * columns
        words = "whole area" if rows * columns == 1 else "bands" if 1 in (rows, columns) else "regions"
        return words, rows * columns

    @property
    def outside(self) -> int:
        """Number of coarse cells that the fine grid does not cover completely."""
        return self.common.outside

    def find_errors(self, x: xr.DataArray, y: xr.DataArray, bounds: Bounds, signs: bool, extensive: bool) -> Findings:
        """Return the findings of all blocks, by region."""
        tasks = self._tasks(
            _compare_regions, (x, y), self.common, bounds, signs, extensive=extensive, na_thres=self.na_thres
        )
        return _combine_findings(tasks)

    def near_cells(
        self, x: xr.DataArray, y: xr.DataArray, expected: xr.DataArray, tolerance: float, extensive: bool,
        without_terrain: bool,
    ) -> PartialResult:  # fmt: skip
        """Return the findings of all blocks near each coarse cell, compared with an expected fine field."""
        return combine_all(list(compute(
            *self._tasks(check_neighbourhoods, (x, y, expected), self.near, tolerance, extensive, without_terrain)
        )))  # fmt: skip

    def _tasks(
        self, function: Callable[..., Any], fields: tuple[xr.DataArray, ...], grids: Any, *values: Any, **options: Any
    ) -> list[Any]:
        """Return one task per few whole maps, each with the data of the grids and the index of its first map."""
        arrays = [_as_dask(field.data) for field in fields]
        budget = max(BLOCK_VALUES // int(np.prod(self.common.parts_shape)), 1)
        lead_chunks = leading_sizes(arrays[1].chunks[:-2], budget)
        arrays = [array.rechunk((*lead_chunks, -1, -1), method="tasks") for array in arrays]
        shared, blocks = dask.delayed(grids, traverse=False), [array.to_delayed() for array in arrays]
        tasks = []
        for index in np.ndindex(arrays[0].numblocks[:-2]):
            block_index = (*index, 0, 0)
            origin = tuple(int(sum(sizes[:i])) for sizes, i in zip(arrays[0].chunks, block_index, strict=True))
            inputs = [block[block_index] for block in blocks]
            tasks.append(dask.delayed(function)(*inputs, shared, origin, *values, **options))
        return tasks

    def place(self, x: xr.DataArray, index: tuple[int, ...]) -> dict[str, Any]:
        """Return the centre of a region."""
        location = {str(dim): _label(x, str(dim), i) for dim, i in zip(x.dims[:-2], index[:-2], strict=True)}
        for dim, regions, i in zip(x.dims[-2:], (self.common.y, self.common.x), index[-2:], strict=True):
            location[str(dim)] = float(regions.centres[i]) / self.coarse_axes.unit
        return location


@dataclass(frozen=True, eq=False)
class Crossing(Overlapping):
    """Checks coarse cells one by one on grids that do not nest: fine values count by their area in the coarse cell.

    Only for fields that were projected on these means; those of other methods have exact means over regions.
    """

    cells: SupermeshMean

    @property
    def cell_kind_and_count(self) -> tuple[str, int]:
        """Name of the compared cells, and their number per map."""
        return "cells", int(np.prod(self.cells.cell_measure.shape))

    def find_errors(self, x: xr.DataArray, y: xr.DataArray, bounds: Bounds, signs: bool, extensive: bool) -> Findings:
        """Return the findings of all blocks."""
        visible = None if self.common.hidden is None else ~self.common.hidden
        tasks = self._tasks(_compare_crossing, (x, y), (self.cells, visible), bounds, signs, extensive=extensive)
        return _combine_findings(tasks)

    def place(self, x: xr.DataArray, index: tuple[int, ...]) -> dict[str, Any]:
        """Return the coordinates of a coarse cell."""
        return cell_place(x, index)


def order_like(fine: xr.Dataset, fine_axes: Horizontal, coarse_axes: Horizontal) -> tuple[xr.Dataset, Horizontal]:
    """Order the axes of ``fine`` as those of the coarse grid, on its branch of longitude."""
    new_axes = []
    for dim, axis, coarse_axis in zip(fine_axes.dims, axes_of(fine_axes.grid), axes_of(coarse_axes.grid), strict=True):
        if axis.ascending != coarse_axis.ascending:
            fine, axis = fine.isel({dim: slice(None, None, -1)}), axis.reverse()
        if axis.kind == coarse_axis.kind == "longitude":
            first = 0
            if axis.periodic and coarse_axis.periodic:
                # A closed circle starts at the cell where the coarse one does.
                first = int(np.abs(_circular_difference(axis.edges[:-1] - coarse_axis.edges[0])).argmin())
                fine = fine.roll({dim: -first}, roll_coords=True) if first else fine
            circle = np.copysign(FULL_CIRCLE, axis.edges[-1] - axis.edges[0])
            edges = np.concatenate([axis.edges[first:], axis.edges[1 : first + 1] + circle])
            axis = CellAxis(edges + FULL_CIRCLE * round((coarse_axis.edges[0] - edges[0]) / FULL_CIRCLE), axis.kind)
        if bounds_in(fine, dim) is None:
            parts = _match_parts(fine[dim].values * fine_axes.unit, axis, coarse_axis)
            if parts is axis:
                require_known(unknown_cells_reason(fine, dim, fine[dim].values, axis.kind))
            axis = parts
        new_axes.append(axis)
    return fine, replace(fine_axes, grid=fine_axes.grid.with_axes(*new_axes))


def axes_of(grid: RectilinearGrid | CurvilinearGrid) -> tuple[CellAxis, CellAxis]:
    """Return the axes of a grid, rows first."""
    return grid.y, grid.x


def _circular_difference(degrees: Any) -> Any:
    """Return distances on a circle, -180 to 180."""
    return (degrees + FULL_CIRCLE / 2) % FULL_CIRCLE - FULL_CIRCLE / 2


def _match_parts(centres: np.ndarray, axis: CellAxis, coarse_axis: CellAxis) -> CellAxis:
    """Return equal parts of the coarse cells if these have the same centres, else the axis unchanged."""
    if axis.size % coarse_axis.size or axis.kind != coarse_axis.kind:
        return axis
    parts = coarse_axis.refine(axis.size // coarse_axis.size)
    offsets = centres - parts.centres
    offsets = _circular_difference(offsets) if axis.kind == "longitude" else offsets
    return parts if np.abs(offsets).max() <= 1e-3 * np.abs(np.diff(parts.edges)).min() else axis


def cell_place(x: xr.DataArray, index: tuple[int, ...]) -> dict[str, Any]:
    """Return the coordinates of a value."""
    return {str(dim): _label(x, str(dim), i) for dim, i in zip(x.dims, index, strict=True)}


def _label(array: xr.DataArray, dim: str, index: int) -> Any:
    if dim not in array.coords:
        return index
    value = array[dim].values[index]
    if isinstance(value, np.timedelta64):
        return f"{value / np.timedelta64(1, 'h'):g} hours"
    return float(value) if np.asarray(value).dtype.kind in "fiu" else str(value)


def _compare_block(
    coarse: np.ndarray, fine: np.ndarray, band: Any, origin: tuple[int, ...], bounds: Bounds, signs: bool,
    size: np.ndarray | None,
) -> Findings:  # fmt: skip
    infinite, sign_counts = InfiniteValues.of(coarse, origin), Signs.of(coarse, fine) if signs else Signs()
    cells, areas, sums = band
    x, y = np.asarray(coarse, dtype=np.float64), np.asarray(fine)
    if sums is not None:
        # The sum over the valid parts equals that of the whole, however small the valid area is.
        valid_fraction = cells.apply_mask(np.isfinite(y)).valid_fraction
        x, y = x / (sums[0] * np.where(valid_fraction > 0, valid_fraction, 1.0)), y.astype(np.float64) / sums[1]
    return check_block(x, y, cells, areas(), origin, bounds, size), infinite, sign_counts


def _compare_regions(
    coarse: np.ndarray, fine: np.ndarray, common: Overlap, origin: tuple[int, ...], bounds: Bounds, signs: bool,
    **options: Any,
) -> Findings:  # fmt: skip
    sign_counts = Signs.of(coarse, fine) if signs else Signs()
    infinite = InfiniteValues.of(coarse, origin)
    return check_regions(coarse, fine, common, origin, bounds, **options), infinite, sign_counts


def _compare_crossing(
    coarse: np.ndarray, fine: np.ndarray, grids: tuple[SupermeshMean, np.ndarray | None], origin: tuple[int, ...],
    bounds: Bounds, signs: bool, extensive: bool,
) -> Findings:  # fmt: skip
    """Return the conservation errors of the coarse cells of whole maps."""
    sign_counts = Signs.of(coarse, fine) if signs else Signs()
    cells, visible = grids
    x, y = coarse.astype(np.float64), fine.astype(np.float64)
    whole = cells.integral(np.ones(y.shape[-2:]) if visible is None else visible)
    x[..., whole == 0] = np.nan
    means, sizes = np.empty(x.shape), np.empty(x.shape)
    invented = beyond = gaps = 0
    for index in np.ndindex(x.shape[:-2]):
        covered = cells.adjoint(np.isfinite(x[index]).astype(np.float64))
        valid = ~np.isnan(y[index]) & (covered > 0)
        groups = cells.apply_mask(valid)
        measure = groups.valid_measure
        values = y[index] / np.where(covered > 0, covered, 1.0) if extensive else y[index]
        if extensive:
            x[index] /= np.where(measure > 0, measure, 1.0)
        with np.errstate(invalid="ignore"):
            mean = groups.mean(values)
        # Infinite values of both signs sum to NaN: the error is infinite all the same.
        mean[np.isnan(mean) & (measure > 0)] = np.inf
        has_value = np.isfinite(x[index])
        means[index], sizes[index] = (np.where(has_value, m, np.nan) for m in (mean, groups.mean(np.abs(values))))
        gaps += int((has_value & (measure > 0) & (measure < (1 - SLACK) * whole)).sum())
        invented += int((~np.isnan(y[index]) & (covered == 0)).sum())
        beyond += count_outside(fine[index][valid], bounds)
    single = Aggregation(np.ones(x.shape[-2]), np.ones(x.shape[-1]), 1, 1)
    smallest = smallest_magnitude(coarse, fine)
    partial = check_block(x, means, single, cells.cell_measure, origin, sizes=sizes, smallest=smallest)
    partial = replace(partial, cells_invented=invented, values_out_of_bounds=beyond, cells_with_gaps=gaps)
    return partial, InfiniteValues.of(coarse, origin), sign_counts


def _combine_findings(tasks: list[Any]) -> Findings:
    """Compute all blocks and combine their findings."""
    partials, infinite, signs = zip(*compute(*tasks), strict=True)
    return combine_all(list(partials)), sum(infinite, InfiniteValues()), sum(signs, Signs())


def _as_dask(data: Any) -> da.Array:
    return data if isinstance(data, da.Array) else da.from_array(data, chunks=-1, name=False)


def block_sizes(fine: da.Array, factor_y: int, largest_size: int) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Return chunk sizes of other dimensions and of coarse rows for blocks of at most ``largest_size`` values.

    Dimensions are split only as far as needed: Dask copies what it splits off.
    """
    chunks, columns = fine.chunks[-2], fine.shape[-1]
    if max(chunks) * columns <= largest_size and not any(size % factor_y for size in chunks):
        rows = tuple(size // factor_y for size in chunks)
    else:
        coarse_rows = fine.shape[-2] // factor_y
        per_block = max(min(largest_size // (columns * factor_y), coarse_rows), 1)
        rows = da.core.normalize_chunks(per_block, (coarse_rows,))[0]
    return leading_sizes(fine.chunks[:-2], max(largest_size // (columns * factor_y * max(rows)), 1)), rows


def leading_sizes(chunks: tuple[tuple[int, ...], ...], budget: int) -> tuple[Any, ...]:
    """Return chunk sizes of the other dimensions with at most ``budget`` maps per chunk."""
    lead_chunks: list[Any] = []
    for sizes in reversed(chunks):
        largest = max(*sizes, 1)
        lead_chunks.append(min(largest, budget))
        budget = max(budget // largest, 1)
    return tuple(reversed(lead_chunks))
