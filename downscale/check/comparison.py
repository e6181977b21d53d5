"""Comparison of two fields for a conservation check: their common times and layers, and their grids.

Coarse cells are compared one by one if the fine grid nests, else by region.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.axes import read_line
from downscale.cf.bounds import bounds_in, bounds_variables, require_known, unknown_cells, unknown_corners
from downscale.cf.horizontal import Horizontal, NoAxesError, horizontal, require_same_axes, with_named_mapping
from downscale.cf.quantities import Bounds
from downscale.conservation.measures import Infinite, Partial, Signs, chunk, combine_all
from downscale.conservation.regions import Neighbourhoods, Overlap, near_chunk, overlap_chunk
from downscale.errors import DownscaleError, GridError
from downscale.fields.aggregate import Aggregation
from downscale.grid.axis import FULL_CIRCLE, CellAxis
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import Subcells
from downscale.io.statics import mask_on_grid, pick_mask
from downscale.process.computing import computed
from downscale.request import Request
from downscale.steps.axis_downscale import axis_quantity, downscale_axis

# Keep averages as they are: errors are for the check to find.
PLAIN = Request(method="conservative", bounds=None, check="skip")


@dataclass(frozen=True)
class Aligned:
    """A coarse and a fine Dataset with equal times and layers, and their grids.

    ``sizes`` are the mean magnitudes of the fine fields, if means along an axis were taken.
    """

    coarse: xr.Dataset
    fine: xr.Dataset
    sizes: xr.Dataset | None
    at_coarse: Horizontal
    at_fine: Horizontal


def aligned(coarse: xr.Dataset, fine: xr.Dataset, quantity: Any = None) -> Aligned:
    """Return both fields on the times and layers of the coarse one, with their grids; raises GridError if impossible.

    If ``fine`` has another number of cells along an axis, it is averaged over the cells of ``coarse``, weighted by the
    true lengths of its own cells; sums are summed. ``quantity`` chooses between means and sums if it refers to this
    axis, that is if maps have equally many cells.
    """
    (coarse, at_coarse), (fine, at_fine) = _as_maps(coarse, guess=False), _as_maps(fine, guess=True)
    sizes: xr.Dataset | None = None
    # A requested quantity refers to maps if these differ, else to the axis.
    request = replace(PLAIN, quantity=quantity if at_coarse.grid.shape == at_fine.grid.shape else None)
    flat = {*at_coarse.dims, *at_fine.dims}
    for dim in map(str, coarse.dims):
        is_shared = dim in fine.dims and dim in coarse.coords and dim in fine.coords
        if dim in flat or not is_shared or fine.sizes[dim] == coarse.sizes[dim]:
            continue
        # Rounding scales with the values, which may be much larger than their mean.
        dataset = fine if sizes is None else sizes
        floats = {name: v for name, v in _fields(dataset).items() if v.dtype.kind == "f"}
        magnitudes = dataset.assign({name: v.copy(data=np.abs(v.data)) for name, v in floats.items()})
        try:
            fine, sizes = (_averaged(field, dim, coarse, request) for field in (fine, magnitudes))
        except DownscaleError as error:
            raise GridError(
                f"expected {coarse.sizes[dim]} values of {dim!r} in the fine field or cells to average over, received "
                f"{fine.sizes[dim]} ({error})"
            ) from None
    return Aligned(coarse, fine, sizes, at_coarse, at_fine)


def _fields(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the data variables that are not bounds."""
    bounds = bounds_variables(ds)
    return {str(name): field for name, field in ds.data_vars.items() if name not in bounds}


def _averaged(ds: xr.Dataset, dim: str, coarse: xr.Dataset, request: Request) -> xr.Dataset:
    fields = ds.drop_vars([name for name, field in _fields(ds).items() if field.dtype.kind != "f"])
    if request.quantity is None:
        # Fine values are of the same quantity as the coarse ones.
        line = read_line(coarse, dim)
        shared = [name for name in _fields(fields) if name in coarse.data_vars]
        quantities = {name: axis_quantity(coarse[name], line)[0] for name in shared}
        request = replace(request, quantity=quantities)
    means = downscale_axis(fields, dim, target=coarse, request=request)
    assert isinstance(means, xr.Dataset)
    return means


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
    fields = {str(n): v.expand_dims({"y": [0.5], "x": [0.5]}, axis=(-2, -1)) for n, v in _fields(ds).items()}
    maps = ds.assign(fields).assign_coords(cell)
    return maps, horizontal(maps, guess)


Found = tuple[Partial, Infinite, Signs]
# Maximum fine values per block: if sums need several copies in float64, and if they are used in place.
BLOCK_VALUES, UNCOPIED_VALUES = 4_000_000, 20_000_000


def build_comparison(
    big: xr.Dataset, small: xr.Dataset, sizes: xr.Dataset | None, at_coarse: Horizontal, at_fine: Horizontal, mask: Any,
    na_thres: float,
) -> Nested | Overlapping:  # fmt: skip
    """Return the comparison of two grids: by cell if the fine grid nests, else by region."""
    at_fine = with_named_mapping(at_fine, small, at_coarse)
    require_same_axes(
        at_fine, at_coarse, "fine field", "the coarse field", "remap one of them to the axes of the other first"
    )
    ordered, fine_axes = small, at_fine
    rectilinear = all(isinstance(w.grid, RectilinearGrid) for w in (at_coarse, at_fine))
    if rectilinear and at_coarse.grid.y.kind == at_fine.grid.y.kind:
        ordered, fine_axes = _aligned(small, at_fine, at_coarse)
        sizes = None if sizes is None else _aligned(sizes, at_fine, at_coarse)[0]
    if not rectilinear or at_coarse.grid.nest_factors(fine_axes.grid) is not None:
        if isinstance(at_coarse.grid, CurvilinearGrid) and isinstance(fine_axes.grid, CurvilinearGrid):
            # A large fine file has no corners of its own: use those of the parts of the coarse cells.
            adopted = at_coarse.grid.adopt(fine_axes.grid)
            if adopted.derived and fine_axes.planes is not None:
                require_known(unknown_corners(small, fine_axes.planes))
            fine_axes = replace(fine_axes, grid=adopted)
        elif not isinstance(fine_axes.grid, CurvilinearGrid):
            # One fit of the areas of a projection for both: two fits differ in their last digits.
            y, x = (_match_edges(*pair) for pair in zip(_axes(fine_axes.grid), _axes(at_coarse.grid), strict=True))
            fine_axes = replace(fine_axes, grid=at_coarse.grid.with_axes(y, x))
        cells = Aggregation.between(at_coarse.grid, fine_axes.grid)
        valid = None if mask is None else mask_on_grid(pick_mask(mask), fine_axes.grid, fine_axes) > 0.5
        hidden = None if valid is None else cells.masked(valid).valid_fraction == 0
        return Nested(ordered, at_coarse, fine_axes, cells, hidden, sizes, valid=valid)
    axes = zip(_axes(at_coarse.grid), _axes(at_fine.grid), strict=True)
    parts_y, parts_x = (Subcells.between(coarse_axis, fine_axis) for coarse_axis, fine_axis in axes)
    blank = None if mask is None else mask_on_grid(pick_mask(mask), at_fine.grid, at_fine) < 0.5
    common = Overlap.of((parts_y, parts_x), blank)
    neighbourhoods = None
    if not common.exact:
        neighbourhoods = Neighbourhoods.of((parts_y, parts_x), blank)
    return Overlapping(small, at_coarse, at_fine, common, neighbourhoods, na_thres)


def _match_edges(axis: CellAxis, wanted: CellAxis) -> CellAxis:
    """Return the axis with edges that match those of ``wanted`` replaced by them, to the last digit."""
    parts = Subcells.between(wanted, axis)
    return parts.axis if parts.regular and (np.diff(parts.owner) == 1).all() else axis


@dataclass(frozen=True, eq=False)
class Nested:
    """Checks coarse cells one by one, block by block along the other dimensions and along rows."""

    fine: xr.Dataset
    at_coarse: Horizontal
    at_fine: Horizontal
    cells: Aggregation
    hidden: np.ndarray | None
    sizes: xr.Dataset | None
    outside: int = 0
    areas: np.ndarray | None = None
    valid: np.ndarray | None = None

    @property
    def compared(self) -> tuple[str, int]:
        """Name of the compared cells, and their number per map."""
        return "cells", int(np.prod(self.cells.coarse_shape))

    def find_errors(self, x: xr.DataArray, y: xr.DataArray, bounds: Bounds, signs: bool, extensive: bool) -> Found:
        """Return the findings of all blocks."""
        areas = (self.at_coarse.grid.cell_area, self.at_fine.grid.cell_area) if extensive else None
        x = x if self.hidden is None else x.where(~self.hidden)
        sizes = None if self.sizes is None else self.sizes[str(y.name)].transpose(*y.dims).data
        weights = self.at_coarse.grid.areas if self.areas is None else partial(_window, self.areas)
        findings, infinite, sign_counts = _judged(x, y, sizes, self.cells, weights, bounds, areas, signs)
        return combine_all([findings, Partial(lost=self._gaps(x, y))]), infinite, sign_counts

    def _gaps(self, x: xr.DataArray, y: xr.DataArray) -> int:
        """Return the number of valid coarse cells that lack a fine value, not counting lost ones."""
        if self.valid is None:
            return 0
        blank = da.isnan(_as_dask(y.data)).rechunk({y.ndim - 2: -1, y.ndim - 1: -1}, method="tasks")
        cells = {y.ndim - 2: self.cells.factor_y, y.ndim - 1: self.cells.factor_x}
        any_blank, all_blank = da.coarsen(np.any, blank & self.valid, cells), da.coarsen(np.all, blank, cells)
        return int((any_blank & ~all_blank & np.isfinite(_as_dask(x.data))).sum().compute())

    def place(self, x: xr.DataArray, index: tuple[int, ...]) -> dict[str, Any]:
        """Return the coordinates of a coarse cell."""
        return cell_place(x, index)


@dataclass(frozen=True, eq=False)
class Overlapping:
    """Checks the regions that two grids have in common, a few maps at a time."""

    fine: xr.Dataset
    at_coarse: Horizontal
    at_fine: Horizontal
    common: Overlap
    near: Neighbourhoods | None
    na_thres: float

    @property
    def compared(self) -> tuple[str, int]:
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

    def find_errors(self, x: xr.DataArray, y: xr.DataArray, bounds: Bounds, signs: bool, extensive: bool) -> Found:
        """Return the findings of all blocks, by region."""

        def compare(coarse: Any, fine: Any, common: Any, origin: tuple[int, ...]) -> Any:
            return dask.delayed(_compare_regions)(
                coarse, fine, common, origin, bounds, signs, extensive=extensive, na_thres=self.na_thres
            )

        return _joined(self._tasks(compare, self.common, x.data, y.data))

    def near_cells(
        self, x: xr.DataArray, y: xr.DataArray, expected: xr.DataArray, allowed: float, extensive: bool,
        plain: bool,
    ) -> Partial:  # fmt: skip
        """Return the findings of all blocks near each coarse cell, compared with an expected fine field."""

        def compare(coarse: Any, fine: Any, near: Any, origin: tuple[int, ...], expected: Any) -> Any:
            return dask.delayed(near_chunk)(coarse, fine, expected, near, origin, allowed, extensive, plain)

        tasks = self._tasks(compare, self.near, x.data, y.data, expected.data)
        return combine_all(list(dask.compute(*tasks)))

    def _tasks(self, compare: Callable[..., Any], known: Any, given: Any, *fields: Any) -> list[Any]:
        """Return one task per few whole maps, each with the data of the grids."""
        fine_arrays = [_as_dask(field) for field in fields]
        budget = max(BLOCK_VALUES // int(np.prod(self.common.parts_shape)), 1)
        lead_chunks = _leading_sizes(fine_arrays[0].chunks[:-2], budget)
        arrays = [array.rechunk((*lead_chunks, -1, -1), method="tasks") for array in (_as_dask(given), *fine_arrays)]
        shared, blocks = dask.delayed(known, traverse=False), [_blocks(array) for array in arrays]
        tasks = []
        for index in np.ndindex(arrays[0].numblocks[:-2]):
            at = (*index, 0, 0)
            origin = tuple(int(sum(sizes[:i])) for sizes, i in zip(arrays[0].chunks, at, strict=True))
            tasks.append(compare(blocks[0][at], blocks[1][at], shared, origin, *(extra[at] for extra in blocks[2:])))
        return tasks

    def place(self, x: xr.DataArray, index: tuple[int, ...]) -> dict[str, Any]:
        """Return the centre of a region."""
        where = {str(dim): _label(x, str(dim), i) for dim, i in zip(x.dims[:-2], index[:-2], strict=True)}
        for dim, regions, i in zip(x.dims[-2:], (self.common.y, self.common.x), index[-2:], strict=True):
            where[str(dim)] = float(regions.centres[i]) / self.at_coarse.unit
        return where


def _aligned(fine: xr.Dataset, at_fine: Horizontal, at_coarse: Horizontal) -> tuple[xr.Dataset, Horizontal]:
    """Order the axes of ``fine`` as those of the coarse grid, on its branch of longitude."""
    axes = []
    for name, axis, coarse_axis in zip(at_fine.dims, _axes(at_fine.grid), _axes(at_coarse.grid), strict=True):
        if axis.ascending != coarse_axis.ascending:
            fine, axis = fine.isel({name: slice(None, None, -1)}), axis.reverse()
        if axis.kind == coarse_axis.kind == "longitude":
            start = _seam(axis, coarse_axis)
            fine = fine.roll({name: -start}, roll_coords=True) if start else fine
            axis = _turned(axis, start, coarse_axis)
        if bounds_in(fine, name) is None:
            parts = _parts(fine[name].values * at_fine.unit, axis, coarse_axis)
            if parts is axis:
                require_known(unknown_cells(fine, name, fine[name].values, axis.kind))
            axis = parts
        axes.append(axis)
    return fine, replace(at_fine, grid=at_fine.grid.with_axes(*axes))


def _axes(grid: RectilinearGrid | CurvilinearGrid) -> tuple[CellAxis, CellAxis]:
    return grid.y, grid.x


def _off(degrees: Any) -> Any:
    """Return distances on a circle, -180 to 180."""
    return (degrees + FULL_CIRCLE / 2) % FULL_CIRCLE - FULL_CIRCLE / 2


def _seam(axis: CellAxis, wanted: CellAxis) -> int:
    """Return the cell of a closed circle that starts where ``wanted`` does; 0 if the axis is open."""
    return int(np.abs(_off(axis.edges[:-1] - wanted.edges[0])).argmin()) if axis.periodic and wanted.periodic else 0


def _turned(axis: CellAxis, first: int, wanted: CellAxis) -> CellAxis:
    """Return the axis starting at its cell ``first``, on the branch of ``wanted``."""
    circle = np.copysign(FULL_CIRCLE, axis.edges[-1] - axis.edges[0])
    edges = np.concatenate([axis.edges[first:], axis.edges[1 : first + 1] + circle])
    return CellAxis(edges + FULL_CIRCLE * round((wanted.edges[0] - edges[0]) / FULL_CIRCLE), axis.kind)


def _parts(centres: np.ndarray, axis: CellAxis, wanted: CellAxis) -> CellAxis:
    """Return equal parts of the coarse cells if these have the same centres, else the axis unchanged."""
    if axis.size % wanted.size or axis.kind != wanted.kind:
        return axis
    parts = wanted.refine(axis.size // wanted.size)
    offsets = centres - parts.centres
    offsets = _off(offsets) if axis.kind == "longitude" else offsets
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


def _window(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return values[np.ix_(rows, columns)]


def _judged(
    x: xr.DataArray, y: xr.DataArray, sizes: Any, cells: Aggregation, weights: Any, bounds: Bounds, areas: Any,
    signs: bool,
) -> Found:  # fmt: skip
    """Check block by block along the other dimensions and along rows, and combine."""
    coarse, fine = _as_dask(x.data), _as_dask(y.data)
    factor_y = cells.factor_y
    needs_copies = areas is not None or sizes is not None or fine.dtype not in (np.float32, np.float64)
    lead_chunks, rows = _block_sizes(fine, factor_y, BLOCK_VALUES if needs_copies else UNCOPIED_VALUES)
    fine = fine.rechunk((*lead_chunks, tuple(n * factor_y for n in rows), -1), method="tasks")
    coarse = coarse.rechunk((*lead_chunks, rows, -1), method="tasks")
    size = None if sizes is None else _as_dask(sizes).rechunk(fine.chunks, method="tasks")
    coarse_blocks, fine_blocks, size_blocks = _blocks(coarse), _blocks(fine), None if size is None else _blocks(size)
    starts = [np.cumsum([0, *sizes]) for sizes in coarse.chunks]
    columns = np.arange(coarse.shape[-1])
    # The data of a band of rows are the same at all times.
    bands = []
    for first, count in zip(starts[-2], rows, strict=False):
        span = np.arange(first, first + count)
        part = [None, None] if areas is None else [areas[0][span], areas[1][_fine_rows(span, factor_y)]]
        bands.append(dask.delayed(Band(cells.window(span, columns), partial(weights, span, columns), part),
                                  traverse=False))  # fmt: skip
    tasks = []
    for index in np.ndindex(fine.numblocks[:-1]):
        at = (*index, 0)
        origin = tuple(int(start[i]) for start, i in zip(starts, at, strict=True))
        tasks.append(dask.delayed(_compare_block, traverse=False)(
            coarse_blocks[at], fine_blocks[at], bands[index[-1]], origin, bounds, signs,
            None if size_blocks is None else size_blocks[at]
        ))  # fmt: skip
    return _joined(tasks)


@dataclass(frozen=True, eq=False)
class Band:
    """Data of a band of coarse rows: area fractions, areas, and areas of cells if values are sums."""

    cells: Aggregation
    area: Callable[[], np.ndarray]
    sums: list[Any]


def _blocks(array: da.Array) -> np.ndarray:
    """Return the blocks of an array, optimised together: one by one would take quadratic time."""
    return array.to_delayed()


def _fine_rows(span: np.ndarray, factor: int) -> np.ndarray:
    return (span[:, None] * factor + np.arange(factor)).ravel()


def _compare_block(
    coarse: np.ndarray, fine: np.ndarray, band: Band, origin: tuple[int, ...], bounds: Bounds, signs: bool,
    size: np.ndarray | None,
) -> Found:  # fmt: skip
    infinite, sign_counts = Infinite.of(coarse, origin), Signs.of(coarse, fine) if signs else Signs()
    x, y = np.asarray(coarse, dtype=np.float64), np.asarray(fine)
    if band.sums[0] is not None:
        # The sum over the valid parts equals that of the whole, however small the valid area is.
        share = band.cells.masked(np.isfinite(y)).valid_fraction
        x, y = x / (band.sums[0] * np.where(share > 0, share, 1.0)), y.astype(np.float64) / band.sums[1]
    return chunk(x, y, band.cells, band.area(), origin, bounds, size), infinite, sign_counts


def _compare_regions(
    given: np.ndarray, made: np.ndarray, common: Overlap, origin: tuple[int, ...], bounds: Bounds, signs: bool,
    **options: Any,
) -> Found:  # fmt: skip
    sign_counts = Signs.of(given, made) if signs else Signs()
    return overlap_chunk(given, made, common, origin, bounds, **options), Infinite.of(given, origin), sign_counts


def _joined(tasks: list[Any]) -> Found:
    """Compute all blocks and combine their findings."""
    partials, infinite, signs = zip(*computed(*tasks), strict=True)
    return combine_all(list(partials)), sum(infinite, Infinite()), sum(signs, Signs())


def _as_dask(data: Any) -> da.Array:
    return data if isinstance(data, da.Array) else da.from_array(data, chunks=-1, name=False)


def _block_sizes(fine: da.Array, factor_y: int, most: int) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Return chunk sizes of the other dimensions, and of the coarse rows, that keep a block within ``most`` values.

    Dimensions are split only as far as needed: Dask copies what it splits off.
    """
    chunks = fine.chunks[-2]
    if max(chunks) * fine.shape[-1] <= most and not any(size % factor_y for size in chunks):
        budget = max(most // (max(chunks) * fine.shape[-1]), 1)
        return _leading_sizes(fine.chunks[:-2], budget), tuple(size // factor_y for size in chunks)
    row_values = fine.shape[-1] * factor_y
    coarse_rows = fine.shape[-2] // factor_y
    per_block = max(min(most // row_values, coarse_rows), 1)
    rows = (per_block,) * (coarse_rows // per_block)
    rows += (coarse_rows % per_block,) if coarse_rows % per_block else ()
    budget = max(most // (row_values * per_block), 1)
    return _leading_sizes(fine.chunks[:-2], budget), rows


def _leading_sizes(chunks: tuple[tuple[int, ...], ...], budget: int) -> tuple[Any, ...]:
    """Return chunk sizes of the other dimensions with at most ``budget`` maps per chunk."""
    lead_chunks: list[Any] = []
    for sizes in reversed(chunks):
        lead_chunks.append(min(max(sizes), budget))
        budget = max(budget // max(sizes), 1)
    return tuple(reversed(lead_chunks))
