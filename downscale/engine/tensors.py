"""A block by tensors, on any device: up-sample, add relief, constrain, refine, trim (torch; never nn).

The twin of :mod:`downscale.engine.fused` for everything that is not one compiled pass: networks, accelerators, the
terrain-gradient penalty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from downscale.engine.checks import areas, as_sums, check, gathered, report_infeasible, uncovered_as_missing
from downscale.engine.cut import Cut
from downscale.engine.device import pick_device, to_array, to_tensor
from downscale.engine.job import Bound, Job
from downscale.fields.aggregate import Aggregation
from downscale.fields.conserve import additive, bounded, infeasible
from downscale.grid.parts import PartsGrid
from downscale.typing import Place

if TYPE_CHECKING:
    from torch import Tensor

# Fine values worked on at once: 16 MB in float64, about what the caches of a core and its neighbours hold.
BATCH_VALUES = 2_000_000


def refine_maps(
    maps: NDArray[Any], fine: NDArray[Any], job: Job, rows: Cut, columns: Cut, statics: dict[str, NDArray[Any]]
) -> None:
    """Write the fine cells of some maps into ``fine``, a few at a time, so that working memory does not grow."""
    device = pick_device(job.device)
    fixed = {name: to_tensor(array, device) for name, array in statics.items()}
    values = rows.given.length * job.cells.factor_y * columns.given.length * job.cells.factor_x
    batch = max(BATCH_VALUES // max(values, 1), 1)
    for start in range(0, len(maps), batch):
        part = slice(start, start + batch)
        fine[part] = _compute_maps(to_tensor(maps[part], device), fixed, job, rows, columns)


def _compute_maps(
    coarse: Tensor, fixed: dict[str, Tensor], job: Job, rows: Cut, columns: Cut
) -> NDArray[Any]:
    valid = to_array(fixed["mask"]) > 0.5 if "mask" in fixed else None
    if job.extensive:
        coarse = coarse / coarse.new_tensor(areas(valid, job, rows, columns))
    place = Place(job.coarse, job.fine, rows.given.first, columns.given.first, fixed)
    with torch.no_grad():
        proposal = job.upscaler(coarse, place)
        if "terrain" in fixed:
            proposal = proposal + fixed["terrain"]
        if "mask" in fixed:
            proposal = proposal.masked_fill(fixed["mask"] < 0.5, torch.nan)
        fine = _finished(proposal, coarse, fixed.get("orog"), job, rows, columns)
    own_coarse = to_array(coarse[..., rows.own.inside(rows.given), columns.own.inside(columns.given)])
    if valid is not None:
        own = rows.own.inside(rows.given, job.cells.factor_y), columns.own.inside(columns.given, job.cells.factor_x)
        own_coarse = uncovered_as_missing(own_coarse, valid[own], job, rows, columns)
    # Parts are no part of any file: what is stored are means over them.
    stored = to_array(fine).astype(job.dtype if job.target is None else np.float64)
    check(stored, own_coarse, job, rows, columns)
    if job.target is not None:
        return gathered(stored, job, rows, columns)
    if job.extensive:
        return as_sums(stored, job, rows, columns)
    return stored


def _finished(
    proposal: Tensor, coarse: Tensor, orog: Tensor | None, job: Job, rows: Cut, columns: Cut
) -> Tensor:
    """Trim to what is held, impose law and bounds, refine, trim to the block's own cells."""
    factor_y, factor_x = job.cells.factor_y, job.cells.factor_x
    held = rows.held.inside(rows.given, factor_y), columns.held.inside(columns.given, factor_x)
    fine = proposal[..., held[0], held[1]]
    x = coarse[..., rows.held.inside(rows.given), columns.held.inside(columns.given)]
    cells = job.cells.window(rows.held.cells, columns.held.cells)
    fine = _constrained(fine, x, cells, job, rows, columns)
    if job.refinement is not None:
        assert not isinstance(job.fine, PartsGrid)
        fine_rows, fine_columns = rows.held.fine_cells(factor_y), columns.held.fine_cells(factor_x)
        closed = columns.held.whole and job.fine.x.periodic
        spacing = job.refinement.spacing.window(fine_rows, fine_columns, closed)
        relief = None if orog is None else orog[held]
        bounds = _feasible_bounds(x, job)
        fine = job.refinement(fine, x, relief, cells, fine_rows, spacing, bounds)
    return fine[..., rows.own.inside(rows.held, factor_y), columns.own.inside(columns.held, factor_x)]


def _feasible_bounds(x: Tensor, job: Job) -> tuple[Bound, Bound]:
    """Return the bounds widened to the coarse values that break them (those cells were warned about)."""
    low, high = job.bounds
    finite = x[torch.isfinite(x)]
    if finite.numel() == 0:
        return job.bounds
    return (
        None if low is None else min(low, float(finite.min())),
        None if high is None else max(high, float(finite.max())),
    )


def _constrained(fine: Tensor, x: Tensor, cells: Aggregation, job: Job, rows: Cut, columns: Cut) -> Tensor:
    if job.conserve is None:
        return fine
    if job.bounds == (None, None):
        # Also where the law holds by construction: a kernel's rounding is of the size of the neighbours' values, which
        # in a cell of much smaller values is more than rounding.
        return additive(fine, x, cells, _valid(fine))
    low = -np.inf if job.bounds[0] is None else job.bounds[0]
    high = np.inf if job.bounds[1] is None else job.bounds[1]
    bad = infeasible(x, low, high)
    if not bool(bad.any()):
        return bounded(fine, x, cells, _valid(fine), job.bounds)
    own = rows.own.inside(rows.held), columns.own.inside(columns.held)
    if bool(bad[..., own[0], own[1]].any()):
        report_infeasible(to_array(bad[..., own[0], own[1]]), to_array(x[..., own[0], own[1]]), job, rows, columns)
    # The law goes before the bounds: such a cell keeps its value, spread evenly.
    inner = bounded(fine, torch.where(bad, torch.clamp(x, low, high), x), cells, _valid(fine), job.bounds)
    spread = torch.where(torch.isnan(fine), fine, cells.spread(x))
    return torch.where(cells.spread(bad), spread, inner)


def _valid(fine: Tensor) -> Tensor | None:
    mask = torch.isfinite(fine)
    return None if bool(mask.all()) else mask
