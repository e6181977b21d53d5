"""Computation of a block by tensors, on any device: upsample, add orography, constrain, refine, trim.

It covers everything that :mod:`downscale.engine.fused` does not: networks, accelerators, the terrain-gradient penalty.
Gaps and values out of bounds are detected in the coarse values before the transfer, since a test on an accelerator
would block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from downscale.engine.checks import areas, as_sums, check, gathered, report_infeasible, uncovered_as_missing
from downscale.engine.cut import Cut, Span
from downscale.engine.device import Lane, pick_device
from downscale.engine.job import Bound, Job
from downscale.engine.memory import BATCH_VALUES
from downscale.fields.aggregate import Aggregation
from downscale.fields.conserve import additive, bounded, infeasible
from downscale.fields.fill import fill_missing
from downscale.grid.subcells import SubcellGrid
from downscale.nn.separable import Separable
from downscale.process.computing import threads
from downscale.typing import Place

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("downscale")

# On an accelerator: values that keep it busy, the fraction of its free memory for a block, the float64 copies of a
# batch while conservation is imposed, and the batches per block, so that transfers overlap.
CARD_VALUES, CARD_SHARE, CARD_COPIES, CARD_BATCHES = 16_000_000, 0.5, 16, 4
# Larger numbers may overflow in intermediate results; smaller ones stay finite.
LARGEST = 1e30
# Layouts cached per job: those of a few hundred tiles.
MOST_LAYOUTS = 256

Finish = Callable[[], NDArray[Any]]


def refine_maps(
    maps: NDArray[Any], fine: NDArray[Any], job: Job, rows: Cut, columns: Cut, statics: dict[str, NDArray[Any]]
) -> None:
    """Write the fine cells of some maps into ``fine``, a few at a time, so that working memory does not grow.

    If the device can copy and compute at once, one batch is copied back and checked while the next is computed. If it
    runs out of memory, batches are halved; maps are independent, so that this changes no bit.
    """
    with _at_most(threads()):
        _refine_batches(maps, fine, Work(job, rows, columns, statics, Lane(pick_device(job.device))))


@contextmanager
def _at_most(number: int) -> Iterator[None]:
    """Limit PyTorch to a number of threads within this block."""
    own = torch.get_num_threads()
    if number < own:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number < own:
            torch.set_num_threads(own)


def _refine_batches(maps: NDArray[Any], fine: NDArray[Any], work: Work) -> None:
    pending: tuple[slice, Finish] | None = None
    start, batch = 0, work.batch(len(maps))
    planned = batch
    while start < len(maps):
        part = slice(start, min(start + batch, len(maps)))
        finish = _attempt(work, maps[part])
        # Written while the device computes the next batch.
        if pending is not None:
            fine[pending[0]] = pending[1]()
        if finish is not None:
            start = part.stop
            if batch < planned:
                work.remember(batch)
                planned = batch
            pending = part, finish
            if work.lane.overlaps:
                continue
            fine[part] = finish()
        else:
            batch = work.smaller(part, pending is not None)
        pending = None
    if pending is not None:
        fine[pending[0]] = pending[1]()


def _attempt(work: Work, maps: NDArray[Any]) -> Finish | None:
    """Return the pending result of some maps; None if the device has no room for them."""
    try:
        return work.begin(maps)
    except torch.OutOfMemoryError:
        # Handled later, since the error keeps intermediate results alive.
        return None


class Work:
    """The computation of the batches of one block, and the data that they share."""

    def __init__(self, job: Job, rows: Cut, columns: Cut, statics: dict[str, NDArray[Any]], lane: Lane) -> None:
        self.job, self.rows, self.columns, self.statics, self.lane = job, rows, columns, statics, lane
        cells = job.cells
        self.shape = rows.given.length * cells.factor_y, columns.given.length * cells.factor_x
        self.valid = statics["mask"] > 0.5 if "mask" in statics else None
        self.area = areas(self.valid, job, rows, columns).astype(lane.dtype) if job.extensive else None
        # Pieces are never stored: the stored values are means over them.
        self.stored = job.dtype if job.target is None else np.dtype(np.float64)

    def batch(self, maps: int) -> int:
        """Return the number of maps per batch."""
        values, free_bytes, limit = max(int(np.prod(self.shape)), 1), self.lane.room(), BATCH_VALUES
        if free_bytes is not None:
            limit = min(int(free_bytes * CARD_SHARE) // (8 * CARD_COPIES), CARD_VALUES)
            limit = min(limit, max(maps * values // CARD_BATCHES, BATCH_VALUES))
        return max(int(min(limit, self.job.layouts.get("most values", np.inf))) // values, 1)

    def smaller(self, part: slice, others: bool) -> int:
        """Release memory, and return the number of maps to try after those of ``part`` did not fit.

        A single map is tried again only if ``others`` were on the device at the time.
        """
        self.lane.release()
        maps = part.stop - part.start
        if maps > 1 or others:
            return max(maps // 2, 1)
        size = np.prod(self.shape) * 8 * CARD_COPIES / 1e9
        raise MemoryError(
            f"{self.job.name}: expected room on {self.lane.device} for one map of {self.shape[0]} x {self.shape[1]} "
            f"fine cells (about {size:.2g} GB in work), received out of memory; use smaller chunks of rows and "
            'columns, or device="cpu"'
        )

    def remember(self, maps: int) -> None:
        """Store the batch size that fitted, as the initial one of the next block."""
        logger.warning(
            "%s: %s ran out of memory; batches are cut down to %d maps, which changes no value",
            self.job.name, self.lane.device, maps,
        )  # fmt: skip
        self.job.layouts["most values"] = maps * float(np.prod(self.shape))

    @cached_property
    def fixed(self) -> dict[str, Tensor]:
        """The fine fields of the given cells, on the device."""
        return {name: self.lane.send(array) for name, array in self.statics.items()}

    @cached_property
    def hidden(self) -> Tensor:
        """The fine cells that the mask excludes."""
        return self.fixed["mask"] < 0.5

    @cached_property
    def cells(self) -> Aggregation:
        """The aggregation of the cells held."""
        return self.job.cells.window(self.rows.held.cells, self.columns.held.cells)

    @cached_property
    def module(self) -> Any:
        """The operator on the device, laid out once for all blocks with these cells; None if it is no such product."""
        if not isinstance(self.job.upscaler, Separable):
            return None
        rows, columns = self.rows.given, self.columns.given
        layouts, key = self.job.layouts, (rows, columns, str(self.lane.device))
        layout = layouts.get(key)
        if layout is None and self.job.engine == "dense":
            return partial(apply_dense, self.job.upscaler, rows, columns)
        if layout is None:
            layout = self.job.upscaler.layout(rows.first, columns.first, (rows.length, columns.length))
            layout = self.lane.install(layout)
            if len(layouts) >= MOST_LAYOUTS:
                layouts.clear()
            layouts[key] = layout
        return layout

    @cached_property
    def covered(self) -> bool:
        """Whether every fine cell has a value if the coarse field has one."""
        # Unknown for upsamplers that are not linear operators.
        if self.module is None or self.valid is not None:
            return False
        return "terrain" not in self.statics or _largest(self.statics["terrain"]) < LARGEST

    def begin(self, maps: NDArray[Any]) -> Finish:
        """Return a function that waits for the fine cells of some maps and checks them; computation starts at once."""
        job, rows, columns = self.job, self.rows, self.columns
        values = np.asarray(maps, self.lane.dtype) if self.area is None else maps.astype(self.lane.dtype) / self.area
        means = job.own(values)
        largest = _largest(means)
        inputs = self.lane.send(values)
        coarse = job.own(inputs)
        with torch.no_grad():
            if self.module is not None:
                proposal = self.module(inputs, bool(np.isnan(largest)))
            else:
                place = Place(job.coarse, job.fine, rows.given.first, columns.given.first, self.fixed)
                proposal = job.upscaler(inputs, place)
            if "terrain" in self.statics:
                proposal = proposal + self.fixed["terrain"]
            if self.valid is not None:
                proposal = proposal.masked_fill(self.hidden, torch.nan)
            is_complete = self.covered and largest < LARGEST
            fetched = self.lane.fetch(_finished(proposal, coarse, means, self, is_complete), self.stored)
        own_means = means[..., rows.own.inside(rows.given), columns.own.inside(columns.given)]
        return partial(self._judged, fetched, own_means)

    def _judged(self, landed: Finish, coarse: NDArray[Any]) -> NDArray[Any]:
        """Return the requested result from fine values, checked as stored."""
        job, rows, columns = self.job, self.rows, self.columns
        if self.valid is not None:
            own = rows.own.inside(rows.given, job.cells.factor_y), columns.own.inside(columns.given, job.cells.factor_x)
            coarse = uncovered_as_missing(coarse, self.valid[own], job, rows, columns)
        stored = landed()
        check(stored, coarse, job, rows, columns)
        if job.target is not None:
            return gathered(stored, job, rows, columns)
        if job.extensive:
            return as_sums(stored, job, rows, columns)
        return stored


def apply_dense(operator: Separable, rows: Span, columns: Span, coarse: Tensor, gaps: bool = True) -> Tensor:
    """Return the fine cells of some rows and columns by matrix products, without any of the loops of the others."""
    spans, missing = (rows, columns), coarse.isnan()
    y, x = (
        coarse.new_tensor(axis.dense(span.size)[np.ix_(span.fine_cells(factor), span.cells)])
        for axis, factor, span in zip(operator.axes, operator.factor, spans, strict=True)
    )
    complete = fill_missing(coarse, missing, operator.reach, columns.whole and bool(operator.grid.x.periodic))
    for axis, factor in zip((-2, -1), operator.factor, strict=True):
        missing = missing.repeat_interleave(factor, axis)
    return (y @ complete @ x.T).masked_fill(missing, torch.nan)


def _largest(values: NDArray[Any]) -> float:
    """Return the largest magnitude, NaN if there is one."""
    return float(np.abs(values).max(initial=0.0))


def _finished(proposal: Tensor, coarse: Tensor, means: NDArray[Any], work: Work, whole: bool) -> Tensor:
    """Return the block's own fine cells from a proposal: conservation and bounds imposed, and refined.

    ``means`` are the coarse values on the CPU; ``whole`` means that no fine value is missing.
    """
    job, rows, columns, cells = work.job, work.rows, work.columns, work.cells
    factor_y, factor_x = job.cells.factor_y, job.cells.factor_x
    fine_slices = rows.held.inside(rows.given, factor_y), columns.held.inside(columns.given, factor_x)
    coarse_slices = (..., rows.held.inside(rows.given), columns.held.inside(columns.given))
    x, held_means = coarse[coarse_slices], means[coarse_slices]
    fine = _constrained(proposal[..., fine_slices[0], fine_slices[1]], x, held_means, work, whole)
    if job.refinement is not None:
        assert not isinstance(job.fine, SubcellGrid)
        fine_rows, fine_columns = rows.held.fine_cells(factor_y), columns.held.fine_cells(factor_x)
        closed = columns.held.whole and job.fine.x.periodic
        spacing = job.refinement.spacing.window(fine_rows, fine_columns, closed)
        orography = work.fixed["orog"][fine_slices] if "orog" in work.statics else None
        bounds = _feasible_bounds(held_means, job)
        fine = job.refinement(fine, x, orography, cells, fine_rows, spacing, bounds)
    return fine[..., rows.own.inside(rows.held, factor_y), columns.own.inside(columns.held, factor_x)]


def _feasible_bounds(seen: NDArray[Any], job: Job) -> tuple[Bound, Bound]:
    """Return the bounds widened to the coarse values that violate them (those cells have a warning)."""
    (low, high), finite = job.bounds, seen[np.isfinite(seen)]
    return (
        None if low is None else min(low, float(finite.min(initial=np.inf))),
        None if high is None else max(high, float(finite.max(initial=-np.inf))),
    )


def _constrained(fine: Tensor, x: Tensor, seen: NDArray[Any], work: Work, whole: bool) -> Tensor:
    job, rows, columns, cells = work.job, work.rows, work.columns, work.cells
    if job.conserve is None:
        return fine
    mask = None if whole else torch.isfinite(fine)
    cells = cells if mask is None or bool(mask.all()) else cells.apply_mask(mask)
    if job.bounds == (None, None):
        # Also for conservative operators: their rounding scales with the neighbours' values, which exceeds the rounding
        # of a cell with much smaller values.
        return additive(fine, x, cells)
    low, high = job.limits
    out_of_bounds = (seen < low) | (seen > high)
    if not out_of_bounds.any():
        # Some upsamplers impose both themselves.
        is_done = job.capabilities.satisfies_constraints and "terrain" not in work.statics
        return fine if is_done else bounded(fine, x, cells, job.bounds)
    own_cells = (..., rows.own.inside(rows.held), columns.own.inside(columns.held))
    if out_of_bounds[own_cells].any():
        report_infeasible(out_of_bounds[own_cells], seen[own_cells], job, rows, columns)
    # Conservation has priority over bounds: such a cell is filled with its coarse value.
    is_infeasible = infeasible(x, low, high)
    inner = bounded(fine, torch.where(is_infeasible, torch.clamp(x, low, high), x), cells, job.bounds)
    uniform = torch.where(torch.isnan(fine), fine, cells.broadcast_to_fine(x))
    return torch.where(cells.broadcast_to_fine(is_infeasible), uniform, inner)
