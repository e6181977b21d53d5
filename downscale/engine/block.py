"""What happens to one block: up-sample, add relief, constrain, refine, trim, check (torch; never nn)."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from downscale.diagnostics.conservation import chunk
from downscale.engine.cut import Cut
from downscale.engine.device import pick_device, to_array, to_tensor
from downscale.errors import BoundsError, ConservationError
from downscale.fields.aggregate import Aggregation
from downscale.fields.conserve import Bound, additive, bounded, infeasible
from downscale.fields.regroup import Regroup
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.parts import Parts, PartsGrid
from downscale.losses.terrain import TerrainRefinement
from downscale.typing import Place, Upscaler

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("downscale")

# Fine values worked on at once: 16 MB in float64, about what the caches of a core and its neighbours hold.
BATCH_VALUES = 2_000_000


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that is the same for all blocks of one variable.

    Attributes
    ----------
    upscaler : Upscaler
        Makes the proposal.
    coarse, fine : RectilinearGrid
        Grids of the whole domain.
    conserve : {"cell", None}
        Whether the cell law is imposed on the proposal.
    bounds : (float or None, float or None)
        Bounds of fine values; imposed together with the cell law.
    strict_bounds : bool
        Whether a coarse value outside the bounds is an error (bounds asked for) or a warning (implied by the name).
    refinement : TerrainRefinement or None
        Lowers the terrain-gradient penalty.
    extensive : bool
        Whether values are sums over cells, not means.
    target : (Parts, Parts) or None
        Parts of rows and columns where the target does not nest: ``fine`` is then the grid of these parts, and what is
        made on it is gathered into target cells.
    na_thres : float
        Largest missing share of a target cell that still gives a value.
    """

    name: str
    upscaler: Upscaler
    coarse: RectilinearGrid | CurvilinearGrid
    fine: RectilinearGrid | CurvilinearGrid | PartsGrid
    cells: Aggregation
    dtype: np.dtype[Any]
    tolerance: float
    conserve: str | None = "cell"
    bounds: tuple[Bound, Bound] = (None, None)
    strict_bounds: bool = True
    refinement: TerrainRefinement | None = None
    extensive: bool = False
    check: str = "raise"
    device: str = "auto"
    target: tuple[Parts, Parts] | None = None
    na_thres: float = 1.0

    def block_shape(self, rows: Cut, columns: Cut) -> tuple[int, int]:
        """Return the rows and columns of the result of one block."""
        if self.target is not None:
            return self.target[0].target.size, self.target[1].target.size
        return rows.own.length * self.cells.factor_y, columns.own.length * self.cells.factor_x

    @property
    def margin(self) -> tuple[int, int]:
        """Coarse cells beyond its own that a block must hold."""
        return (0, 0) if self.refinement is None else self.refinement.halo


def compute_block(
    values: NDArray[Any], job: Job, rows: Cut, columns: Cut, statics: dict[str, NDArray[Any]] | None = None
) -> NDArray[Any]:
    """Downscale the block ``values`` (..., given rows, given columns) to its own fine cells.

    ``statics`` are fine fields of the given cells: "orog" for the penalty, "terrain" to be added, "mask" (1 if valid).
    Maps are taken a few at a time, so that the working memory stays in cache and does not grow with the block.

    Raises
    ------
    ConservationError, BoundsError
        If a law does not hold in the result as stored, or cannot hold; ``job.check`` may turn these into a warning.
    """
    device = pick_device(job.device)
    fixed = {name: to_tensor(array, device) for name, array in (statics or {}).items()}
    factor_y, factor_x = job.cells.factor_y, job.cells.factor_x
    maps = values.reshape(-1, *values.shape[-2:])
    fine = np.empty((len(maps), *job.block_shape(rows, columns)), job.dtype)
    batch = max(BATCH_VALUES // max(rows.given.length * factor_y * columns.given.length * factor_x, 1), 1)
    for start in range(0, len(maps), batch):
        part = slice(start, start + batch)
        fine[part] = _compute_maps(to_tensor(_finite(maps[part]), device), fixed, job, rows, columns)
    return fine.reshape(*values.shape[:-2], *fine.shape[-2:])


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    """Take infinities for missing values: no mean is defined with them."""
    return np.where(np.isfinite(values), values, np.nan) if values.dtype.kind == "f" else values


def _compute_maps(
    coarse: Tensor, fixed: dict[str, Tensor], job: Job, rows: Cut, columns: Cut
) -> NDArray[Any]:
    if job.extensive:
        coarse = coarse / coarse.new_tensor(_areas(fixed.get("mask"), job, rows, columns))
    place = Place(job.coarse, job.fine, rows.given.first, columns.given.first, fixed)
    with torch.no_grad():
        proposal = job.upscaler(coarse, place)
        if "terrain" in fixed:
            proposal = proposal + fixed["terrain"]
        if "mask" in fixed:
            proposal = proposal.masked_fill(fixed["mask"] < 0.5, torch.nan)
        fine = _finished(proposal, coarse, fixed.get("orog"), job, rows, columns)
    own_coarse = to_array(coarse[..., rows.own.inside(rows.given), columns.own.inside(columns.given)])
    if "mask" in fixed:
        valid = to_array(fixed["mask"])[_inside(rows, job.cells.factor_y), _inside(columns, job.cells.factor_x)]
        own_coarse = _uncovered_as_missing(own_coarse, valid, job, rows, columns)
    # Parts are no part of any file: what is stored are means over them.
    stored = to_array(fine).astype(job.dtype if job.target is None else np.float64)
    _check(stored, own_coarse, job, rows, columns)
    if job.target is not None:
        return _gathered(stored, job, rows, columns)
    if job.extensive:
        own = np.ix_(rows.own.fine_cells(job.cells.factor_y), columns.own.fine_cells(job.cells.factor_x))
        return (stored.astype(np.float64) * job.fine.cell_area[own]).astype(job.dtype)
    return stored


def _areas(mask: Tensor | None, job: Job, rows: Cut, columns: Cut) -> NDArray[np.float64]:
    """Return the areas over which sums are spread: those of the given cells as far as a mask leaves them valid."""
    if job.target is None:
        area = job.coarse.cell_area[np.ix_(rows.given.cells, columns.given.cells)]
    else:
        # The measures that the parts are gathered by, on a plane too.
        axes = job.coarse.y.measure[rows.given.cells], job.coarse.x.measure[columns.given.cells]
        area = PartsGrid(*job.target).unit_area * np.multiply.outer(*axes)
    if mask is None:
        return area
    share = job.cells.window(rows.given.cells, columns.given.cells).share(to_array(mask) > 0.5, np.zeros(mask.shape))
    return area * np.where(share > 0, share, 1.0)


def _inside(cut: Cut, factor: int) -> slice:
    return cut.own.inside(cut.given, factor)


def _uncovered_as_missing(
    coarse: NDArray[Any], valid: NDArray[Any], job: Job, rows: Cut, columns: Cut
) -> NDArray[Any]:
    """Take coarse cells without a valid fine cell for missing: the law is about valid area."""
    cells = job.cells.window(rows.own.cells, columns.own.cells)
    none = cells.share(valid > 0.5, valid) == 0
    if bool((none & np.isfinite(coarse)).any()):
        # One text for all blocks, so that it is shown once. Means over no area are no loss; sums are.
        line = f"{job.name}: coarse cells with a value have no valid fine cell under mask="
        if job.extensive:
            _say(line + "; what they hold is nowhere in the result, widen the mask to keep it", job.check)
        else:
            logger.info(line)
    return np.where(none, np.nan, coarse)


def _gathered(parts: NDArray[Any], job: Job, rows: Cut, columns: Cut) -> NDArray[Any]:
    """Gather parts into target cells, as means or, for sums over cells, as sums over what is covered and valid."""
    assert job.target is not None
    groups = Regroup.of(*job.target, rows.own.cells, columns.own.cells)
    valid = np.isfinite(parts)
    mask = None if valid.all() else valid
    made = groups.mean(parts, mask, job.na_thres)
    if job.extensive:
        made = made * groups.valid_measure(valid, parts) * PartsGrid(*job.target).unit_area
    return made.astype(job.dtype)


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
        _report_infeasible(bad[..., own[0], own[1]], x[..., own[0], own[1]], job, rows, columns)
    # The law goes before the bounds: such a cell keeps its value, spread evenly.
    inner = bounded(fine, torch.where(bad, torch.clamp(x, low, high), x), cells, _valid(fine), job.bounds)
    spread = torch.where(torch.isnan(fine), fine, cells.spread(x))
    return torch.where(cells.spread(bad), spread, inner)


def _valid(fine: Tensor) -> Tensor | None:
    mask = torch.isfinite(fine)
    return None if bool(mask.all()) else mask


def _report_infeasible(bad: Tensor, x: Tensor, job: Job, rows: Cut, columns: Cut) -> None:
    index = tuple(int(i) for i in bad.nonzero()[0])
    where = _location(job, rows, columns, index[-2:])
    low, high = (f"{b:g}" if b is not None else "none" for b in job.bounds)
    line = (
        f"{job.name}: expected coarse values within the bounds [{low}, {high}], received {float(x[index]):.6g} at "
        f"{where} ({int(bad.sum())} cells of this block); widen bounds= or repair the input"
    )
    if job.strict_bounds and job.check == "raise":
        raise BoundsError(line)
    _say(line + "; those cells keep their value, spread evenly", job.check)


def _location(job: Job, rows: Cut, columns: Cut, index: tuple[int, ...]) -> str:
    row, column = rows.own.cells[index[0]], columns.own.cells[index[1]]
    return job.coarse.describe(int(row), int(column))


def _check(stored: NDArray[Any], coarse: NDArray[Any], job: Job, rows: Cut, columns: Cut) -> None:
    if job.check == "skip" or job.conserve is None:
        return
    cells = job.cells.window(rows.own.cells, columns.own.cells)
    area = np.ones(coarse.shape[-2:])
    partial = chunk(coarse, stored, cells, area, (0,) * coarse.ndim)
    if partial.relative.value <= job.tolerance and partial.lost == 0:
        return
    where = _location(job, rows, columns, partial.relative.index[-2:]) if partial.relative.index else "no cell"
    line = (
        f"{job.name}: expected the cell law within {job.tolerance:g}, received a largest relative error of "
        f"{partial.relative.value:.3g} at {where} and {partial.lost} cells lost; check method and input"
    )
    if job.check == "raise":
        raise ConservationError(line)
    _say(line, job.check)


def _say(line: str, check: str) -> None:
    if check == "skip":
        return
    if check in ("raise", "warn"):
        warnings.warn(line, UserWarning, stacklevel=2)
    else:
        logger.warning(line)
