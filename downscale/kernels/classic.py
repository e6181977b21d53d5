"""Textbook interpolation weights along one axis, for comparison.

All preserve constants (rows sum to one); only the piecewise-constant weights conserve cell means.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from downscale.kernels.sobolev import AxisWeights

Floats = NDArray[np.float64]


def block_weights(factor: int, cells: int) -> AxisWeights:
    """Return the piecewise-constant operator: each fine cell takes the value of its coarse cell.

    Examples
    --------
    >>> block_weights(2, 2).dense(2).tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    return AxisWeights(np.ones((factor * cells, 1)), np.repeat(np.arange(cells), factor))


def linear_weights(coarse: Floats, fine: Floats, period: float | None = None) -> AxisWeights:
    """Return linear interpolation between cell centres, constant beyond the outer ones; preserves constants.

    ``period`` is the length of the circle on a periodic axis.
    """
    left, fraction = _locate(coarse, fine, period)
    return _to_windows(left, np.stack([1 - fraction, fraction], axis=1), first=0, cells=coarse.size, period=period)


def cubic_weights(coarse: Floats, fine: Floats, period: float | None = None, sharpness: float = -0.5) -> AxisWeights:
    """Return cubic convolution between cell centres, outer values repeated beyond the ends; preserves constants.

    On axes with unequal steps, the slopes at the centres are those of parabolas through three of them, so that straight
    lines are reproduced there, too.

    References
    ----------
    Keys, R. (1981), Cubic convolution interpolation for digital image processing, IEEE Transactions on Acoustics,
    Speech, and Signal Processing 29, 1153-1160.
    """
    points = _extend_centres(coarse, period)
    left, fraction = _locate(coarse, fine, period)
    before, middle, after = (np.diff(points)[left + k] for k in (1, 2, 3))
    weights = _keys(fraction, before / middle, after / middle, sharpness)
    return _to_windows(left, weights, first=-1, cells=coarse.size, period=period)


def _keys(t: Floats, before: Floats, after: Floats, sharpness: float) -> Floats:
    """Return the weights of four neighbours in a row at the fraction ``t`` of the middle step, shape (t.size, 4).

    The cubic through both inner values, whose slopes there are those of parabolas through three neighbours each, times
    ``-2 sharpness``; ``before`` and ``after`` are the outer steps in units of the middle one.
    """
    slope = -2 * sharpness
    at_left, at_right = slope * t * (1 - t) ** 2, slope * t**2 * (t - 1)
    # Of a parabola through values at -h, 0 and 1, and at -1, 0 and h.
    left = np.stack([-1 / (before * (1 + before)), (1 - before) / before, before / (1 + before)], axis=1)
    right = np.stack([-after / (1 + after), (after - 1) / after, 1 / (after * (1 + after))], axis=1)
    weights = np.zeros((t.size, 4))
    weights[:, 2] = t * t * (3 - 2 * t)
    weights[:, 1] = 1 - weights[:, 2]
    weights[:, :3] += at_left[:, None] * left
    weights[:, 1:] += at_right[:, None] * right
    return weights


def _extend_centres(coarse: Floats, period: float | None) -> Floats:
    """Return the coarse centres with two more at each end: of the circle, or as far apart as the outer ones."""
    if period is not None:
        sign = 1.0 if coarse.size < 2 or coarse[-1] > coarse[0] else -1.0
        index = np.arange(-2, coarse.size + 2)
        return coarse[index % coarse.size] + sign * period * (index // coarse.size)
    first = coarse[0] - coarse[min(1, coarse.size - 1)] or -1.0
    last = coarse[-1] - coarse[max(-2, -coarse.size)] or 1.0
    return np.concatenate([coarse[0] + first * np.array([2, 1]), coarse, coarse[-1] + last * np.array([1, 2])])


def _locate(coarse: Floats, fine: Floats, period: float | None) -> tuple[NDArray[np.int64], Floats]:
    """Return the coarse centre to the left of each fine one, -1 to n - 1, and the fraction of the step to the next."""
    sign = 1.0 if coarse.size < 2 or coarse[-1] > coarse[0] else -1.0
    first, last = 2 * coarse[0] - coarse[min(1, coarse.size - 1)], 2 * coarse[-1] - coarse[max(-2, -coarse.size)]
    if period is not None:
        first, last = coarse[-1] - sign * period, coarse[0] + sign * period
    if coarse.size == 1 and period is None:
        return np.zeros(fine.size, dtype=np.int64), np.zeros(fine.size)
    extended = np.concatenate([[first], coarse, [last]])
    left = np.clip(np.searchsorted(sign * extended, sign * fine, side="right") - 1, 0, coarse.size)
    fraction = (fine - extended[left]) / (extended[left + 1] - extended[left])
    return left - 1, fraction


def _to_windows(left: NDArray[np.int64], weights: Floats, first: int, cells: int, period: float | None) -> AxisWeights:
    """Return weights of neighbours ``left + first ...`` as windows; beyond an open end the outer cell is repeated."""
    start = left + first
    if period is not None:
        return AxisWeights(weights, start)
    taps = min(weights.shape[1], cells)
    window = np.clip(start, 0, cells - taps)
    window_weights = np.zeros((left.size, taps))
    for tap in range(weights.shape[1]):
        source = np.clip(start + tap, 0, cells - 1) - window
        np.add.at(window_weights, (np.arange(left.size), source), weights[:, tap])
    return AxisWeights(window_weights, window)
