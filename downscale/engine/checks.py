"""Warnings and errors of a block: infinite values, coarse cells without valid area, failed conservation."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.conservation.measures import Signs, check_block, infinite_message, negative_message
from downscale.engine.cut import Cut
from downscale.engine.job import Job
from downscale.errors import BoundsError, ConservationError, InputError
from downscale.fields.aggregate import SupermeshMean
from downscale.grid.subcells import SubcellGrid

logger = logging.getLogger("downscale")


def replace_infinite(values: NDArray[Any], name: str, check: str = "warn") -> NDArray[Any]:
    """Return the values of a variable with NaN for infinite ones, which have no mean; the option ``check`` applies."""
    is_finite = values.dtype.kind != "f" or np.isfinite(values)
    if np.all(is_finite):
        return values
    if bool(np.isinf(values).any()):
        _report(infinite_message(name), check)
    return np.where(is_finite, values, np.nan)


def require_finite(maps: NDArray[Any], fine: NDArray[Any], job: Job) -> None:
    """Report values so near the largest of their type that interpolation makes them infinite."""
    largest = float(np.fmax.reduce(np.abs(maps), axis=None, initial=0.0))
    if job.check == "skip" or job.dtype.kind != "f" or largest < np.finfo(job.dtype).max / 1e3:
        return
    # A sum of two infinities is NaN.
    infinite_count = int(np.isinf(fine).sum()) or int(np.isnan(fine).any() and not np.isnan(maps).any())
    if not infinite_count:
        return
    line = (
        f"{job.name}: expected values that {job.dtype} can hold after interpolation, received up to {largest:.3g} and "
        "infinite fine values; convert to other units"
    )
    if job.check == "raise":
        raise InputError(line)
    _report(line, job.check)


def areas(valid: NDArray[np.bool_] | None, job: Job, rows: Cut, columns: Cut) -> NDArray[np.float64]:
    """Return the areas over which sums are spread: the valid areas of the input cells."""
    if job.target is None:
        area = job.coarse.areas(rows.input.cells, columns.input.cells)
    else:
        # The areas by which pieces are averaged, also on a plane.
        axes = job.coarse.y.measure[rows.input.cells], job.coarse.x.measure[columns.input.cells]
        area = SubcellGrid(*job.target).unit_area * np.multiply.outer(*axes)
    if valid is None:
        return area
    valid_fraction = job.cells.window(rows.input.cells, columns.input.cells).apply_mask(valid).valid_fraction
    return area * np.where(valid_fraction > 0, valid_fraction, 1.0)


def mask_uncovered(
    coarse: NDArray[Any], valid: NDArray[np.bool_], job: Job, rows: Cut, columns: Cut
) -> NDArray[Any]:
    """Return coarse values with NaN for cells without a valid fine cell: conservation concerns valid area."""
    cells = job.cells.window(rows.core.cells, columns.core.cells)
    is_uncovered = cells.apply_mask(valid).valid_fraction == 0
    if bool((is_uncovered & np.isfinite(coarse)).any()):
        # The text is the same for all blocks, so that it is shown once. Means over zero area lose nothing; sums do.
        line = f"{job.name}: coarse cells with a value have no valid fine cell under mask="
        if job.extensive:
            _report(line + "; their sums are lost in the result, widen the mask to include them", job.check)
        else:
            logger.info(line)
    return np.where(is_uncovered, np.nan, coarse)


def average_to_target(piece_values: NDArray[Any], job: Job, rows: Cut, columns: Cut) -> NDArray[Any]:
    """Return means of pieces over target cells, or sums over the covered and valid part for sums over cells."""
    assert job.target is not None
    groups = SupermeshMean.of(*job.target, rows.core.cells, columns.core.cells)
    valid = np.isfinite(piece_values)
    groups = groups.apply_mask(None if valid.all() else valid)
    target_values = _clip_to_bounds(groups.mean(piece_values, job.na_thres), piece_values, groups, job)
    if job.extensive:
        target_values = target_values * groups.valid_measure * SubcellGrid(*job.target).unit_area
    return target_values.astype(job.dtype)


def _clip_to_bounds(means: NDArray[Any], piece_values: NDArray[Any], groups: SupermeshMean, job: Job) -> NDArray[Any]:
    """Return means with values just beyond a bound, by rounding, set to that bound."""
    low, high = job.limits
    if (is_above := means > high).any():
        means = np.where(is_above, np.minimum(means, groups.largest(piece_values)), means)
    if (is_below := means < low).any():
        means = np.where(is_below, np.maximum(means, -groups.largest(-piece_values)), means)
    return means


def convert_to_sums(stored: NDArray[Any], job: Job, rows: Cut, columns: Cut) -> NDArray[Any]:
    """Return the means over the fine cells of the core as sums over them."""
    core_cells = rows.core.fine_cells(job.cells.factor_y), columns.core.fine_cells(job.cells.factor_x)
    return (stored.astype(np.float64) * job.fine.areas(*core_cells)).astype(job.dtype)


def report_infeasible(
    is_infeasible: NDArray[np.bool_], coarse: NDArray[Any], job: Job, rows: Cut, columns: Cut
) -> None:
    """Warn that coarse values are outside the bounds, or raise an error."""
    index = tuple(int(i) for i in np.argwhere(is_infeasible)[0])
    location = _location(job, rows, columns, index[-2:])
    low, high = (f"{b:g}" if b is not None else "none" for b in job.bounds)
    line = (
        f"{job.name}: expected coarse values within the bounds [{low}, {high}], received {float(coarse[index]):.6g} at "
        f"{location} ({int(is_infeasible.sum())} cells of this block); widen bounds= or repair the input"
    )
    if job.strict_bounds and job.check == "raise":
        raise BoundsError(line)
    _report(line + "; those cells are filled with their coarse value", job.check)


def report_out_of_order(
    count: int, distance: float, index: tuple[int, int], job: Job, rows: Cut, columns: Cut
) -> None:
    """Warn that coarse values are beyond the mean of the fields that bound them; those cells keep their means."""
    side, location = ("above" if distance > 0 else "below"), _location(job, rows, columns, index)
    line = (
        f"{job.name}: expected coarse values in order with those that bound them, received one {abs(distance):.3g} "
        f"{side} at {location} ({count} cells of this block); these cells keep their means, out of order"
    )
    _report(line, job.check)


def _location(job: Job, rows: Cut, columns: Cut, index: tuple[int, ...]) -> str:
    row, column = rows.core.cells[index[0]], columns.core.cells[index[1]]
    return job.coarse.describe(int(row), int(column))


def check(stored: NDArray[Any], coarse: NDArray[Any], job: Job, rows: Cut, columns: Cut) -> None:
    """Check conservation of the stored values; raise, warn or log by the option ``check`` if it fails."""
    if job.check == "skip" or job.conserve is None:
        return
    cells = job.cells.window(rows.core.cells, columns.core.cells)
    area = np.ones(coarse.shape[-2:])
    partial = check_block(coarse, stored, cells, area, (0,) * coarse.ndim)
    if partial.relative.value <= job.tolerance and partial.cells_lost == 0:
        return
    location = _location(job, rows, columns, partial.relative.index[-2:]) if partial.relative.index else "no cell"
    line = (
        f"{job.name}: expected the cell law within {job.tolerance:g}, received a largest relative error of "
        f"{partial.relative.value:.3g} at {location} and {partial.cells_lost} cells lost; check method and input"
    )
    if job.check == "raise":
        raise ConservationError(line)
    _report(line, job.check)


def warn_of_negatives(coarse: NDArray[Any], fine: NDArray[Any], job: Job) -> None:
    """Warn if fine values are negative although no coarse value is and no bound is known.

    Undershoots of a kernel are much smaller than the range of its values, so that most fields need no test.
    """
    if job.bounds[0] is not None or job.check == "skip" or not job.warns_of_negatives or not coarse.size:
        return
    low, high = float(np.fmin.reduce(coarse, axis=None)), float(np.fmax.reduce(coarse, axis=None))
    # False for a field without any value.
    if 0 <= low <= high - low and Signs.of(coarse, fine).new_negatives:
        _report(negative_message(job.name), job.check)


def _report(line: str, check: str) -> None:
    if check == "skip":
        return
    if check in ("raise", "warn"):
        warnings.warn(line, UserWarning, stacklevel=2)
    else:
        logger.warning(line)
