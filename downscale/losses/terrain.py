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
    field: Tensor, spacing: Spacing, allowed_slope: Tensor, area: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return ``P(y) = sum a max(0, |grad y| - allowed_slope)**2 / sum a``, one value per map, differentiable.

    Parameters
    ----------
    field : tensor, shape (..., n_y, n_x)
        Fine field; gradients by Sobel in metres.
    spacing : Spacing
        Distances of the fine grid.
    allowed_slope : tensor, shape (n_y, n_x)
        Slope without cost, in units of the field per m; 0 gives a plain slope penalty.
    area : tensor, shape (n_y, n_x) or (n_y, 1)
        Fine cell areas.
    mask : tensor of bool, optional
        Valid cells; stencils that touch an invalid cell are left out.
    """
    values = field if mask is None else torch.where(mask, field, torch.zeros_like(field))
    excess_slope = excess(values, spacing, allowed_slope)
    weight = area.expand(field.shape[-2:]) * (1.0 if mask is None else complete_stencils(mask, spacing).to(field.dtype))
    total = (weight * excess_slope**2).sum(dim=(-2, -1))
    total_weight = weight.sum(dim=(-2, -1)) if mask is not None else weight.sum()
    return total / torch.clamp(total_weight, min=torch.finfo(field.dtype).tiny)


def excess(field: Tensor, spacing: Spacing, allowed_slope: Tensor) -> Tensor:
    """Return the excess of a field's slope over the allowed one, differentiable, in units of the field per m."""
    east, north = sobel(field, spacing)
    square = east**2 + north**2
    # The root has no derivative at zero, where the excess is zero.
    flat = square == 0
    return torch.relu(torch.sqrt(square.masked_fill(flat, 1.0)).masked_fill(flat, 0.0) - allowed_slope)


def complete_stencils(mask: Tensor, spacing: Spacing) -> Tensor:
    """Return a mask of cells whose nine stencil cells are all valid."""
    missing = (~mask).to(torch.float64).reshape(-1, 1, *mask.shape[-2:])
    mode = "circular" if spacing.periodic else "replicate"
    padded_missing = torch.nn.functional.pad(missing, (1, 1, 0, 0), mode=mode)
    padded_missing = torch.nn.functional.pad(padded_missing, (0, 0, 1, 1), mode="replicate")
    return (torch.nn.functional.max_pool2d(padded_missing, 3, stride=1) == 0).reshape(mask.shape)


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
        allowed_slope = self.penalty.allowed(orog, start, spacing)
        usable = complete_stencils(mask, spacing).to(start.dtype)
        current = extrapolation = start
        momentum = 1.0
        for _ in range(self.penalty.iterations):
            slope_of_penalty = _penalty_gradient(extrapolation, spacing, allowed_slope, area, usable)
            descent = (extrapolation - start) + self.strength * slope_of_penalty
            projection = _project(extrapolation - step * descent, coarse, cells, mask, bounds)
            next_momentum = 0.5 * (1 + (1 + 4 * momentum**2) ** 0.5)
            extrapolation = projection + ((momentum - 1) / next_momentum) * (projection - current)
            current, momentum = projection, next_momentum
        return torch.where(mask, current, torch.full_like(current, torch.nan))


def _project(field: Tensor, coarse: Tensor, cells: Aggregation, mask: Tensor, bounds: tuple[Bound, Bound]) -> Tensor:
    """Return the nearest field with conserved cell means and bounds; cells without a value conserve their own mean."""
    is_unbounded = bounds == (None, None)
    cells = cells.apply_mask(mask)
    projection = additive(field, coarse, cells) if is_unbounded else bounded(field, coarse, cells, bounds)
    return torch.where(mask, projection, torch.zeros_like(projection))


def _penalty_gradient(field: Tensor, spacing: Spacing, allowed_slope: Tensor, area: Tensor, usable: Tensor) -> Tensor:
    """Return the derivative of ``sum a max(0, |grad y| - allowed_slope)**2`` divided by the areas."""
    if spacing.periodic:
        # With wrapping and trimming, cells at the seam add their terms in the same order as in a cut block.
        columns = np.arange(-2, field.shape[-1] + 2) % field.shape[-1]
        wrapped_spacing = spacing.columns(columns)
        index = torch.as_tensor(columns, device=field.device)
        field, allowed_slope, area, usable = (
            part.index_select(-1, index) for part in (field, allowed_slope, area, usable)
        )
        return _penalty_gradient(field, wrapped_spacing, allowed_slope, area, usable)[..., 2:-2]
    with torch.enable_grad():
        point = field.detach().requires_grad_(True)
        total = (area * usable * excess(point, spacing, allowed_slope) ** 2).sum()
        (derivative,) = torch.autograd.grad(total, point)
    return derivative / area


def _row_steps(spacing: Spacing, strength: float, factor_y: int) -> NDArray[np.float64]:
    """Return stable step sizes of fine rows, equal within a coarse row, from a bound on the curvature."""
    curvature = (1 + 2 * strength * gradient_bound(spacing) / spacing.area).max(axis=1)
    return np.repeat(1 / curvature.reshape(-1, factor_y).max(axis=1), factor_y)
