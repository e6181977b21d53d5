"""Conservation validators on xarray objects: align two grids, judge block by block, report (never torch)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from downscale.diagnostics.conservation import Partial, chunk, combine_all, default_tolerance
from downscale.diagnostics.overlap import Regions, overlap_chunk
from downscale.diagnostics.report import ConservationReport, VariableReport, finalize
from downscale.errors import GridError, InputError, OptionError, listing
from downscale.fields.aggregate import Aggregation
from downscale.grid.axis import FULL_CIRCLE, CellAxis
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.parts import Parts, PartsGrid
from downscale.io.cf import (
    Horizontal,
    XarrayObject,
    as_dataset,
    bounds_of,
    horizontal,
    horizontal_variables,
    is_categorical,
)
from downscale.io.quantities import Bounds, is_number, quantity_of, variable_bounds
from downscale.io.statics import mask_on_grid, pick_mask
from downscale.options import option
from downscale.stretches import on_one_line

# Fine values judged at once; the sums need a few copies in float64.
BLOCK_VALUES = 4_000_000
LAWS = ("cell", "total")
QUANTITIES = ("intensive", "extensive", None)
# Times stored as floating-point days since a far date miss each other by microseconds.
SAME_TIME = np.timedelta64(1, "ms")


def check_conservation(
    coarse: XarrayObject,
    fine: XarrayObject,
    *,
    law: str = "cell",
    tolerance: float | None = None,
    bounds: Any = "auto",
    data_vars: Any = None,
    quantity: str | None = None,
    mask: Any = None,
    na_thres: float = 1.0,
) -> ConservationReport:
    """Check that averaging ``fine`` over each cell of ``coarse`` gives its value back.

    Works on anybody's output, since it looks at numbers and grids only. Lazy fields are judged block by block.

    Parameters
    ----------
    coarse, fine : Dataset or DataArray
        The given field and the one made of it; the order of latitudes and the branch of longitudes may differ. A fine
        axis without bounds whose centres are those of equal parts of the coarse cells is taken for these parts. Where
        the grids do not nest, the cells judged are the smallest regions that are unions of cells of the one and of the
        other (their edges are those that both grids have), and only what the made field covers counts. Where times or
        layers differ in number, those of ``fine`` are first averaged over those of ``coarse`` by their bounds.
    law : {"cell", "total"}
        The law to judge by; both errors are reported.
    tolerance : float, optional
        Largest relative error that passes; by default 1e-6 for float32, 1e-12 for float64 (the coarser of the two).
    bounds : "auto", (lower, upper), mapping of name to these, or None
        Fine values outside are counted; "auto" takes them from the standard name.
    data_vars : str or list of str, optional
        Variables to check; all that both objects have by default.
    quantity : {"intensive", "extensive"}, optional
        Means or sums over cells; read from ``cell_methods`` and units by default.
    mask : Dataset, DataArray or file, optional
        The mask of valid fine cells that ``fine`` was made with: coarse cells without any count as masked, not lost.
    na_thres : float
        The threshold that ``fine`` was made with: blank cells of which a larger share was missing are not lost.

    Returns
    -------
    ConservationReport
        The largest relative and absolute cell error and where, the global error, and counts.

    Raises
    ------
    GridError, ShapeError, InputError
        If the grids do not nest, the other dimensions differ, or there is no variable to check.
    OptionError
        If an option is not legal.
    """
    _require_legal(law, tolerance, quantity)
    big, small = as_dataset(coarse)[0], as_dataset(fine)[0]
    if isinstance(coarse, xr.DataArray) and isinstance(fine, xr.DataArray):
        # Two arrays are compared whatever their names.
        small = small.rename({next(iter(small.data_vars)): next(iter(big.data_vars))})
    big, small, sizes = on_one_line(big, small)
    at_coarse, at_fine = horizontal(big), horizontal(small)
    judge = _judge_of(big, small, sizes, at_coarse, at_fine, mask, na_thres)
    reports = {}
    for name in _shared_variables(big, small, at_coarse, at_fine, data_vars):
        reports[name] = _variable_report(name, big[name], judge, law, tolerance, bounds, quantity)
    return ConservationReport(reports)


def _judge_of(
    big: xr.Dataset, small: xr.Dataset, sizes: xr.Dataset | None, at_coarse: Horizontal, at_fine: Horizontal, mask: Any,
    na_thres: float,
) -> _Nested | _Overlapping:  # fmt: skip
    """Return who judges: cell by cell where the fine grid nests, else region by region."""
    turned, there = small, at_fine
    rectilinear = all(isinstance(w.grid, RectilinearGrid) for w in (at_coarse, at_fine))
    if rectilinear and at_coarse.grid.y.kind == at_fine.grid.y.kind:
        turned, there = _aligned(small, at_fine, at_coarse)
        sizes = None if sizes is None else _aligned(sizes, at_fine, at_coarse)[0]
    if not rectilinear or at_coarse.grid.nest_factors(there.grid) is not None:
        if isinstance(at_coarse.grid, CurvilinearGrid) and isinstance(there.grid, CurvilinearGrid):
            # A large fine file has no corners of its own: those of the coarse cells' parts are its.
            there = replace(there, grid=at_coarse.grid.adopt(there.grid))
        cells = Aggregation.between(at_coarse.grid, there.grid)
        hidden = None if mask is None else _without_valid_cell(mask, there.grid, cells)
        return _Nested(turned, at_coarse, there, cells, hidden, sizes)
    axes = zip(_axes(at_coarse.grid), _axes(at_fine.grid), strict=True)
    parts_y, parts_x = (Parts.between(given, made) for given, made in axes)
    blank = None if mask is None else mask_on_grid(pick_mask(mask), at_fine.grid) < 0.5
    return _Overlapping(small, at_coarse, at_fine, (parts_y, parts_x), na_thres, blank)


def _without_valid_cell(mask: Any, grid: Any, cells: Aggregation) -> np.ndarray:
    valid = mask_on_grid(pick_mask(mask), grid) > 0.5
    return cells.share(valid, np.zeros(valid.shape)) == 0


@dataclass(frozen=True, eq=False)
class _Nested:
    """Judges coarse cells one by one, block by block along the other dimensions and along rows."""

    fine: xr.Dataset
    at_coarse: Horizontal
    at_fine: Horizontal
    cells: Aggregation
    hidden: np.ndarray | None
    sizes: xr.Dataset | None
    outside: int = 0

    def judged(self, x: xr.DataArray, y: xr.DataArray, bounds: Bounds, extensive: bool) -> Partial:
        """Return what all blocks find."""
        areas = (self.at_coarse.grid.cell_area, self.at_fine.grid.cell_area) if extensive else None
        x = x if self.hidden is None else x.where(~self.hidden)
        sizes = None if self.sizes is None else self.sizes[str(y.name)].transpose(*y.dims).data
        return _judged(x, y, sizes, self.cells, self.at_coarse.grid.cell_area, bounds, areas)

    def place(self, x: xr.DataArray, index: tuple[int, ...]) -> dict[str, Any]:
        """Return the coordinates of a coarse cell."""
        return {str(dim): _label(x, str(dim), i) for dim, i in zip(x.dims, index, strict=True)}


@dataclass(frozen=True, eq=False)
class _Overlapping:
    """Judges the regions that two grids have in common, a few maps at a time."""

    fine: xr.Dataset
    at_coarse: Horizontal
    at_fine: Horizontal
    parts: tuple[Parts, Parts]
    na_thres: float
    blank: np.ndarray | None

    @property
    def outside(self) -> int:
        """Coarse cells that the made grid does not cover wholly."""
        inside = [((p.owner >= 0) | p.empty).reshape(-1, p.count).all(axis=1).sum() for p in self.parts]
        return int(np.prod(self.at_coarse.grid.shape) - inside[0] * inside[1])

    def judged(self, x: xr.DataArray, y: xr.DataArray, bounds: Bounds, extensive: bool) -> Partial:
        """Return what all blocks find."""
        given, made = _as_dask(x.data), _as_dask(y.data)
        budget = max(BLOCK_VALUES // int(np.prod(PartsGrid(*self.parts).shape)), 1)
        other = _leading_sizes(made.chunks[:-2], budget)
        given, made = given.rechunk((*other, -1, -1)), made.rechunk((*other, -1, -1))
        tasks = []
        for index in np.ndindex(made.numblocks[:-2]):
            origin = tuple(int(sum(sizes[:i])) for sizes, i in zip(given.chunks, (*index, 0, 0), strict=True))
            task = dask.delayed(overlap_chunk)(
                given.blocks[(*index, 0, 0)], made.blocks[(*index, 0, 0)], self.parts, origin, bounds,
                extensive=extensive, na_thres=self.na_thres, hidden=self.blank,
            )  # fmt: skip
            tasks.append(task)
        return combine_all(list(dask.compute(*tasks)))

    def place(self, x: xr.DataArray, index: tuple[int, ...]) -> dict[str, Any]:
        """Return the middle of a region."""
        where = {str(dim): _label(x, str(dim), i) for dim, i in zip(x.dims[:-2], index[:-2], strict=True)}
        for dim, parts, i in zip(x.dims[-2:], self.parts, index[-2:], strict=True):
            where[str(dim)] = float(Regions.of(parts).centres[i]) / self.at_coarse.unit
        return where


def coarse_and_fine(one: XarrayObject, other: XarrayObject) -> tuple[XarrayObject, XarrayObject]:
    """Return two objects with the one of fewer horizontal cells first."""
    cells = [int(np.prod(horizontal(as_dataset(obj)[0]).grid.shape)) for obj in (one, other)]
    return (one, other) if cells[0] <= cells[1] else (other, one)


def _require_legal(law: str, tolerance: float | None, quantity: str | None) -> None:
    for name, value, legal in (("law", law, LAWS), ("quantity", quantity, QUANTITIES)):
        if value not in legal:
            raise OptionError(f"expected {name} to be one of {listing(legal)}, received {value!r}")
    if tolerance is not None and not (is_number(tolerance) and tolerance > 0):
        raise OptionError(f"expected tolerance to be a positive number, received {tolerance!r}")


def _aligned(fine: xr.Dataset, at_fine: Horizontal, at_coarse: Horizontal) -> tuple[xr.Dataset, Horizontal]:
    """Turn the axes of ``fine`` to the order and the branch of longitude of the coarse grid."""
    axes = []
    for name, axis, wanted in zip(at_fine.dims, _axes(at_fine.grid), _axes(at_coarse.grid), strict=True):
        if axis.ascending != wanted.ascending:
            fine, axis = fine.isel({name: slice(None, None, -1)}), axis.reverse()
        if axis.kind == wanted.kind == "longitude":
            first = _seam(axis, wanted)
            fine = fine.roll({name: -first}, roll_coords=True) if first else fine
            axis = _turned(axis, first, wanted)
        if bounds_of(fine, name) is None:
            axis = _parts(fine[name].values * at_fine.unit, axis, wanted)
        axes.append(axis)
    return fine, replace(at_fine, grid=at_fine.grid.with_axes(*axes))


def _axes(grid: RectilinearGrid | CurvilinearGrid) -> tuple[CellAxis, CellAxis]:
    return grid.y, grid.x


def _off(degrees: Any) -> Any:
    """Return distances on a circle, -180 to 180."""
    return (degrees + FULL_CIRCLE / 2) % FULL_CIRCLE - FULL_CIRCLE / 2


def _seam(axis: CellAxis, wanted: CellAxis) -> int:
    """Return the cell of a closed circle that begins where ``wanted`` does; 0 where the axis is open."""
    return int(np.abs(_off(axis.edges[:-1] - wanted.edges[0])).argmin()) if axis.periodic and wanted.periodic else 0


def _turned(axis: CellAxis, first: int, wanted: CellAxis) -> CellAxis:
    """Return the axis begun at its cell ``first``, on the branch of ``wanted``."""
    circle = np.copysign(FULL_CIRCLE, axis.edges[-1] - axis.edges[0])
    edges = np.concatenate([axis.edges[first:], axis.edges[1 : first + 1] + circle])
    return CellAxis(edges + FULL_CIRCLE * round((wanted.edges[0] - edges[0]) / FULL_CIRCLE), axis.kind)


def _parts(centres: np.ndarray, axis: CellAxis, wanted: CellAxis) -> CellAxis:
    """Return equal parts of the coarse cells where these have the given centres, else the axis as it is."""
    if axis.size % wanted.size or axis.kind != wanted.kind:
        return axis
    parts = wanted.refine(axis.size // wanted.size)
    gaps = centres - parts.centres
    gaps = _off(gaps) if axis.kind == "longitude" else gaps
    return parts if np.abs(gaps).max() <= 1e-3 * np.abs(np.diff(parts.edges)).min() else axis


def _shared_variables(
    coarse: xr.Dataset, fine: xr.Dataset, at_coarse: Horizontal, at_fine: Horizontal, wanted: Any
) -> list[str]:
    there = set(horizontal_variables(fine, at_fine))
    shared = [n for n in horizontal_variables(coarse, at_coarse) if n in there and not is_categorical(coarse[n])]
    if wanted is not None:
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        for name in names:
            if name not in shared:
                raise InputError(f"expected a variable of both fields among {listing(shared)}, received {name!r}")
        return names
    if not shared:
        raise InputError(
            f"expected a variable that both fields have, received {listing(coarse.data_vars)} and "
            f"{listing(fine.data_vars)}; rename one"
        )
    return shared


def _variable_report(
    name: str, coarse: xr.DataArray, judge: _Nested | _Overlapping, law: str, tolerance: float | None, bounds: Any,
    quantity: str | None,
) -> VariableReport:  # fmt: skip
    fine = judge.fine[name]
    x, y = _matched(name, coarse, fine, judge.at_coarse, judge.at_fine)
    extensive = (quantity or quantity_of(coarse)) == "extensive"
    total = judge.judged(x, y, variable_bounds(coarse, name, bounds), extensive)
    kinds = [array.dtype for array in (coarse, fine) if array.dtype.kind == "f"] or [np.dtype("f8")]
    allowed = tolerance or option("tolerance") or max(default_tolerance(kind) for kind in kinds)
    units = str(coarse.attrs.get("units", ""))
    return finalize(name, total, law, float(allowed), units, lambda index: judge.place(x, index), judge.outside)


def _label(array: xr.DataArray, dim: str, index: int) -> Any:
    if dim not in array.coords:
        return index
    value = array[dim].values[index]
    return float(value) if np.asarray(value).dtype.kind in "fiu" else str(value)


def _matched(
    name: str, coarse: xr.DataArray, fine: xr.DataArray, at_coarse: Horizontal, at_fine: Horizontal
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return both with the same other dimensions in the same order, horizontal ones last."""
    extra = [d for d in fine.dims if d not in at_fine.dims and d not in coarse.dims]
    others = [d for d in coarse.dims if d not in at_coarse.dims]
    for dim in others:
        if dim not in fine.dims or fine.sizes[dim] != coarse.sizes[dim]:
            has = f"{fine.sizes[dim]} values" if dim in fine.dims else "none"
            raise GridError(f"{name}: expected {coarse.sizes[dim]} values of {dim!r} in the fine field, received {has}")
        if dim in coarse.coords and dim in fine.coords and not coarse[dim].equals(fine[dim]):
            _require_close(name, str(dim), coarse, fine)
    x = coarse.transpose(*others, *at_coarse.dims)
    if extra:
        x = x.expand_dims({d: fine[d] if d in fine.coords else fine.sizes[d] for d in extra})
    return x, fine.transpose(*extra, *others, *at_fine.dims)


def _require_close(name: str, dim: str, coarse: xr.DataArray, fine: xr.DataArray) -> None:
    a, b = coarse[dim].values, fine[dim].values
    if not _equal(a, b):
        raise GridError(f"{name}: expected equal coordinates {dim!r}, received values that differ; select the same")


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype.kind in "fiu" and b.dtype.kind in "fiu":
        return bool(np.allclose(a, b))
    try:
        # Dates of a calendar differ by datetime.timedelta, of which this is a comparison too.
        return bool((np.abs(a - b) <= SAME_TIME).all())
    except TypeError:
        return bool((a == b).all())


def _judged(
    x: xr.DataArray, y: xr.DataArray, sizes: Any, cells: Aggregation, area: np.ndarray, bounds: Bounds, areas: Any
) -> Partial:
    """Judge block by block along the other dimensions and along rows, and combine."""
    coarse, fine = _as_dask(x.data), _as_dask(y.data)
    factor_y = cells.factor_y
    other, rows = _block_sizes(fine, factor_y)
    fine = fine.rechunk((*other, tuple(n * factor_y for n in rows), -1))
    coarse = coarse.rechunk((*other, rows, -1))
    size = None if sizes is None else _as_dask(sizes).rechunk(fine.chunks)
    columns = np.arange(coarse.shape[-1])
    tasks = []
    for index in np.ndindex(fine.numblocks[:-1]):
        origin = tuple(int(sum(sizes[:i])) for sizes, i in zip(coarse.chunks, (*index, 0), strict=True))
        span = np.arange(origin[-2], origin[-2] + rows[index[-1]])
        part = [None if areas is None else a[r] for a, r in zip(
            areas or (None, None), (span, _fine_rows(span, factor_y)), strict=True)]  # fmt: skip
        tasks.append(
            dask.delayed(_judge_block)(
                coarse.blocks[(*index, 0)], fine.blocks[(*index, 0)], cells.window(span, columns), area[span], origin,
                bounds, part, None if size is None else size.blocks[(*index, 0)]
            )
        )  # fmt: skip
    return combine_all(list(dask.compute(*tasks)))


def _fine_rows(span: np.ndarray, factor: int) -> np.ndarray:
    return (span[:, None] * factor + np.arange(factor)).ravel()


def _judge_block(
    coarse: np.ndarray, fine: np.ndarray, cells: Aggregation, area: np.ndarray, origin: tuple[int, ...],
    bounds: Bounds, areas: list[Any], size: np.ndarray | None,
) -> Partial:  # fmt: skip
    x, y = np.asarray(coarse, dtype=np.float64), np.asarray(fine)
    if areas[0] is not None:
        # The sum of the valid parts is to be that of the whole, however little of it is valid.
        share = cells.share(np.isfinite(y), np.zeros(y.shape))
        x, y = x / (areas[0] * np.where(share > 0, share, 1.0)), y.astype(np.float64) / areas[1]
    return chunk(x, y, cells, area, origin, bounds, size)


def _as_dask(data: Any) -> da.Array:
    return data if isinstance(data, da.Array) else da.from_array(data, chunks=-1, name=False)


def _block_sizes(fine: da.Array, factor_y: int) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Return chunk sizes of the other dimensions, and of the coarse rows, that keep a block small."""
    row_values = fine.shape[-1] * factor_y
    coarse_rows = fine.shape[-2] // factor_y
    per_block = max(min(BLOCK_VALUES // row_values, coarse_rows), 1)
    rows = (per_block,) * (coarse_rows // per_block)
    rows += (coarse_rows % per_block,) if coarse_rows % per_block else ()
    budget = max(BLOCK_VALUES // (row_values * per_block), 1)
    return _leading_sizes(fine.chunks[:-2], budget), rows


def _leading_sizes(chunks: tuple[tuple[int, ...], ...], budget: int) -> tuple[Any, ...]:
    """Return chunk sizes of the other dimensions that hold at most ``budget`` maps."""
    other: list[Any] = []
    for sizes in reversed(chunks):
        other.append(min(max(sizes), budget))
        budget = max(budget // max(sizes), 1)
    return tuple(reversed(other))
