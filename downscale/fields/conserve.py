"""Hard constraints: make the cell law hold for any fine proposal (torch; knows no grid but the aggregation).

All take a proposal ``z`` (..., n_fine_y, n_fine_x), coarse values ``x`` (..., n_y, n_x), the aggregation A and an
optional mask of valid fine cells, and return ``y`` with ``A y = x`` on every coarse cell that has a valid part. All are
idempotent, batched and differentiable in ``z`` and ``x``.
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
    """The signature that all constraints share."""

    def __call__(
        self, z: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None = None, bounds: tuple[Bound, Bound] = ...
    ) -> Tensor:
        """Return the nearest field that keeps the cell law."""
        ...


def additive(
    z: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None = None, bounds: tuple[Bound, Bound] = (None, None)
) -> Tensor:
    """Add to each coarse cell what its mean lacks: ``y = z + S (x - A z)``.

    The orthogonal projection on the cell law in the area-weighted norm; any sign; bounds are not looked at.
    """
    return z + cells.spread(x - cells.mean(z, mask))


def multiplicative(
    z: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None = None, bounds: tuple[Bound, Bound] = (None, None)
) -> Tensor:
    """Scale each coarse cell to its mean: ``y = z S(x / A z)`` for z, x >= 0; keeps sign and zeros.

    A cell with ``A z = 0`` has no pattern to scale and becomes uniform.

    Raises
    ------
    BoundsError
        If ``z`` or ``x`` is negative.
    """
    _require_nonnegative(x, "multiplicative", "coarse")
    _require_nonnegative(z if mask is None else z[..., mask] if mask.ndim == 2 else z[mask], "multiplicative", "fine")
    mean = cells.mean(z, mask)
    flat = mean == 0
    ratio = x / torch.where(flat, torch.ones_like(mean), mean)
    return torch.where(cells.spread(flat), cells.spread(x), z * cells.spread(ratio))


def softmax(
    z: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None = None, bounds: tuple[Bound, Bound] = (None, None)
) -> Tensor:
    """Share each coarse value out by exponentials: ``y = S(x) exp(z) / S(A exp(z))`` for x >= 0.

    Idempotent in the sense that log y gives y again. The largest z of each cell is subtracted first.

    Raises
    ------
    BoundsError
        If ``x`` is negative.
    """
    _require_nonnegative(x, "softmax", "coarse")
    valid = z if mask is None else torch.where(mask, z, torch.full_like(z, -torch.inf))
    top = cells.fold(valid, torch.maximum).detach()
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    shares = torch.exp(z - cells.spread(top))
    return cells.spread(x / cells.mean(shares, mask)) * shares


def bounded(
    z: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None = None, bounds: tuple[Bound, Bound] = (0.0, None)
) -> Tensor:
    """Project on the cell law and the bounds together: ``y = clip(z + S t, lower, upper)``, one ``t`` a coarse cell.

    The area-weighted Euclidean projection on ``{lower <= y <= upper, A y = x}``. ``A clip(z + t)`` grows piecewise
    linearly with t, so a safeguarded Newton iteration ends at rounding. The gradient is that of the implicit
    function theorem: among the fine cells strictly between the bounds.

    Raises
    ------
    BoundsError
        If a coarse value lies outside the bounds (no such field exists); names the first such value.
    """
    lower = -torch.inf if bounds[0] is None else bounds[0]
    upper = torch.inf if bounds[1] is None else bounds[1]
    _require_feasible(x, lower, upper)
    with torch.no_grad():
        shift = _solve_shift(z, x, cells, mask, lower, upper)
    y = _differentiable(z, x, cells, mask, lower, upper, shift)
    return y + _rounding_left(y.detach(), x.detach(), cells, mask, lower, upper)


def _solve_shift(
    z: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None, lower: float, upper: float
) -> Tensor:
    """Find t with ``A clip(z + t) = x`` for each coarse cell."""
    low_z, high_z = (z, z) if mask is None else (_filled(z, mask, torch.inf), _filled(z, mask, -torch.inf))
    # z + t <= x everywhere at the left end, >= x at the right end, so the root lies between for any bounds.
    left, right = x - cells.fold(high_z, torch.maximum), x - cells.fold(low_z, torch.minimum)
    shift = torch.minimum(torch.maximum(x - cells.mean(z, mask), left), right)
    scale = torch.maximum(x.abs(), cells.mean(z.abs(), mask))
    done = ~torch.isfinite(x) | ~torch.isfinite(shift)
    # A piecewise linear function of n parts has at most n + 1 pieces; bisection steps need about 60 more.
    for _ in range(cells.factor_y * cells.factor_x + 64):
        moved = z + cells.spread(shift)
        error = cells.mean(moved.clamp(lower, upper), mask) - x
        done = done | (error.abs() <= 4 * torch.finfo(z.dtype).eps * scale)
        if bool(done.all()):
            break
        right, left = torch.where(error > 0, shift, right), torch.where(error <= 0, shift, left)
        free = ((moved > lower) & (moved < upper)).to(z.dtype)
        slope = cells.mean(free, mask)
        newton = shift - error / torch.where(slope > 0, slope, torch.ones_like(slope))
        inside = (slope > 0) & (newton > left) & (newton < right)
        # A cell that is done stays as it is, so that its neighbours cannot change it.
        shift = torch.where(done, shift, torch.where(inside, newton, 0.5 * (left + right)))
    return shift


def _differentiable(
    z: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None, lower: float, upper: float, shift: Tensor
) -> Tensor:
    """Take one differentiable Newton step from the solution: its derivative is the implicit one."""
    moved = z + cells.spread(shift)
    free = (moved > lower) & (moved < upper)
    slope = cells.mean(free.to(z.dtype), mask).detach()
    error = cells.mean(moved.clamp(lower, upper), mask) - x
    step = torch.where(slope > 0, error / torch.where(slope > 0, slope, torch.ones_like(slope)), error * 0)
    return (moved - torch.where(free, cells.spread(step), torch.zeros_like(z))).clamp(lower, upper)


def _rounding_left(
    y: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None, lower: float, upper: float
) -> Tensor:
    """Return what brings cells close to a bound to full *relative* accuracy, by scaling distances from that bound.

    A proposal of order one leaves errors of 1e-16, which is much for a cell of drizzle and is dust in a dry one.
    """
    low = torch.as_tensor(lower, dtype=x.dtype, device=x.device)
    high = torch.as_tensor(upper, dtype=x.dtype, device=x.device)
    near_low = (x - low).abs() <= (high - x).abs()
    bound = torch.where(near_low, low, high)
    if not bool(torch.isfinite(bound).any()):
        return torch.zeros_like(y)
    wanted, given = x - bound, cells.mean(y, mask) - bound
    ratio = wanted / torch.where(given == 0, torch.ones_like(given), given)
    base = cells.spread(bound)
    scaled = base + (y - base) * cells.spread(ratio)
    scaled = torch.where(cells.spread(given == 0), cells.spread(x), scaled).clamp(lower, upper)
    # Beyond rounding the scaling would change the field: there the Newton iteration has the last word.
    slight = (wanted - given).abs() <= 1e-12 * torch.clamp(cells.fold(y.abs(), torch.maximum), min=1.0)
    use = cells.spread(slight & torch.isfinite(bound) & torch.isfinite(ratio))
    return torch.where(use, scaled - y, torch.zeros_like(y))


def _filled(z: Tensor, mask: Tensor, value: float) -> Tensor:
    return torch.where(mask, z, torch.full_like(z, value))


def _require_nonnegative(values: Tensor, name: str, role: str) -> None:
    smallest = values[torch.isfinite(values)].min() if bool(torch.isfinite(values).any()) else None
    if smallest is not None and smallest < 0:
        raise BoundsError(
            f"expected {role} values >= 0 for the {name} constraint, received {float(smallest):g}; "
            "use 'additive' or 'bounded'"
        )


def infeasible(x: Tensor, lower: float, upper: float) -> Tensor:
    """Return where a coarse value lies outside the bounds, so that no fine field within them has that mean."""
    return (x < lower) | (x > upper)


def _require_feasible(x: Tensor, lower: float, upper: float) -> None:
    outside = infeasible(x, lower, upper)
    if bool(outside.any()):
        index = tuple(int(i) for i in outside.nonzero()[0])
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
    """Return a constraint by its name.

    Raises
    ------
    OptionError
        If there is none of that name; lists the names.
    """
    if name not in CONSTRAINTS:
        raise OptionError(f"expected a constraint among {listing(CONSTRAINTS)}, received {name!r}")
    return CONSTRAINTS[name]
