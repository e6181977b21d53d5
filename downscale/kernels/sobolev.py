"""Weights of linear upsampling along one axis, in particular Sobolev-optimal ones.

Every method has the same form: for each fine cell a window of neighbouring coarse cells and their weights. On a uniform
axis the rows repeat with period ``factor``: they are the polyphase components of one transposed-convolution kernel of
length ``taps * factor`` and stride ``factor``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from downscale.errors import OptionError, ShapeError

Floats = NDArray[np.float64]

# The default orders over maps, and along time and layers: those of lowest error on real fields
# (benchmarks/accuracy.py), and from monthly means to days (benchmarks/monthly_to_daily.py).
MAP_ORDER, LINE_ORDER = 1.25, 1.0
# Fraction of a coarse cell by which rounding may move a fine edge beyond it.
NEST_TOLERANCE = 1e-6
# Largest error of a cell mean that the solution may have: beyond it rounding dominates the weights.
LARGEST_RESIDUAL = 1e-3
# Maximum window size, since larger ones gain nothing and cost the cube of their size; and values per batch of systems.
MOST_TAPS, SYSTEM_VALUES = 255, 4_000_000


@dataclass(frozen=True, eq=False)
class AxisWeights:
    """A sparse operator coarse -> fine along one axis.

    Attributes
    ----------
    weights : array of float64, shape (n_fine, taps)
        Weights of the window of each fine cell; each row sums to one (preserves constants).
    start : array of int64, shape (n_fine,)
        First coarse cell of each window; negative or beyond the end on a periodic axis (take it modulo n).
    """

    weights: Floats
    start: NDArray[np.int64]

    @property
    def taps(self) -> int:
        """Number of coarse cells in a window."""
        return self.weights.shape[1]

    def dense(self, size: int) -> Floats:
        """Return the operator as a matrix of shape (n_fine, size)."""
        matrix = np.zeros((self.start.size, size))
        rows = np.arange(self.start.size)
        for tap in range(self.taps):
            np.add.at(matrix, (rows, (self.start + tap) % size), self.weights[:, tap])
        return matrix


def axis_weights(
    coarse_edges: ArrayLike,
    fine_edges: ArrayLike,
    taps: int = 7,
    order: float = MAP_ORDER,
    period: float | None = None,
) -> AxisWeights:
    """Return the Sobolev-optimal conservative weights along one axis.

    Each fine average is predicted from the ``taps`` nearest coarse averages so that the Sobolev seminorm of order
    ``order`` is least among all functions with those averages: block kriging with generalised covariance ``+-|h|**(2
    order - 1)`` and a polynomial drift.

    Parameters
    ----------
    coarse_edges, fine_edges : array, shapes (n + 1,) and (n_fine + 1,)
        Cell edges in the same measure coordinate (longitude, sine of latitude, metres); every fine cell is within one
        coarse cell. Spacings need not be uniform.
    taps : int, odd
        Coarse cells per window; an axis with fewer cells uses fewer.
    order : float
        Smoothness; above 0.5, not 1.5, 2.5, ... (there the covariance has a logarithm).
    period : float, optional
        Length of the circle on a periodic axis; windows then wrap instead of shifting inward at the ends.

    Notes
    -----
    The weights conserve cell means: the average of the fine values over a coarse cell is its value. They preserve
    constants (rows sum to one), and hence conserve area integrals, to rounding, for any edges.

    Raises
    ------
    ShapeError, OptionError
        If the edges do not nest, or taps or order are not usable.

    References
    ----------
    Kyriakidis, P. C. (2004), A geostatistical framework for area-to-point spatial interpolation, Geographical
    Analysis 36, 259-289. Matheron, G. (1973), The intrinsic random functions and their applications, Advances in
    Applied Probability 5, 439-468.

    Examples
    --------
    >>> w = axis_weights(np.arange(9.0), np.arange(0, 8.5, 0.5), taps=3)
    >>> bool(np.allclose(w.weights.sum(axis=1), 1))
    True
    """
    coarse, fine = np.asarray(coarse_edges, dtype=np.float64), np.asarray(fine_edges, dtype=np.float64)
    check_settings(taps, order)
    parent = _parents(coarse, fine)
    weights = part_weights(coarse, fine[:-1], fine[1:], parent, taps, order, period)
    check_solution(weights, np.abs(np.diff(fine)), parent)
    return weights


def part_weights(
    coarse_edges: Floats,
    low: Floats,
    high: Floats,
    parent: NDArray[np.int64],
    taps: int = 7,
    order: float = MAP_ORDER,
    period: float | None = None,
) -> AxisWeights:
    """Return the weights of :func:`axis_weights` for parts of cells that need not adjoin.

    Part ``i`` extends from ``low[i]`` to ``high[i]``, in the direction of the axis, inside coarse cell ``parent[i]``.
    """
    check_settings(taps, order)
    if not (np.diff(coarse_edges).all() and (high != low).all()):
        raise ShapeError(
            "expected cells and parts of some width, received one whose edges are the same number; "
            "merge it with its neighbour"
        )
    count = coarse_edges.size - 1
    taps = usable_taps(taps, count, periodic=period is not None)
    first = parent - taps // 2
    if period is None:
        start = np.clip(first, 0, count - taps)
        edges, offset = coarse_edges, 0
    else:
        start, offset = first, taps
        edges = _wrap_edges(coarse_edges, taps, np.sign(coarse_edges[-1] - coarse_edges[0]) * period)
    pair = np.stack([low, high], axis=1)
    return AxisWeights(_solve_windows(edges, pair, start + offset, taps, order), start)


def usable_taps(taps: int, cells: int, periodic: bool) -> int:
    """Return the number of taps for an axis of ``cells`` cells: at most all cells, and an odd number on a circle."""
    if cells >= taps:
        return taps
    return cells - 1 + cells % 2 if periodic else cells


def check_settings(taps: object, order: object) -> None:
    """Raise ``OptionError`` if ``taps`` or ``order`` is not usable."""
    if isinstance(taps, (bool, np.bool_)) or not isinstance(taps, (int, np.integer)) or taps < 1 or taps % 2 == 0:
        raise OptionError(f"expected taps to be an odd whole number, received {taps!r}")
    if taps > MOST_TAPS:
        raise OptionError(f"expected taps of at most {MOST_TAPS}, received {taps}")
    is_number = isinstance(order, (int, float, np.integer, np.floating)) and not isinstance(order, (bool, np.bool_))
    if not is_number or not 0.5 < order < np.inf or (order - 0.5) % 1 == 0:  # type: ignore[operator]
        raise OptionError(f"expected order above 0.5 and not 1.5, 2.5, ..., received {order!r}")


def _parents(coarse: Floats, fine: Floats) -> NDArray[np.int64]:
    """Return the index of the coarse cell that contains each fine cell, shape (n_fine,)."""
    sign = 1.0 if coarse[-1] > coarse[0] else -1.0
    centre = 0.5 * (fine[:-1] + fine[1:])
    parent = np.searchsorted(sign * coarse, sign * centre) - 1
    if parent.min() < 0 or parent.max() > coarse.size - 2:
        raise ShapeError("expected every fine cell inside a coarse cell, received fine cells outside the coarse axis")
    tolerance = NEST_TOLERANCE * np.abs(np.diff(coarse))[parent]
    low, high = np.minimum(fine[:-1], fine[1:]) + tolerance, np.maximum(fine[:-1], fine[1:]) - tolerance
    crosses = (low < np.minimum(coarse[parent], coarse[parent + 1])) | (
        high > np.maximum(coarse[parent], coarse[parent + 1])
    )
    if crosses.any():
        pair = fine[crosses.argmax() :][:2].tolist()
        raise ShapeError(f"expected every fine cell inside one coarse cell, received {pair} across a coarse edge")
    return parent


def _wrap_edges(edges: Floats, cells: int, period: float) -> Floats:
    """Return the edges with ``cells`` more cells on both sides of the circle."""
    inner = edges[:-1]
    turns = -(-cells // inner.size)
    copies = np.concatenate([inner + turn * period for turn in range(-turns, turns + 2)])
    first = turns * inner.size - cells
    return copies[first : first + inner.size + 2 * cells + 1]


def _solve_windows(edges: Floats, pair: Floats, start: NDArray[np.int64], taps: int, order: float) -> Floats:
    """Return the weights of each window, from one small kriging system per distinct window geometry."""
    window = edges[start[:, None] + np.arange(taps + 1)]
    centre = pair.mean(axis=1, keepdims=True)
    unit = np.abs(window[:, -1:] - window[:, :1]) / taps
    geometry = np.concatenate([(window - centre) / unit, (pair - centre) / unit], axis=1)
    # Equal geometries differ only by rounding of the edges; solving them once keeps uniform axes exactly periodic.
    _, index, inverse = np.unique(np.round(geometry, 11), axis=0, return_index=True, return_inverse=True)
    distinct = geometry[index]
    solutions, step = np.empty((len(distinct), taps)), max(SYSTEM_VALUES // (2 * taps) ** 2, 1)
    # Overflow gives weights that are refused.
    with np.errstate(all="ignore"):
        for first in range(0, len(distinct), step):
            batch = distinct[first : first + step]
            solutions[first : first + step] = _kriging(batch[:, : taps + 1], batch[:, taps + 1 :], order)
    return solutions[inverse.ravel()]


def _kriging(window: Floats, target: Floats, order: float) -> Floats:
    """Return the solutions (..., taps) of block-kriging systems; window (..., taps + 1), target (..., 2)."""
    beta = 2 * order - 1
    taps = window.shape[1] - 1
    # With no more cells than drift terms the solution is the drift alone: the polynomial through all cells.
    drifts = min(int(beta // 2) + 1, taps)
    sign = (-1.0) ** drifts
    low, high = window[:, :-1], window[:, 1:]
    t_low, t_high = target[:, :1], target[:, 1:]
    covariance = sign * _mean_covariance(low[:, :, None], high[:, :, None], low[:, None], high[:, None], beta)
    right = sign * _mean_covariance(low, high, t_low, t_high, beta)
    drift, drift_right = _mean_powers(low, high, drifts), _mean_powers(t_low, t_high, drifts)[:, 0]
    system = np.zeros((len(window), taps + drifts, taps + drifts))
    system[:, :taps, :taps] = covariance
    system[:, :taps, taps:] = drift
    system[:, taps:, :taps] = drift.transpose(0, 2, 1)
    rhs = np.concatenate([right, drift_right], axis=1)[..., None]
    try:
        return np.linalg.solve(system, rhs)[:, :taps, 0]
    except np.linalg.LinAlgError:
        # The residual is tested later, and fails then.
        return np.full((len(window), taps), np.nan)


def _mean_covariance(a0: Floats, a1: Floats, b0: Floats, b1: Floats, beta: float) -> Floats:
    """Return averages of |x - y|**beta over x in [a0, a1] and y in [b0, b1], by second differences."""

    def antiderivative(distance: Floats) -> Floats:
        return np.abs(distance) ** (beta + 2) / ((beta + 1) * (beta + 2))

    second = antiderivative(a0 - b1) + antiderivative(a1 - b0) - antiderivative(a0 - b0) - antiderivative(a1 - b1)
    return second / ((a1 - a0) * (b1 - b0))


def _mean_powers(low: Floats, high: Floats, count: int) -> Floats:
    """Return averages of x**d over cells for d below ``count``, shape (..., cells, count)."""
    powers = [(high ** (d + 1) - low ** (d + 1)) / ((d + 1) * (high - low)) for d in range(count)]
    return np.stack(powers, axis=-1)


def enforce_cell_conservation(weights: AxisWeights, fractions: Floats) -> AxisWeights:
    """Return the weights without rounding errors of cell means, given the fractions of fine cells in coarse ones.

    Near the poles sines of latitude differ only in their last digits, so the solution alone conserves to 1e-11; the
    correction is of that size. Rows of one coarse cell must share their window, as those of ``axis_weights`` do.
    """
    cells = round(fractions.sum())
    parent = np.repeat(np.arange(cells), weights.start.size // cells)
    residual = _residual(weights, fractions, parent, cells)
    rows = weights.weights.reshape(cells, -1, weights.taps)
    return AxisWeights((rows - residual[:, None]).reshape(weights.weights.shape), weights.start)


def _residual(weights: AxisWeights, area_fraction: Floats, parent: NDArray[np.int64], cells: int) -> Floats:
    """Return the mean of the rows of each coarse cell minus its target for cell conservation, shape (cells, taps)."""
    mean = np.zeros((cells, weights.taps))
    np.add.at(mean, parent, area_fraction[:, None] * weights.weights)
    cell_tap = np.zeros(cells, np.int64)
    cell_tap[parent] = parent - weights.start
    mean[np.arange(cells), cell_tap] -= 1.0
    return mean


def check_solution(weights: AxisWeights, measure: Floats, parent: NDArray[np.int64]) -> None:
    """Raise ``OptionError`` if rounding dominates the weights: their cell means are wrong by far more than rounding."""
    cells = int(parent.max()) + 1
    total = np.bincount(parent, measure, cells)
    parents = np.unique(parent)
    largest = float(np.abs(_residual(weights, measure / total[parent], parent, cells)[parents]).max(initial=0.0))
    if not largest <= LARGEST_RESIDUAL:
        raise OptionError(
            f"expected taps, order and cell widths whose kernel float64 can solve for, received cell means missed by "
            f"{largest:.2g} with {weights.taps} taps; take a smaller order (1.25), one farther from 1.5, 2.5, ..., "
            "fewer taps, or merge cells that are much narrower than their neighbours"
        )
