"""Textbook interpolation weights along one axis, for comparison (numpy; knows no field).

All obey the phase law (rows sum to one); only the blocks obey the cell law.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from downscale.kernels.sobolev import AxisWeights

Floats = NDArray[np.float64]


def block_weights(factor: int, cells: int) -> AxisWeights:
    """Return the block-constant operator: each fine cell takes the value of its coarse cell (cell and phase law).

    Examples
    --------
    >>> block_weights(2, 2).dense(2).tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    return AxisWeights(np.ones((factor * cells, 1)), np.repeat(np.arange(cells), factor))


def linear_weights(coarse: Floats, fine: Floats, period: float | None = None) -> AxisWeights:
    """Return linear interpolation between cell centres, constant beyond the outer ones (phase law).

    Parameters
    ----------
    coarse, fine : array, shapes (n,) and (n_fine,)
        Cell centres in the coordinate.
    period : float, optional
        Length of the circle on a periodic axis.
    """
    left, share = _position(coarse, fine, period)
    return _windowed(left, np.stack([1 - share, share], axis=1), first=0, cells=coarse.size, period=period)


def cubic_weights(
    coarse: Floats, fine: Floats, period: float | None = None, sharpness: float = -0.5
) -> AxisWeights:
    """Return cubic convolution between cell centres, outer values repeated beyond the ends (phase law).

    References
    ----------
    Keys, R. (1981), Cubic convolution interpolation for digital image processing, IEEE Transactions on Acoustics,
    Speech, and Signal Processing 29, 1153-1160.
    """
    left, share = _position(coarse, fine, period)
    distance = np.abs(share[:, None] - np.array([-1.0, 0.0, 1.0, 2.0]))
    return _windowed(left, _keys(distance, sharpness), first=-1, cells=coarse.size, period=period)


def _keys(d: Floats, a: float) -> Floats:
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _position(coarse: Floats, fine: Floats, period: float | None) -> tuple[NDArray[np.int64], Floats]:
    """Return the coarse centre to the left of each fine one, -1 to n - 1, and the share of the step to the next."""
    sign = 1.0 if coarse.size < 2 or coarse[-1] > coarse[0] else -1.0
    first, last = 2 * coarse[0] - coarse[min(1, coarse.size - 1)], 2 * coarse[-1] - coarse[max(-2, -coarse.size)]
    if period is not None:
        first, last = coarse[-1] - sign * period, coarse[0] + sign * period
    if coarse.size == 1 and period is None:
        return np.zeros(fine.size, dtype=np.int64), np.zeros(fine.size)
    extended = np.concatenate([[first], coarse, [last]])
    left = np.clip(np.searchsorted(sign * extended, sign * fine, side="right") - 1, 0, coarse.size)
    share = (fine - extended[left]) / (extended[left + 1] - extended[left])
    return left - 1, share


def _windowed(
    left: NDArray[np.int64], weights: Floats, first: int, cells: int, period: float | None
) -> AxisWeights:
    """Write weights of neighbours ``left + first ...`` as windows; beyond an open end the outer cell stands in."""
    start = left + first
    if period is not None:
        return AxisWeights(weights, start)
    taps = min(weights.shape[1], cells)
    window = np.clip(start, 0, cells - taps)
    folded = np.zeros((left.size, taps))
    for tap in range(weights.shape[1]):
        source = np.clip(start + tap, 0, cells - 1) - window
        np.add.at(folded, (np.arange(left.size), source), weights[:, tap])
    return AxisWeights(folded, window)
