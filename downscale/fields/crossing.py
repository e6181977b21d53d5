"""Projection of fine maps on the means of coarse cells whose borders cross fine cells.

A fine cell that crosses a border belongs to both coarse means, each by its area inside. The field nearest to a proposal
``z`` with these means is ``y = z + W^-1 M' (M W^-1 M')^-1 (D x - M z)``, with the overlaps M of coarse and fine cells,
the areas W of fine and D of coarse cells. It adds to each fine cell the average of one number per coarse cell. Bounds
and ratios leave a convex problem in these numbers, solved by Newton's method with a line search. Each step is a sparse
system like the one above, solved by conjugate gradients without assembling it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from downscale.errors import BoundsError
from downscale.fields.aggregate import SupermeshMean

Floats = NDArray[np.float64]
Bound = float | None
# Fine values, their slopes, and the integrals of their differences from the proposal, for the shift of each fine cell.
Response = Callable[[Floats], tuple[Floats, Floats, Floats]]
# Smaller overlaps than this fraction of a coarse cell are rounding of its edges.
LEAST_OVERLAP = 1e-9
# Steps of Newton's method, the least part of one, steps of conjugate gradients, and their relative accuracy.
MOST_STEPS, LEAST_PART, MOST_GRADIENTS, ACCURACY = 80, 1e-6, 500, 1e-8
# Fraction of the slope of a coarse cell below which it takes steps as if all of its fine cells were free; and the least
# relative damping of steps, which keeps every system positive definite.
LEAST_SLOPE, LEAST_DAMPING = 1e-3, 1e-10
# Errors, relative to magnitudes, from which a step that does not halve them is the last; and such steps above them.
ROUNDING, MOST_WAIT = 1e-11, 12
# Softness of bounds, relative to the range of the values, one after the other.
HARDENING = 4.0 ** -np.arange(16)
# Larger relative errors with soft bounds show that harder ones lead nowhere.
SOFT_ERROR = 1e-6
# Bounds that are nearer to each other than this, relative to the range of the values, leave nothing to find.
SETTLED = 1e-9
EPS = float(np.finfo(np.float64).eps)


def project_crossing(
    z: Floats, x: Floats, cells: SupermeshMean, bounds: tuple[Bound, Bound] = (None, None),
    multiplicative: bool = False,
) -> Floats:  # fmt: skip
    """Return the fine map nearest to ``z`` whose means over coarse cells are ``x``, within bounds if such a map exists.

    Parameters
    ----------
    z : array, shape (n_fine_y, n_fine_x)
        The proposal; NaN cells are left out and stay missing.
    x : array, shape (n_y, n_x)
        Coarse means; NaN cells impose nothing. Fine cells that overlap no other coarse cell become NaN.
    cells : SupermeshMean
        The means of fine cells over coarse cells, from :meth:`downscale.fields.aggregate.SupermeshMean.across`.
    bounds : (lower, upper)
        Limits of fine values. Cell means have priority: where no map within the bounds has them, values exceed bounds.
    multiplicative : bool
        Scale ``z`` by a positive field instead of adding one: zeros stay zero unless a coarse cell has no other value.

    Raises
    ------
    BoundsError
        If ``z`` or ``x`` is negative and the projection is multiplicative.

    Notes
    -----
    Cell conservation: the mean over the valid part of each coarse cell equals its value to rounding, relative to the
    larger of the value and the mean magnitude. On nested grids the results are those of
    :mod:`downscale.fields.conserve`.

    References
    ----------
    Qi, L. and Sun, J. (1993), A nonsmooth version of Newton's method, Mathematical Programming 58, 353-367.
    """
    problem = Problem.of(z, x, cells)
    if not problem.valid.any():
        return np.full(z.shape, np.nan)
    values = np.where(problem.valid, z, 0.0)
    if multiplicative:
        y = _scaled(values, problem)
    else:
        low, high = problem.limits(*bounds)
        y, _, error = _within(values, low, high, problem)
        if bounds[0] == 0 and (low == 0).all():
            # Rounding of a proposal of order one is large for a cell of drizzle: ratios have full relative accuracy,
            # also where no sums were found.
            pattern = y if error <= ROUNDING else np.maximum(y, problem.spread(problem.x))
            y = np.minimum(_scaled(np.clip(pattern, 0.0, high), problem), high)
    return np.where(problem.valid, problem.completed(y), np.nan)


class Solution(NamedTuple):
    """Fine values, the number of each coarse cell that makes them, and the largest error relative to magnitudes."""

    values: Floats
    numbers: Floats
    error: float


@dataclass(frozen=True, eq=False)
class Problem:
    """The constraints of one map: valid fine cells, coarse cells with a value, and the integrals over these.

    ``target`` are the wanted integrals, ``measure`` the valid measures of coarse cells; both are zero where a coarse
    cell imposes nothing. ``weight`` is the measure of each fine cell inside coarse cells with a value.
    """

    cells: SupermeshMean
    valid: NDArray[np.bool_]
    imposed: NDArray[np.bool_]
    x: Floats
    measure: Floats
    weight: Floats

    @classmethod
    def of(cls, z: Floats, x: Floats, cells: SupermeshMean) -> Problem:
        """Return the constraints for a proposal and coarse means; NaN marks missing cells in both."""
        valid = np.isfinite(z)
        measure = cells.integral(valid.astype(np.float64))
        imposed = np.isfinite(x) & (measure > LEAST_OVERLAP * cells.cell_measure)
        weight = cells.adjoint(imposed.astype(np.float64))
        valid &= weight > 0
        return cls(
            cells, valid, imposed, np.where(imposed, x, 0.0), np.where(imposed, measure, 0.0),
            np.where(valid, weight, 1.0),
        )  # fmt: skip

    @property
    def target(self) -> Floats:
        """Wanted integrals over coarse cells."""
        return self.measure * self.x

    def integral(self, values: Floats) -> Floats:
        """Return integrals of valid fine values over coarse cells, zero where nothing is imposed."""
        return np.where(self.imposed, self.cells.integral(np.where(self.valid, values, 0.0)), 0.0)

    def means(self, values: Floats) -> Floats:
        """Return means of valid fine values over coarse cells."""
        return self.integral(values) / np.where(self.imposed, self.measure, 1.0)

    def spread(self, numbers: Floats) -> Floats:
        """Return, for each fine cell, the average of one number per coarse cell."""
        return self.cells.adjoint(np.where(self.imposed, numbers, 0.0)) / self.weight

    def touches(self, coarse: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the fine cells that overlap some coarse cells."""
        return self.cells.adjoint((coarse & self.imposed).astype(np.float64)) > 0

    def limits(self, lower: Bound, upper: Bound) -> tuple[Floats, Floats]:
        """Return bounds of each fine cell: as narrow as the means imply, and wider where a coarse mean is beyond them.

        No fine value can exceed what is left of a coarse integral if all other fine values are on the lower bound.
        """
        low, high = (np.full(self.valid.shape, bound) for bound in (-np.inf, np.inf))
        if lower is not None:
            low = np.where(self.touches(self.x < lower), self.x[self.imposed].min(), lower)
            high = lower + self._most(self.x - lower)
        if upper is not None:
            high = np.where(self.touches(self.x > upper), self.x[self.imposed].max(), np.minimum(high, upper))
            low = np.maximum(low, upper - self._most(upper - self.x))
        return np.minimum(low, high), high

    def without(self, coarse: NDArray[np.bool_]) -> Problem:
        """Return the problem without the constraints of some coarse cells."""
        imposed = self.imposed & ~coarse
        x, measure = (np.where(imposed, field, 0.0) for field in (self.x, self.measure))
        return replace(self, imposed=imposed, x=x, measure=measure)

    def _most(self, room: Floats) -> Floats:
        """Return the least ratio, for each fine cell, of the room in a coarse cell to the fine cell's part of it."""
        most = np.where(self.imposed & (room >= 0), self.measure * room, np.inf)
        for axis, overlap in ((1, self.cells.x), (0, self.cells.y)):
            parts = overlap.tocoo()
            least = np.full((overlap.shape[1], most.shape[1 - axis]), np.inf)
            np.minimum.at(least, parts.col, np.take(most, parts.row, axis).swapaxes(0, axis) / parts.data[:, None])
            most = least.swapaxes(0, axis)
        return most

    def solve(
        self, respond: Response, z: Floats, size: Floats, start: Floats | None = None, floor: float = LEAST_SLOPE
    ) -> Solution:
        """Return the fine values of the response of ``z`` with the wanted means.

        ``size`` are mean magnitudes, which set the rounding; ``start`` are numbers near the solution. Coarse cells with
        less than the fraction ``floor`` of the slope take steps as if all of their fine cells were free.
        """
        wanted = self.target - self.integral(z)
        numbers = np.zeros(self.x.shape) if start is None else start
        y, slope, merit = self._state(respond, wanted, numbers)
        best, least, waited, damping = (y, numbers), np.inf, 0, LEAST_DAMPING
        for _ in range(MOST_STEPS):
            residual = self.target - self.integral(y)
            scale = np.maximum(self.measure * (np.abs(self.x) + size), self.integral(np.abs(y)))
            error = float((np.abs(residual) / np.where(scale > 0, scale, 1.0)).max())
            waited = 0 if error < 0.5 * least else waited + 1
            if error < least:
                best, least = (y, numbers), error
            if error <= 2 * EPS or waited > (0 if least <= ROUNDING else MOST_WAIT):
                break
            step = self._step(slope, residual, floor, damping)
            gain, part = float((residual * step).sum()), 1.0
            while part > LEAST_PART:
                trial = self._state(respond, wanted, numbers + part * step)
                # Rounding hides the gain of the last steps.
                if trial[2] <= merit - 1e-4 * part * gain + 1e-13 * abs(merit):
                    numbers, (y, slope, merit) = numbers + part * step, trial
                    break
                part /= 2
            # Long steps along which nothing is known are cut short: the next ones are damped.
            damping = max(damping / 10, LEAST_DAMPING) if part == 1 else min(damping * 100, 1.0)
        return Solution(*best, least)

    def completed(self, y: Floats) -> Floats:
        """Return values with exact means: what remains, if no map within the bounds has them, is added to all cells."""
        residual, size = self.target - self.integral(y), self.means(np.abs(y))
        if (np.abs(residual) <= 1e-12 * self.measure * (np.abs(self.x) + size)).all():
            return y
        return self.solve(_clipped(y, np.array(-np.inf), np.array(np.inf)), y, size).values

    def _state(self, respond: Response, wanted: Floats, numbers: Floats) -> tuple[Floats, Floats, float]:
        """Return fine values, slopes, and the convex function whose gradient is the negative residual."""
        y, slope, potential = respond(self.spread(numbers))
        merit = float(np.where(self.valid, self.weight * potential, 0.0).sum() - (wanted * numbers).sum())
        return y, slope, merit if np.isfinite(merit) else np.inf

    @cached_property
    def _squares(self) -> SupermeshMean:
        return SupermeshMean(self.cells.y.power(2), self.cells.x.power(2), self.cells.cell_measure)

    def _step(self, slope: Floats, residual: Floats, floor: float, damping: float) -> Floats:
        """Return the damped Newton step by conjugate gradients, preconditioned by the diagonal."""
        share = np.where(self.valid, slope / self.weight, 0.0)
        total = self.integral(slope)
        ridge = damping * total + np.where(total <= floor * self.measure, self.measure, 0.0)
        diagonal = self._squares.integral(share) + ridge
        inverse = np.where(self.imposed & (diagonal > 0), 1 / np.where(diagonal > 0, diagonal, 1.0), 0.0)
        step, rest = np.zeros(residual.shape), residual
        direction = inverse * rest
        product = float((rest * direction).sum())
        goal = ACCURACY**2 * product
        for _ in range(MOST_GRADIENTS):
            if product <= goal:
                break
            image = self.integral(share * self.cells.adjoint(direction)) + ridge * direction
            curvature = float((direction * image).sum())
            if not 0 < curvature < np.inf:
                break
            length = product / curvature
            step, rest = step + length * direction, rest - length * image
            ahead = inverse * rest
            product, former = float((rest * ahead).sum()), product
            direction = ahead + product / former * direction
        return step


def _within(z: Floats, low: Floats, high: Floats, problem: Problem) -> Solution:
    """Return the field within bounds that is nearest to ``z`` and has the wanted means, as near to these as it gets."""
    size = problem.means(np.abs(z))
    span = float(np.ptp(z[problem.valid])) + float(np.ptp(problem.x[problem.imposed]))
    # Where bounds nearly meet, numbers of coarse cells run away for changes that are lost in the rounding of ``z``.
    is_settled = high - low <= SETTLED * span
    low, high = (np.where(is_settled, np.clip(z, low, high), bound) for bound in (low, high))
    problem = problem.without(problem.integral((~is_settled).astype(np.float64)) == 0)
    found = problem.solve(_clipped(z, low, high), z, size)
    if found.error <= ROUNDING:
        return found
    # Coarse cells with all fine cells on bounds say nothing of the way: soft bounds do, and harden step by step.
    numbers = np.zeros(problem.x.shape)
    for softness in span * HARDENING:
        soft = problem.solve(_soft(z, low, high, softness), z, size, numbers, floor=0.0)
        if soft.error > SOFT_ERROR:
            break
        numbers = soft.numbers
    return min(problem.solve(_clipped(z, low, high), z, size, numbers), found, key=lambda one: one.error)


def _clipped(z: Floats, low: Floats, high: Floats) -> Response:
    """Return the response of clipped sums: ``clip(z + shift, low, high)``."""

    def respond(shift: Floats) -> tuple[Floats, Floats, Floats]:
        moved = z + shift
        y = np.clip(moved, low, high)
        potential = 0.5 * (y - z) ** 2 + (moved - y) * (y - z)
        return y, ((moved > low) & (moved < high)).astype(np.float64), potential

    return respond


def _soft(z: Floats, low: Floats, high: Floats, softness: float) -> Response:
    """Return the response of sums clipped by hyperbolas, which approach the bounds at distances of the softness."""
    edges = [(np.where(np.isfinite(edge), edge, 0.0), np.isfinite(edge)) for edge in (low, high)]

    def respond(shift: Floats) -> tuple[Floats, Floats, Floats]:
        moved = z + shift
        y, slope, potential = moved.copy(), np.ones(z.shape), 0.5 * shift**2
        for (edge, exists), sign in zip(edges, (1.0, -1.0), strict=True):
            # What a bound adds: half of the difference between a hyperbola and its asymptote.
            distance = sign * (moved - edge)
            root = np.hypot(distance, 2 * softness)
            y += np.where(exists, sign * 0.5 * (root - distance), 0.0)
            slope += np.where(exists, 0.5 * (distance / root - 1), 0.0)
            area = 0.25 * distance * (root - distance) + softness**2 * np.arcsinh(distance / (2 * softness))
            potential += np.where(exists, area, 0.0)
        return y, np.maximum(slope, 0.0), potential

    return respond


def _ratio(z: Floats) -> Response:
    """Return the response of ratios: ``z exp(shift)``, never negative."""

    def respond(shift: Floats) -> tuple[Floats, Floats, Floats]:
        with np.errstate(over="ignore", invalid="ignore"):
            y = np.where(z > 0, z * np.exp(shift), 0.0)
            return y, y, np.where(z > 0, z * (np.expm1(shift) - shift), 0.0)

    return respond


def _scaled(z: Floats, problem: Problem) -> Floats:
    """Return ``z`` times a positive field with the wanted means; coarse cells where ``z`` is zero are filled first."""
    for values, role in ((z, "fine"), (problem.x, "coarse")):
        if values.min() < 0:
            raise BoundsError(
                f"expected {role} values >= 0 for the multiplicative constraint, received {values.min():g}; use "
                "'additive' or 'bounded'"
            )
    dry = problem.touches(problem.x == 0)
    z = np.where(dry, 0.0, z)
    bare = problem.touches((problem.means(z) == 0) & (problem.x > 0)) & ~dry
    z = np.where(bare, np.maximum(z, problem.spread(problem.x)), z)
    means = problem.means(z)
    is_scaled = (means > 0) & (problem.x > 0)
    start = np.log(np.where(is_scaled, problem.x, 1.0) / np.where(is_scaled, means, 1.0))
    return problem.solve(_ratio(z), z, np.zeros(problem.x.shape), start, floor=0.0).values
