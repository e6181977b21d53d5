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

from downscale.engine.checks import areas, average_to_target, check, convert_to_sums, mask_uncovered, report_infeasible
from downscale.engine.cut import Cut, Span
from downscale.engine.device import DeviceTransfer, pick_device
from downscale.engine.job import Bound, Job
from downscale.engine.memory import BATCH_VALUES
from downscale.fields.aggregate import Aggregation
from downscale.fields.climatology import add_detail
from downscale.fields.conserve import additive, bounded, infeasible
from downscale.fields.fill import fill_missing
from downscale.grid.subcells import SubcellGrid
from downscale.nn.separable import Separable
from downscale.process.computing import threads
from downscale.typing import Place

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("downscale")

# For an accelerator: values that keep it busy, fraction of its free memory for a block, float64 copies of a batch while
# conservation is imposed, and batches per block, so that transfers overlap.
DEVICE_VALUES, DEVICE_FRACTION, DEVICE_COPIES, DEVICE_BATCHES = 16_000_000, 0.5, 16, 4
# Larger numbers may overflow in intermediate results; smaller ones stay finite.
LARGEST = 1e30
# Layouts cached per job: those of a few hundred tiles.
MOST_LAYOUTS = 256

Finish = Callable[[], NDArray[Any]]


def refine_maps(
    maps: NDArray[Any], fine: NDArray[Any], job: Job, rows: Cut, columns: Cut, statics: dict[str, NDArray[Any]],
    position: NDArray[np.int64] | None = None,
) -> None:  # fmt: skip
    """Write the fine cells of some maps into ``fine``, in batches that bound the working memory.

    If the device can copy and compute at once, one batch is copied back and checked while the next is computed. If it
    runs out of memory, batches are halved; maps are independent, so results do not change.
    """
    with _limit_threads(threads()):
        transfer = DeviceTransfer(pick_device(job.device))
        _refine_batches(maps, fine, BlockWork(job, rows, columns, statics, transfer, position))


@contextmanager
def _limit_threads(number: int) -> Iterator[None]:
    """Limit PyTorch to a number of threads within this block."""
    previous = torch.get_num_threads()
    if number < previous:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number < previous:
            torch.set_num_threads(previous)


def _refine_batches(maps: NDArray[Any], fine: NDArray[Any], work: BlockWork) -> None:
    pending: tuple[slice, Finish] | None = None
    start, size = 0, work.batch_size(len(maps))
    planned_size = size
    while start < len(maps):
        part = slice(start, min(start + size, len(maps)))
        finish = _attempt(work, maps[part], part)
        # Written while the device computes the next batch.
        if pending is not None:
            fine[pending[0]] = pending[1]()
        if finish is not None:
            start = part.stop
            if size < planned_size:
                work.store_batch_size(size)
                planned_size = size
            pending = part, finish
            if work.transfer.overlaps:
                continue
            fine[part] = finish()
        else:
            size = work.shrink_batch(part, pending is not None)
        pending = None
    if pending is not None:
        fine[pending[0]] = pending[1]()


def _attempt(work: BlockWork, maps: NDArray[Any], part: slice) -> Finish | None:
    """Return the pending result of some maps; None if the device has no room for them."""
    try:
        return work.start(maps, part)
    except torch.OutOfMemoryError:
        # Handled later, since the error keeps intermediate results alive.
        return None


class BlockWork:
    """The computation of the batches of one block, and the data that they share."""

    def __init__(
        self, job: Job, rows: Cut, columns: Cut, statics: dict[str, NDArray[Any]], transfer: DeviceTransfer,
        position: NDArray[np.int64] | None = None,
    ) -> None:  # fmt: skip
        self.position = position if "detail" in statics else None
        self.job, self.rows, self.columns, self.statics, self.transfer = job, rows, columns, statics, transfer
        cells = job.cells
        self.shape = rows.input.length * cells.factor_y, columns.input.length * cells.factor_x
        self.valid = statics["mask"] > 0.5 if "mask" in statics else None
        self.area = areas(self.valid, job, rows, columns).astype(transfer.dtype) if job.extensive else None
        # Pieces are never stored: the stored values are means over them.
        self.stored_dtype = job.dtype if job.target is None else np.dtype(np.float64)

    def batch_size(self, maps: int) -> int:
        """Return the number of maps per batch."""
        values, free_bytes, limit = max(int(np.prod(self.shape)), 1), self.transfer.free_bytes(), BATCH_VALUES
        if free_bytes is not None:
            limit = min(int(free_bytes * DEVICE_FRACTION) // (8 * DEVICE_COPIES), DEVICE_VALUES)
            limit = min(limit, max(maps * values // DEVICE_BATCHES, BATCH_VALUES))
        return max(int(min(limit, self.job.layouts.get("most values", np.inf))) // values, 1)

    def shrink_batch(self, part: slice, others_pending: bool) -> int:
        """Release memory, and return the number of maps to try after those of ``part`` did not fit.

        A single map is tried again only if ``others_pending`` were on the device at the time.
        """
        self.transfer.release()
        maps = part.stop - part.start
        if maps > 1 or others_pending:
            return max(maps // 2, 1)
        size = np.prod(self.shape) * 8 * DEVICE_COPIES / 1e9
        raise MemoryError(
            f"{self.job.name}: expected room on {self.transfer.device} for one map of {self.shape[0]} x "
            f"{self.shape[1]} fine cells (about {size:.2g} GB in work), received out of memory; use smaller chunks of "
            'rows and columns, or device="cpu"'
        )

    def store_batch_size(self, maps: int) -> None:
        """Store the batch size that fitted, as the initial one of the next block."""
        logger.warning(
            "%s: %s ran out of memory; batches are cut down to %d maps, which changes no value",
            self.job.name, self.transfer.device, maps,
        )  # fmt: skip
        self.job.layouts["most values"] = maps * float(np.prod(self.shape))

    @cached_property
    def device_statics(self) -> dict[str, Tensor]:
        """The fine fields of the input cells, on the device."""
        return {name: self.transfer.send(array) for name, array in self.statics.items()}

    @cached_property
    def is_masked(self) -> Tensor:
        """The fine cells that the mask excludes."""
        return self.device_statics["mask"] < 0.5

    @cached_property
    def cells(self) -> Aggregation:
        """The aggregation of the cells of the refinement."""
        return self.job.cells.window(self.rows.refinement.cells, self.columns.refinement.cells)

    @cached_property
    def module(self) -> Any:
        """The operator on the device, one layout for all blocks with these cells; None if it is not separable."""
        if not isinstance(self.job.upscaler, Separable):
            return None
        rows, columns = self.rows.input, self.columns.input
        layouts, key = self.job.layouts, (rows, columns, str(self.transfer.device))
        layout = layouts.get(key)
        if layout is None and self.job.engine == "dense":
            return partial(apply_dense, self.job.upscaler, rows, columns)
        if layout is None:
            layout = self.job.upscaler.layout(rows.first, columns.first, (rows.length, columns.length))
            layout = self.transfer.install(layout)
            if len(layouts) >= MOST_LAYOUTS:
                layouts.clear()
            layouts[key] = layout
        return layout

    @cached_property
    def is_covered(self) -> bool:
        """Whether every fine cell has a value if the coarse field has one."""
        # Unknown for upsamplers that are not linear operators.
        if self.module is None or self.valid is not None:
            return False
        added = (self.statics[name] for name in ("terrain", "detail") if name in self.statics)
        return all(_largest_magnitude(field) < LARGEST for field in added)

    def start(self, maps: NDArray[Any], part: slice) -> Finish:
        """Return a function that waits for the fine cells of some maps and checks them; computation starts at once."""
        job, rows, columns = self.job, self.rows, self.columns
        dtype = self.transfer.dtype
        values = np.asarray(maps, dtype) if self.area is None else maps.astype(dtype) / self.area
        means = job.select_variable(values)
        largest = _largest_magnitude(means)
        inputs = self.transfer.send(values)
        coarse = job.select_variable(inputs)
        power = job.power
        with torch.no_grad():
            detail = None
            if self.position is not None:
                detail = self.device_statics["detail"][inputs.new_tensor(self.position[part], dtype=torch.int64)]
            if self.module is not None:
                transformed = inputs if power is None else self.transfer.send(power.forward(values))
                proposal = self.module(transformed, bool(np.isnan(largest)))
                proposal = proposal if power is None else power.backward(proposal)
            else:
                own = {} if detail is None else {"detail": detail}
                statics = {**self.device_statics, **own}
                place = Place(job.coarse, job.fine, rows.input.first, columns.input.first, statics)
                proposal = job.upscaler(inputs, place)
            if detail is not None and not job.capabilities.applies_detail:
                proposal = add_detail(proposal, detail, job.in_proportion)
            if "terrain" in self.statics:
                proposal = proposal + self.device_statics["terrain"]
            if self.valid is not None:
                proposal = proposal.masked_fill(self.is_masked, torch.nan)
            is_complete = self.is_covered and largest < LARGEST
            fine = _constrain_and_refine(proposal, coarse, means, self, is_complete)
            fetch = self.transfer.fetch(fine, self.stored_dtype)
        core_means = means[..., rows.core.slice_in(rows.input), columns.core.slice_in(columns.input)]
        return partial(self._finish_batch, fetch, core_means)

    def _finish_batch(self, fetch: Finish, coarse: NDArray[Any]) -> NDArray[Any]:
        """Return the requested result from fine values, checked as stored."""
        job, rows, columns = self.job, self.rows, self.columns
        if self.valid is not None:
            factor_y, factor_x = job.cells.factor_y, job.cells.factor_x
            core_cells = rows.core.slice_in(rows.input, factor_y), columns.core.slice_in(columns.input, factor_x)
            coarse = mask_uncovered(coarse, self.valid[core_cells], job, rows, columns)
        stored = fetch()
        check(stored, coarse, job, rows, columns)
        if job.target is not None:
            return average_to_target(stored, job, rows, columns)
        if job.extensive:
            return convert_to_sums(stored, job, rows, columns)
        return stored


def apply_dense(operator: Separable, rows: Span, columns: Span, coarse: Tensor, has_gaps: bool = True) -> Tensor:
    """Return the fine cells of some rows and columns by dense matrix products, as a reference for the other engines."""
    spans, missing = (rows, columns), coarse.isnan()
    y, x = (
        coarse.new_tensor(axis.dense(span.size)[np.ix_(span.fine_cells(factor), span.cells)])
        for axis, factor, span in zip(operator.axes, operator.factor, spans, strict=True)
    )
    filled = fill_missing(coarse, missing, operator.reach, columns.is_whole and bool(operator.grid.x.periodic))
    for axis, factor in zip((-2, -1), operator.factor, strict=True):
        missing = missing.repeat_interleave(factor, axis)
    return (y @ filled @ x.T).masked_fill(missing, torch.nan)


def _largest_magnitude(values: NDArray[Any]) -> float:
    """Return the largest magnitude, NaN if there is one."""
    return float(np.abs(values).max(initial=0.0))


def _constrain_and_refine(
    proposal: Tensor, coarse: Tensor, means: NDArray[Any], work: BlockWork, is_complete: bool
) -> Tensor:
    """Return the fine cells of the core from a proposal, after imposing conservation and bounds and refining.

    ``means`` are the coarse values on the CPU; ``is_complete`` means that no fine value is missing.
    """
    job, rows, columns, cells = work.job, work.rows, work.columns, work.cells
    factor_y, factor_x = job.cells.factor_y, job.cells.factor_x
    fine_slices = rows.refinement.slice_in(rows.input, factor_y), columns.refinement.slice_in(columns.input, factor_x)
    coarse_slices = (..., rows.refinement.slice_in(rows.input), columns.refinement.slice_in(columns.input))
    x, inner_means = coarse[coarse_slices], means[coarse_slices]
    fine = _constrain(proposal[..., fine_slices[0], fine_slices[1]], x, inner_means, work, is_complete)
    if job.refinement is not None:
        assert not isinstance(job.fine, SubcellGrid)
        fine_rows, fine_columns = rows.refinement.fine_cells(factor_y), columns.refinement.fine_cells(factor_x)
        closed = columns.refinement.is_whole and job.fine.x.periodic
        spacing = job.refinement.spacing.window(fine_rows, fine_columns, closed)
        orography = work.device_statics["orog"][fine_slices] if "orog" in work.statics else None
        bounds = _feasible_bounds(inner_means, job)
        fine = job.refinement(fine, x, orography, cells, fine_rows, spacing, bounds)
    return fine[..., rows.core.slice_in(rows.refinement, factor_y), columns.core.slice_in(columns.refinement, factor_x)]


def _feasible_bounds(coarse_values: NDArray[Any], job: Job) -> tuple[Bound, Bound]:
    """Return the bounds widened to the coarse values that violate them (those cells have a warning)."""
    (low, high), finite = job.bounds, coarse_values[np.isfinite(coarse_values)]
    return (
        None if low is None else min(low, float(finite.min(initial=np.inf))),
        None if high is None else max(high, float(finite.max(initial=-np.inf))),
    )


def _constrain(fine: Tensor, x: Tensor, coarse_values: NDArray[Any], work: BlockWork, is_complete: bool) -> Tensor:
    job, rows, columns, cells = work.job, work.rows, work.columns, work.cells
    if job.conserve is None:
        return fine
    mask = None if is_complete else torch.isfinite(fine)
    cells = cells if mask is None or bool(mask.all()) else cells.apply_mask(mask)
    if job.bounds == (None, None):
        # Also for conservative operators: their rounding scales with the neighbours' values, which exceeds the rounding
        # of a cell with much smaller values.
        return additive(fine, x, cells)
    low, high = job.limits
    out_of_bounds = (coarse_values < low) | (coarse_values > high)
    if not out_of_bounds.any():
        # Some upsamplers impose both themselves.
        is_unchanged = "terrain" not in work.statics and (work.position is None or job.capabilities.applies_detail)
        is_constrained = job.capabilities.satisfies_constraints and is_unchanged
        return fine if is_constrained else bounded(fine, x, cells, job.bounds)
    core_cells = (..., rows.core.slice_in(rows.refinement), columns.core.slice_in(columns.refinement))
    if out_of_bounds[core_cells].any():
        report_infeasible(out_of_bounds[core_cells], coarse_values[core_cells], job, rows, columns)
    # Conservation has priority over bounds: such a cell is filled with its coarse value.
    is_infeasible = infeasible(x, low, high)
    inner = bounded(fine, torch.where(is_infeasible, torch.clamp(x, low, high), x), cells, job.bounds)
    uniform = torch.where(torch.isnan(fine), fine, cells.broadcast_to_fine(x))
    return torch.where(cells.broadcast_to_fine(is_infeasible), uniform, inner)
