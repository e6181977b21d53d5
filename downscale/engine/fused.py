"""Computation of a block in one compiled pass, with rows shared among threads.

The tensor counterpart is :mod:`downscale.engine.tensors`; both conserve alike and agree to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.engine.checks import areas, average_to_target, check, convert_to_sums, mask_uncovered, report_infeasible
from downscale.engine.cut import Cut
from downscale.engine.job import Job
from downscale.engine.memory import BATCH_VALUES
from downscale.errors import InputError, ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.fields.fill import fill_missing
from downscale.kernels.refine import BOUNDED, CELL, NO_LAW, UNROLLED, apply_operator, refine
from downscale.kernels.windows import CellFractions, Detail, Law, Operator, Windows, equalise_rows
from downscale.nn.separable import Separable

EMPTY = np.empty((0, 0))
NO_DETAIL = Detail(np.empty((0, 0, 0, 0), np.float32), np.empty(0, np.int64), False)
# Bytes of the rows of a pattern that stay in the cache while they are added to one map after another.
PATTERN_BYTES = 500_000


@dataclass(frozen=True, eq=False)
class Layout:
    """Inputs of the kernel besides the values: the same for all maps of a block."""

    y: Windows
    x: Windows
    closed: bool
    cells: Aggregation
    subcell_fraction: NDArray[np.float64]
    terrain: NDArray[np.float64]
    patterns: NDArray[np.float32]
    is_masked: NDArray[np.bool_] | None
    reach: tuple[int, int]


def refine_maps(
    maps: NDArray[Any], fine: NDArray[Any], job: Job, rows: Cut, columns: Cut, statics: dict[str, NDArray[Any]],
    threads: int = 1, position: NDArray[np.int64] | None = None,
) -> None:  # fmt: skip
    """Write the fine cells of some maps into ``fine``; rows are shared among ``threads``.

    ``position`` is that of the climatological pattern of each map in ``statics["detail"]``, if there are any.
    """
    if position is not None and "detail" in statics and not (rows.core == rows.input and columns.core.is_whole):
        # Only the patterns of these maps are copied.
        chosen, position = np.unique(position, return_inverse=True)
        statics = {**statics, "detail": statics["detail"][chosen]}
    layout = _layout(job, rows, columns, statics)
    area = None
    if job.extensive:
        area = areas(statics["mask"] > 0.5 if "mask" in statics else None, job, rows, columns)
    if area is None and job.target is None:
        _refine_maps(maps, fine, layout, job, rows, columns, threads, position)
        return
    shape = layout.cells.fine_shape
    batch = max(BATCH_VALUES // max(shape[0] * shape[1], 1), 1)
    for start in range(0, len(maps), batch):
        part = maps[start : start + batch]
        means = part if area is None else part / area
        # Pieces are never stored: the stored values are means over them.
        stored = np.empty((len(part), *shape), job.dtype if job.target is None else np.float64)
        own = None if position is None else position[start : start + batch]
        _refine_maps(means, stored, layout, job, rows, columns, threads, own)
        convert = convert_to_sums if job.target is None else average_to_target
        fine[start : start + batch] = convert(stored, job, rows, columns)


def _layout(job: Job, rows: Cut, columns: Cut, statics: dict[str, NDArray[Any]]) -> Layout:
    assert isinstance(job.upscaler, Separable)
    y, x = (
        Windows.of(axis, factor, cut.core.first, cut.core.last, cut.input.first, cut.input.length, UNROLLED)
        for axis, factor, cut in zip(job.upscaler.axes, job.upscaler.factor, (rows, columns), strict=True)
    )
    closed = job.coarse.x.periodic and columns.input.is_whole
    cells = job.cells.window(rows.core.cells, columns.core.cells)
    core_cells = rows.core.slice_in(rows.input, cells.factor_y), columns.core.slice_in(columns.input, cells.factor_x)
    valid = statics["mask"][core_cells] > 0.5 if "mask" in statics else None
    subcell_fraction = EMPTY if cells.cell_fraction is None else cells.cell_fraction
    x_fraction, _ = equalise_rows(job.cells.x_fraction.reshape(-1, cells.factor_x))
    cells = replace(cells, x_fraction=x_fraction[columns.core.cells].ravel())
    if valid is not None:
        subcell_fraction = np.asarray(cells.apply_mask(valid).fractions(np.float64(0)))
    terrain = np.ascontiguousarray(statics["terrain"][core_cells], np.float64) if "terrain" in statics else EMPTY
    patterns = NO_DETAIL.patterns
    if "detail" in statics:
        patterns = np.ascontiguousarray(statics["detail"][(..., *core_cells)], np.float32)
    is_masked = None if valid is None or valid.all() else ~valid
    fraction = np.ascontiguousarray(subcell_fraction)
    return Layout(y, x, closed, cells, fraction, terrain, patterns, is_masked, job.upscaler.reach)


def _refine_maps(
    maps: NDArray[Any], fine: NDArray[Any], layout: Layout, job: Job, rows: Cut, columns: Cut, threads: int,
    position: NDArray[np.int64] | None = None,
) -> None:  # fmt: skip
    """Write the fine cells of some maps, and check the maps that the kernel flags."""
    dtype = np.float32 if maps.dtype == fine.dtype == np.float32 else np.float64
    values = np.ascontiguousarray(maps, dtype)
    missing = np.isnan(values)
    source = values if job.power is None else job.power.forward(values.astype(np.float64)).astype(dtype)
    if missing.any():
        source = fill_missing(source.astype(np.float64), missing, layout.reach, layout.closed).astype(dtype)
    x = np.ascontiguousarray(values[:, rows.core.slice_in(rows.input), columns.core.slice_in(columns.input)])
    detail = NO_DETAIL
    if position is not None and layout.patterns.size:
        detail = Detail(layout.patterns, np.ascontiguousarray(position, np.int64), job.in_proportion)
    doubtful_cells = _run_kernel(source, x, fine, layout, detail, _choose_law(x, job, rows, columns), threads)
    coarse = x if layout.is_masked is None else mask_uncovered(x, ~layout.is_masked, job, rows, columns)
    if layout.is_masked is not None:
        fine[:, layout.is_masked] = np.nan
    for index in np.flatnonzero(doubtful_cells):
        check(fine[index : index + 1], coarse[index : index + 1], job, rows, columns)


def _choose_law(x: NDArray[Any], job: Job, rows: Cut, columns: Cut) -> Law:
    """Return what is imposed on the coarse values ``x``; refuse or report those out of bounds."""
    # Conservation also for conservative operators: their rounding scales with the neighbours' values, which exceeds the
    # rounding of a cell with much smaller values.
    kind = NO_LAW if job.conserve is None else CELL if job.bounds == (None, None) else BOUNDED
    low, high = job.limits if kind == BOUNDED else (-np.inf, np.inf)
    out_of_bounds = (x < low) | (x > high)
    if out_of_bounds.any():
        # Conservation has priority over bounds: such a cell is filled with its coarse value.
        report_infeasible(out_of_bounds, x, job, rows, columns)
    tolerance = np.inf if kind == NO_LAW or job.check == "skip" else job.tolerance
    return Law(kind, low, high, tolerance, 1.0 if job.power is None else job.power.inverse)


def _run_kernel(
    source: NDArray[Any], x: NDArray[Any], fine: NDArray[Any], layout: Layout, detail: Detail, law: Law, threads: int
) -> NDArray[np.int64]:
    """Return the number of doubtful cells of each map, after the kernel has written all rows."""
    operator, cells = _operator(layout.y, layout.x, source.shape[1], layout.closed), layout.cells
    subcells = CellFractions(cells.y_fraction, cells.x_fraction, layout.subcell_fraction, layout.terrain)
    doubtful_cells = np.zeros(len(source), np.int64)
    # The same for all blocks of a job, since the two passes round differently.
    is_linear = not layout.terrain.size and not detail.patterns.size and law.power == 1
    is_pure_operator = law.kind == NO_LAW and law.tolerance == np.inf and is_linear

    def refine_piece(maps: slice, first: int, last: int) -> tuple[slice, NDArray[np.int64]]:
        count = np.zeros(len(source[maps]), np.int64)
        if is_pure_operator:
            apply_operator(source[maps], fine[maps], first, last, operator)
            _blank_missing(x[maps], fine[maps], first, last)
        else:
            own = detail._replace(position=detail.position[maps])
            refine(source[maps], x[maps], fine[maps], first, last, operator, subcells, own, law, count)
        return maps, count

    band = None
    if detail.patterns.size:
        band = max(PATTERN_BYTES // (4 * detail.patterns.shape[1] * cells.factor_y * fine.shape[-1]), UNROLLED)
    for maps, count in in_threads(refine_piece, x.shape, threads, band):
        doubtful_cells[maps] += count
    return doubtful_cells


def _operator(y: Windows, x: Windows, rows: int, closed: bool, dtype: Any = np.float64) -> Operator:
    """Return the arguments of the kernel for ``rows`` input rows."""
    y_weights, x_weights = (w.reshape(-1, w.shape[2]).astype(dtype, copy=False) for w in (y.weights, x.runs))
    return Operator(y.table(rows), y_weights, x.cuts, x.starts, x_weights, x.left, x.wide, bool(closed))


def in_threads(
    function: Callable[..., Any], shape: tuple[int, ...], threads: int, band: int | None = None
) -> list[Any]:
    """Return the results of ``function`` for all maps and rows, called by threads in turn; one thread is this one.

    With ``band``, pieces have at most this many rows, of as many maps as possible.
    """
    pieces = _pieces(shape, threads) if band is None else _bands(shape, threads, band)
    if threads == 1:
        return [function(*piece) for piece in pieces]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda arguments: function(*arguments), pieces))


def _blank_missing(x: NDArray[Any], fine: NDArray[Any], first: int, last: int) -> None:
    """Set the fine cells of missing coarse cells to NaN, in the rows ``first`` to ``last``."""
    missing = np.isnan(x[:, first:last])
    if missing.any():
        factors = [fine.shape[axis] // x.shape[axis] for axis in (1, 2)]
        rows = fine[:, first * factors[0] : last * factors[0]]
        rows[missing.repeat(factors[0], axis=1).repeat(factors[1], axis=2)] = np.nan


def _pieces(shape: tuple[int, ...], threads: int) -> list[tuple[slice, int, int]]:
    """Return several pieces of maps and rows per thread: whole maps if there are many, else bands of rows."""
    maps, rows = shape[0], shape[1]
    if threads == 1:
        return [(slice(None), 0, rows)]
    piece_count = 4 * threads
    step = max(maps // piece_count, 1)
    bands = min(max(-(-piece_count // max(maps, 1)), 1), rows)
    edges = [rows * k // bands for k in range(bands + 1)]
    return [
        (slice(start, start + step), first, last)
        for start in range(0, maps, step)
        for first, last in pairwise(edges)
    ]


def _bands(shape: tuple[int, ...], threads: int, band: int) -> list[tuple[slice, int, int]]:
    """Return pieces of at most ``band`` rows, each of an equal part of the maps per thread."""
    maps, rows = shape[0], shape[1]
    step = max(-(-maps // threads), 1)
    return [
        (slice(start, start + step), first, min(first + band, rows))
        for first in range(0, rows, band)
        for start in range(0, maps, step)
    ]


def apply_bare(
    coarse: NDArray[Any], operator: Separable, out: NDArray[Any], threads: int = 1
) -> NDArray[Any]:
    """Write fine maps without gaps into ``out``, without conservation and checks, and return it.

    Shapes are (maps, n_y, n_x) and (maps, n_y * factor_y, n_x * factor_x). The precision is that of ``out``, float32 or
    float64; C order is fastest.
    """
    (n_y, n_x), (factor_y, factor_x), dtype = operator.grid.shape, operator.factor, out.dtype
    shape = len(coarse), n_y * factor_y, n_x * factor_x
    if coarse.shape != (len(coarse), n_y, n_x) or out.shape != shape:
        raise ShapeError(
            f"expected coarse of shape (maps, {n_y}, {n_x}) and out of shape {shape}, received {coarse.shape} and "
            f"{out.shape}; cut them to fit"
        )
    if dtype not in (np.float32, np.float64) or not out.flags.writeable:
        raise InputError(f"expected out to be a float32 or float64 array that may be written, received {dtype}")
    if not out.flags.c_contiguous or not out.flags.aligned:
        # The loops write whole cache lines of rows in order.
        out[...] = apply_bare(coarse, operator, np.empty(shape, dtype), threads)
        return out
    y, x = (
        Windows.of(axis, factor, 0, n, 0, n, UNROLLED)
        for axis, factor, n in zip(operator.axes, operator.factor, (n_y, n_x), strict=True)
    )
    layout = _operator(y, x, n_y, operator.grid.x.periodic, dtype)

    def apply_piece(maps: slice, first: int, last: int) -> None:
        apply_operator(coarse[maps], out[maps], first, last, layout)

    in_threads(apply_piece, coarse.shape, threads)
    return out
