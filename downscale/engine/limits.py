"""Bounds of a block that are fields: fine values of other variables, or fields on the fine grid."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from downscale.engine.checks import check, report_out_of_order
from downscale.engine.cut import Cut
from downscale.engine.fused import EMPTY, in_threads
from downscale.engine.job import Job
from downscale.kernels.limit import clip_cells
from downscale.kernels.windows import CellFractions

# Without fractions, cells conserve sums.
SUMS = CellFractions(np.empty(0), np.empty(0), EMPTY, EMPTY)
NO_FIELD = np.empty((0, 0, 0))


class Limits(NamedTuple):
    """Fine fields that bound the values of a variable, with its leading dimensions or without any; None for none."""

    lower: Any = None
    upper: Any = None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that are given, by side."""
        return {side: field for side, field in self._asdict().items() if field is not None}


def impose_limits(
    fine: NDArray[Any], maps: NDArray[Any], limits: Limits, job: Job, rows: Cut, columns: Cut, threads: int = 1
) -> None:
    """Bring the fine values of some maps within their limits, in place, with the coarse means ``maps``.

    Cells without a value beyond its limits keep their bits. The mean of a cell has priority over its limits.
    """
    fractions = SUMS if job.extensive else _fractions(job, rows, columns)
    coarse = job.select_variable(maps)[:, rows.core.slice_in(rows.input), columns.core.slice_in(columns.input)]
    x = np.ascontiguousarray(coarse, np.float32 if coarse.dtype == np.float32 else np.float64)
    lower, upper = (
        NO_FIELD.astype(job.dtype) if field is None else _stored_within(field, job.dtype, side)
        for field, side in zip(limits, (np.inf, -np.inf), strict=True)
    )
    tolerance = job.tolerance

    def clip_piece(piece: slice, first: int, last: int) -> tuple[slice, Any]:
        count = len(x[piece])
        found = np.zeros(count, np.int64), np.zeros(count), np.zeros((count, 2), np.int64), np.zeros(count, np.int64)
        own = (field[piece] if len(field) > 1 else field for field in (lower, upper))
        clip_cells(x[piece], fine[piece], *own, job.limits, fractions, first, last, tolerance, *found)
        return piece, found

    count, doubtful = 0, np.zeros(len(x), np.int64)
    worst, place = 0.0, (0, 0)
    for piece, (infeasible, distances, places, doubts) in in_threads(clip_piece, x.shape, threads):
        count += int(infeasible.sum())
        doubtful[piece] += doubts
        largest = int(np.abs(distances).argmax()) if len(distances) else 0
        if len(distances) and abs(distances[largest]) > abs(worst):
            worst, place = float(distances[largest]), (int(places[largest, 0]), int(places[largest, 1]))
    if count:
        report_out_of_order(count, worst, place, job, rows, columns)
    for index in np.flatnonzero(doubtful):
        check(*_fine_and_means(fine[index : index + 1], x[index : index + 1], job, rows, columns), job, rows, columns)


def _fractions(job: Job, rows: Cut, columns: Cut) -> CellFractions:
    cells = job.cells.window(rows.core.cells, columns.core.cells)
    fraction = EMPTY if cells.cell_fraction is None else cells.cell_fraction
    return CellFractions(cells.y_fraction, cells.x_fraction, fraction, EMPTY)


def _fine_and_means(
    fine: NDArray[Any], coarse: NDArray[Any], job: Job, rows: Cut, columns: Cut
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return fine values and the means of their coarse cells, from sums too, NaN for cells without a fine value."""
    fraction = job.cells.window(rows.core.cells, columns.core.cells).apply_mask(np.isfinite(fine)).valid_fraction
    means = np.where(fraction > 0, coarse, np.nan)
    if not job.extensive:
        return fine, means
    cells = rows.core.fine_cells(job.cells.factor_y), columns.core.fine_cells(job.cells.factor_x)
    area = job.coarse.areas(rows.core.cells, columns.core.cells) * np.where(fraction > 0, fraction, 1.0)
    return fine / job.fine.areas(*cells), means / area


def _stored_within(field: NDArray[Any], dtype: np.dtype[Any], inward: float) -> NDArray[Any]:
    """Return a limit as maps of a type, rounded inward where the type cannot hold it; one map if it is for all."""
    maps = field[None] if field.ndim == 2 else field.reshape(-1, *field.shape[-2:])
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(maps, dtype)
    if np.can_cast(maps.dtype, dtype):
        return stored
    is_outside = stored < maps if inward > 0 else stored > maps
    return np.where(is_outside, np.nextafter(stored, dtype.type(inward)), stored) if is_outside.any() else stored
