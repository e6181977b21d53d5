"""Hard constraints that impose cell conservation on any fine proposal.

All take a proposal ``z`` (..., n_fine_y, n_fine_x), coarse values ``x`` (..., n_y, n_x) and the aggregation A, perhaps
masked. They return ``y`` with ``A y = x`` on every coarse cell that has a valid subcell. Values under the mask are
returned unchanged and carry no gradient. All are idempotent, batched and differentiable in ``z`` and ``x``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from downscale.errors import BoundsError, OptionError, listing
from downscale.fields.aggregate import Aggregation

if TYPE_CHECKING:
    from torch import Tensor

Bound = float | None


class Constraint(Protocol):
    """The common signature of constraints."""

    def __call__(self, z: Tensor, x: Tensor, cells: Aggregation, bounds: tuple[Bound, Bound] = ...) -> Tensor:
        """Return the nearest field with cell conservation."""
        ...


def additive(z: Tensor, x: Tensor, cells: Aggregation, bounds: tuple[Bound, Bound] = (None, None)) -> Tensor:
    """Add the residual of its mean to each coarse cell: ``y = z + S (x - A z)``.

    The orthogonal projection on cell conservation in the area-weighted norm; for any sign, without bounds.
    """
    residual = x - cells.mean(z)
    y = z + cells.broadcast_to_fine(residual)
    with torch.no_grad():
        exact = _correct_small(y.detach(), x, cells, residual)
    # The difference is rounding; it carries the gradient.
    return _unless_masked(exact + (y - y.detach()) if y.requires_grad else exact, z, cells)


def _correct_small(y: Tensor, x: Tensor, cells: Aggregation, residual: Tensor) -> Tensor:
    """Return ``y`` with exact means of cells whose value is small compared with the residual of their subcells.

    The rounding of a proposal of order one is large for a cell of 1e-12; equal subcells get the value of the cell.
    """
    is_small = x.abs() < 1e-3 * residual.abs()
    if not bool(is_small.any()):
        return y
    is_uniform = cells.reduce_cells(y, torch.minimum, torch.inf) == cells.reduce_cells(y, torch.maximum, -torch.inf)
    corrected_values = y + cells.broadcast_to_fine(x - cells.mean(y))
    corrected_values = torch.where(cells.broadcast_to_fine(is_uniform), cells.broadcast_to_fine(x), corrected_values)
    return torch.where(cells.broadcast_to_fine(is_small), corrected_values, y)


def multiplicative(z: Tensor, x: Tensor, cells: Aggregation, bounds: tuple[Bound, Bound] = (None, None)) -> Tensor:
    """Scale each coarse cell to its mean: ``y = z S(x / A z)`` for z, x >= 0; keeps sign and zeros.

    A cell with ``A z = 0`` has no pattern to scale and becomes uniform.

    Raises
    ------
    BoundsError
        If ``z`` or ``x`` is negative.
    """
    _require_nonnegative(_valid_cells(x, cells), "multiplicative", "coarse")
    valid = z if cells.mask is None else torch.where(cells.mask, z, torch.zeros_like(z))
    _require_nonnegative(valid, "multiplicative", "fine")
    # Relative to its largest subcell no cell overflows, however small its values are.
    largest = cells.reduce_cells(valid, torch.maximum, 0.0).detach()
    is_zero = largest == 0
    relative = valid / cells.broadcast_to_fine(torch.where(is_zero, torch.ones_like(largest), largest))
    pattern = torch.where(cells.broadcast_to_fine(is_zero), torch.ones_like(z), relative)
    return _unless_masked(pattern * cells.broadcast_to_fine(x / _mean_or_one(pattern, cells)), z, cells)


def softmax(z: Tensor, x: Tensor, cells: Aggregation, bounds: tuple[Bound, Bound] = (None, None)) -> Tensor:
    """Distribute each coarse value by exponentials: ``y = S(x) exp(z) / S(A exp(z))`` for x >= 0.

    Idempotent in the sense that log y gives y again. The largest z of each cell is subtracted first.

    Raises
    ------
    BoundsError
        If ``x`` is negative.
    """
    _require_nonnegative(_valid_cells(x, cells), "softmax", "coarse")
    valid = z if cells.mask is None else torch.where(cells.mask, z, torch.full_like(z, -torch.inf))
    largest = cells.reduce_cells(valid, torch.maximum, -torch.inf).detach()
    # The logarithm of a dry cell is -inf throughout: no pattern, hence uniform.
    valid = torch.where(cells.broadcast_to_fine(largest == -torch.inf), torch.zeros_like(z), valid)
    largest = torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))
    pattern = torch.exp(valid - cells.broadcast_to_fine(largest))
    return _unless_masked(pattern * cells.broadcast_to_fine(x / _mean_or_one(pattern, cells)), z, cells)


def bounded(z: Tensor, x: Tensor, cells: Aggregation, bounds: tuple[Bound, Bound] = (0.0, None)) -> Tensor:
    """Project on cell conservation and bounds together: ``y = clip(z + S t, lower, upper)``, one ``t`` per coarse cell.

    The area-weighted Euclidean projection on ``{lower <= y <= upper, A y = x}``. ``A clip(z + t)`` grows piecewise
    linearly with t, so that sorting the values of a cell gives t directly. The gradient is that of the implicit
    function theorem: among the fine cells strictly between the bounds.

    References
    ----------
    Held, M., Wolfe, P. and Crowder, H. P. (1974), Validation of subgradient optimization, Mathematical Programming 6,
    62-88.

    Raises
    ------
    BoundsError
        If a coarse value is outside the bounds (no such field exists); the message has the first such value.
    """
    lower = -torch.inf if bounds[0] is None else bounds[0]
    upper = torch.inf if bounds[1] is None else bounds[1]
    _require_feasible(_valid_cells(x, cells), lower, upper)
    with torch.no_grad():
        shift = _shift(z, x, cells, lower, upper)
    y = _differentiable(z, x, cells, lower, upper, shift)
    with torch.no_grad():
        exact = _restore_accuracy(y.detach(), z, x, cells, lower, upper)
    # The difference is zero; it carries the gradient.
    return _unless_masked(exact + (y - y.detach()) if y.requires_grad else exact, z, cells)


def _shift(z: Tensor, x: Tensor, cells: Aggregation, lower: float, upper: float) -> Tensor:
    """Return t with ``A clip(z + t, lower, upper) = x`` for each coarse cell, shape (..., n_y, n_x)."""
    if lower == -torch.inf and upper == torch.inf:
        return x - cells.mean(z)
    if lower == -torch.inf:
        return -_shift(-z, -x, cells, -upper, torch.inf)
    fraction = cells.subcells(cells.fractions(z))
    # The values of subcells without area do not matter, NaN and infinite ones neither.
    values = torch.where(fraction > 0, cells.subcells(z), torch.zeros_like(z[..., :1, :1, None]))
    if upper == torch.inf:
        return _shift_above(values, fraction, x, lower)
    return _shift_between(values, fraction, x, lower, upper)


def _shift_above(values: Tensor, fraction: Tensor, x: Tensor, lower: float) -> Tensor:
    """Return t for a lower bound only, from values and area fractions of shape (..., n_y, n_x, subcells).

    With the k largest values above the bound, t is known; the largest k whose smallest value ends above it is right.
    """
    # Subcells without area are the last.
    order = torch.where(fraction > 0, values, torch.full_like(values, -torch.inf)).argsort(dim=-1, descending=True)
    values, fraction = values.gather(-1, order), fraction.expand(order.shape).gather(-1, order)
    area, excess = fraction.cumsum(-1), (fraction * (values - lower)).cumsum(-1)
    shift = ((x - lower)[..., None] - excess) / area
    count = ((values + shift > lower) & (fraction > 0)).sum(-1, keepdim=True)
    shift = shift.gather(-1, (count - 1).clamp_min(0))[..., 0]
    # In a cell on its bound no value may exceed it by rounding, because it would carry a gradient.
    lowest = torch.nextafter(lower - values[..., 0], torch.full_like(shift, -torch.inf))
    return torch.where(x == lower, lowest, shift)


def _shift_between(values: Tensor, fraction: Tensor, x: Tensor, lower: float, upper: float) -> Tensor:
    """Return t for two bounds, from values and area fractions of shape (..., n_y, n_x, subcells).

    The mean grows linearly between the shifts at which a value leaves the lower or reaches the upper bound.
    """
    ends = torch.cat([lower - values, upper - values], dim=-1)
    fraction = fraction.expand(values.shape)
    ends, order = ends.sort(dim=-1)
    slope = torch.cat([fraction, -fraction], dim=-1).gather(-1, order).cumsum(-1)
    mean = lower + torch.nn.functional.pad((slope[..., :-1] * ends.diff(dim=-1)).cumsum(-1), (1, 0))
    # The last end whose mean is below x; the first if x is the lower bound.
    index = ((mean < x[..., None]).sum(-1, keepdim=True) - 1).clamp(0, ends.shape[-1] - 2)
    end, rate, below = (table.gather(-1, index)[..., 0] for table in (ends, slope, mean))
    shift = end + (x - below) / torch.where(rate > 0, rate, torch.ones_like(rate))
    return torch.where((values.isnan() & (fraction > 0)).any(-1), shift * torch.nan, shift)


def _differentiable(z: Tensor, x: Tensor, cells: Aggregation, lower: float, upper: float, shift: Tensor) -> Tensor:
    """Return one differentiable Newton step from the solution: its derivative is the implicit one."""
    candidate = z + cells.broadcast_to_fine(shift)
    free = (candidate > lower) & (candidate < upper)
    slope = cells.mean(free.to(z.dtype)).detach()
    error = cells.mean(candidate.clamp(lower, upper)) - x
    step = torch.where(slope > 0, error / torch.where(slope > 0, slope, torch.ones_like(slope)), error * 0)
    return (candidate - torch.where(free, cells.broadcast_to_fine(step), torch.zeros_like(z))).clamp(lower, upper)


def _restore_accuracy(y: Tensor, z: Tensor, x: Tensor, cells: Aggregation, lower: float, upper: float) -> Tensor:
    """Return ``y`` with full *relative* accuracy in cells close to a bound: distances from that bound are scaled.

    A proposal of order one leaves errors of 1e-16, which is large for a cell of drizzle and noise in a dry one.
    """
    low, high = x.new_tensor(lower), x.new_tensor(upper)
    bound = torch.where((x - low).abs() <= (high - x).abs(), low, high)
    if not bool(torch.isfinite(bound).any()):
        return y
    base = cells.broadcast_to_fine(bound)
    distance, target_distance = y - base, x - bound
    mean_distance = cells.mean(distance)
    ratio = target_distance / torch.where(mean_distance == 0, torch.ones_like(mean_distance), mean_distance)
    scaled_values = base + distance * cells.broadcast_to_fine(ratio)
    scaled_values = torch.where(cells.broadcast_to_fine(mean_distance == 0), cells.broadcast_to_fine(x), scaled_values)
    # Beyond rounding the scaling would change the field: then the shift decides. If the mean is already
    # correct to rounding, parts at the other bound stay on it.
    size = cells.reduce_cells(z.abs(), torch.maximum, 0.0) + x.abs() + bound.abs()
    error, eps = (target_distance - mean_distance).abs(), torch.finfo(y.dtype).eps
    slight = (error <= 32 * eps * size) & (error > 2 * eps * target_distance.abs())
    is_rounding = cells.broadcast_to_fine(slight & torch.isfinite(bound) & torch.isfinite(ratio))
    return torch.where(is_rounding, scaled_values.clamp(lower, upper), y)


def _unless_masked(y: Tensor, z: Tensor, cells: Aggregation) -> Tensor:
    """Return ``y``, but the proposal ``z`` under the mask."""
    return y if cells.mask is None else torch.where(cells.mask, y, z)


def _mean_or_one(pattern: Tensor, cells: Aggregation) -> Tensor:
    """Return the means of cells, one without a valid subcell: a NaN there would spoil every gradient."""
    mean = cells.mean(pattern)
    return mean if cells.mask is None else torch.where(cells.valid_fraction > 0, mean, torch.ones_like(mean))


def _valid_cells(x: Tensor, cells: Aggregation) -> Tensor:
    """Return the coarse values of cells with a valid subcell, NaN elsewhere, which impose nothing."""
    return x if cells.mask is None else torch.where(cells.valid_fraction > 0, x, torch.full_like(x, torch.nan))


def _require_nonnegative(values: Tensor, name: str, role: str) -> None:
    smallest = values[torch.isfinite(values)].min() if bool(torch.isfinite(values).any()) else None
    if smallest is not None and smallest < 0:
        raise BoundsError(
            f"expected {role} values >= 0 for the {name} constraint, received {float(smallest):g}; "
            "use 'additive' or 'bounded'"
        )


def infeasible(x: Tensor, lower: float, upper: float) -> Tensor:
    """Return where a coarse value is outside the bounds, so that no fine field within them has that mean."""
    return (x < lower) | (x > upper)


def _require_feasible(x: Tensor, lower: float, upper: float) -> None:
    violations = infeasible(x, lower, upper)
    if bool(violations.any()):
        index = tuple(int(i) for i in violations.nonzero()[0])
        raise BoundsError(
            f"expected coarse values within [{lower:g}, {upper:g}], received {float(x[index]):g} at cell {index}; "
            "widen the bounds or repair the input"
        )


CONSTRAINTS: dict[str, Constraint] = {
    "additive": additive,
    "multiplicative": multiplicative,
    "softmax": softmax,
    "bounded": bounded,
}


def constraint(name: str) -> Constraint:
    """Return a constraint by its name; raise ``OptionError``, with the list of names, if there is none."""
    if name not in CONSTRAINTS:
        raise OptionError(f"expected a constraint among {listing(CONSTRAINTS)}, received {name!r}")
    return CONSTRAINTS[name]
