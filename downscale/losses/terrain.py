"""Terrain-gradient penalty, and refinement of fields at inference.

A fine field may be as steep as the orography explains, ``g0 + gamma |grad z|``; the penalty is on the excess. The loss
is differentiable. At inference, the refinement finds the field nearest to the proposal with lower penalty and the same
cell means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from downscale.fields.aggregate import Aggregation
from downscale.fields.conserve import Bound, additive, bounded
from downscale.fields.gradient import Spacing, gradient_bound, sobel
from downscale.grid.latlon import RectilinearGrid
from downscale.losses.penalty import TerrainPenalty

if TYPE_CHECKING:
    from torch import Tensor


def terrain_gradient_penalty(
    field: Tensor, spacing: Spacing, allowed: Tensor, area: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return ``P(y) = sum a max(0, |grad y| - allowed)**2 / sum a``, one value per map, differentiable.

    Parameters
    ----------
    field : tensor, shape (..., n_y, n_x)
        Fine field; gradients by Sobel in metres.
    spacing : Spacing
        Distances of the fine grid.
    allowed : tensor, shape (n_y, n_x)
        Slope without cost, in units of the field per m; 0 gives a plain slope penalty.
    area : tensor, shape (n_y, n_x) or (n_y, 1)
        Fine cell areas.
    mask : tensor of bool, optional
        Valid cells; stencils that touch an invalid cell are left out.
    """
    filled = field if mask is None else torch.where(mask, field, torch.zeros_like(field))
    excess_slope = excess(filled, spacing, allowed)
    weight = area.expand(field.shape[-2:]) * (1.0 if mask is None else whole_stencils(mask, spacing).to(field.dtype))
    total = (weight * excess_slope**2).sum(dim=(-2, -1))
    total_weight = weight.sum(dim=(-2, -1)) if mask is not None else weight.sum()
    return total / torch.clamp(total_weight, min=torch.finfo(field.dtype).tiny)


def excess(field: Tensor, spacing: Spacing, allowed: Tensor) -> Tensor:
    """Return the excess of a field's slope over the allowed one, differentiable, in units of the field per m."""
    east, north = sobel(field, spacing)
    square = east**2 + north**2
    # The root has no derivative at zero, where the excess is zero.
    flat = square == 0
    return torch.relu(torch.sqrt(square.masked_fill(flat, 1.0)).masked_fill(flat, 0.0) - allowed)


def whole_stencils(mask: Tensor, spacing: Spacing) -> Tensor:
    """Return a mask of cells whose nine stencil cells are all valid."""
    missing = (~mask).to(torch.float64).reshape(-1, 1, *mask.shape[-2:])
    mode = "circular" if spacing.periodic else "replicate"
    padded = torch.nn.functional.pad(missing, (1, 1, 0, 0), mode=mode)
    padded = torch.nn.functional.pad(padded, (0, 0, 1, 1), mode="replicate")
    return (torch.nn.functional.max_pool2d(padded, 3, stride=1) == 0).reshape(mask.shape)


class TerrainRefinement:
    """Reduction of the penalty of a field with conserved cell means and bounds, before it is written.

    Finds ``argmin 1/2 |y - y0|_a**2 + lambda P(y)`` subject to ``A y = x`` and bounds, by accelerated projected
    gradient steps in an area-weighted metric. The problem is convex. Step sizes vary by coarse row, because metres per
    column decrease towards the poles. All arithmetic is local, so that blocks with ``halo`` give the same bits.

    References
    ----------
    Beck, A. and Teboulle, M. (2009), A fast iterative shrinkage-thresholding algorithm for linear inverse problems,
    SIAM Journal on Imaging Sciences 2, 183-202.
    """

    def __init__(self, fine: RectilinearGrid, cells: Aggregation, penalty: TerrainPenalty) -> None:
        self.penalty = penalty
        self.spacing = Spacing.of(fine)
        self.strength = penalty.weight * float(fine.cell_area.mean())
        self._step = _row_steps(self.spacing, self.strength, cells.factor_y)
        reach = tuple(penalty.iterations * -(-2 // factor) for factor in (cells.factor_y, cells.factor_x))
        self.halo = (reach[0], reach[1])

    def __call__(
        self,
        proposal: Tensor,
        coarse: Tensor,
        orog: Tensor | None,
        cells: Aggregation,
        rows: NDArray[np.int64],
        spacing: Spacing,
        bounds: tuple[Bound, Bound] = (None, None),
    ) -> Tensor:
        """Return ``proposal`` (..., n_fine_y, n_fine_x) of the fine ``rows``, refined; NaN cells stay NaN."""
        mask = torch.isfinite(proposal)
        start = torch.where(mask, proposal, torch.zeros_like(proposal))
        area = start.new_tensor(spacing.area)
        step = start.new_tensor(self._step[rows])[:, None]
        allowed = self.penalty.allowed(orog, start, spacing)
        usable = whole_stencils(mask, spacing).to(start.dtype)
        current = extrapolated = start
        momentum = 1.0
        for _ in range(self.penalty.iterations):
            slope_of_penalty = _penalty_gradient(extrapolated, spacing, allowed, area, usable)
            descent = (extrapolated - start) + self.strength * slope_of_penalty
            projected = _project(extrapolated - step * descent, coarse, cells, mask, bounds)
            next_momentum = 0.5 * (1 + (1 + 4 * momentum**2) ** 0.5)
            extrapolated = projected + ((momentum - 1) / next_momentum) * (projected - current)
            current, momentum = projected, next_momentum
        return torch.where(mask, current, torch.full_like(current, torch.nan))


def _project(field: Tensor, coarse: Tensor, cells: Aggregation, mask: Tensor, bounds: tuple[Bound, Bound]) -> Tensor:
    """Return the nearest field with conserved cell means and bounds; cells without a value conserve their own mean."""
    unbounded = bounds == (None, None)
    cells = cells.masked(mask)
    projected = additive(field, coarse, cells) if unbounded else bounded(field, coarse, cells, bounds)
    return torch.where(mask, projected, torch.zeros_like(projected))


def _penalty_gradient(field: Tensor, spacing: Spacing, allowed: Tensor, area: Tensor, usable: Tensor) -> Tensor:
    """Return the derivative of ``sum a max(0, |grad y| - allowed)**2`` divided by the areas."""
    if spacing.periodic:
        # With wrapping and trimming, cells at the seam add their terms in the same order as in a cut block.
        columns = np.arange(-2, field.shape[-1] + 2) % field.shape[-1]
        wrapped = spacing.columns(columns)
        index = torch.as_tensor(columns, device=field.device)
        field, allowed, area, usable = (part.index_select(-1, index) for part in (field, allowed, area, usable))
        return _penalty_gradient(field, wrapped, allowed, area, usable)[..., 2:-2]
    with torch.enable_grad():
        point = field.detach().requires_grad_(True)
        total = (area * usable * excess(point, spacing, allowed) ** 2).sum()
        (derivative,) = torch.autograd.grad(total, point)
    return derivative / area


def _row_steps(spacing: Spacing, strength: float, factor_y: int) -> NDArray[np.float64]:
    """Return stable step sizes of fine rows, equal within a coarse row, from a bound on the curvature."""
    curvature = (1 + 2 * strength * gradient_bound(spacing) / spacing.area).max(axis=1)
    return np.repeat(1 / curvature.reshape(-1, factor_y).max(axis=1), factor_y)
