"""The windows of an axis operator laid out for inner loops (numpy; knows no field).

Parts of one coarse cell share a window, and neighbouring cells whose weights are the same, one step apart, form a run:
on a uniform axis one run is all there is, and its weights are the phases of one transposed-convolution kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from downscale.kernels.sobolev import AxisWeights

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
# Weights that differ by less are meant to be the same: edges are known to some 1e-14 of a cell only.
DIGITS = 12


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of some cells of an axis, in the numbering of the cells that are given.

    Attributes
    ----------
    base : array of int, shape (n,)
        First given cell of each window; negative or beyond the end on a circle.
    weights : array, shape (n, factor, taps)
        Weights of the window for each part of a cell.
    cuts, starts : arrays of int, shapes (runs + 1,) and (runs,)
        First cell of each run, and where its window begins in the widened row.
    runs : array, shape (runs, factor, taps)
        Weights of each run.
    left, wide : int
        Cells of the widened row before the first given one, and in all.
    """

    base: Whole
    weights: Floats
    cuts: Whole
    starts: Whole
    runs: Floats
    left: int
    wide: int

    @classmethod
    def of(
        cls, axis: AxisWeights, factor: int, first: int, last: int, given_first: int, given: int, least: int = 1
    ) -> Windows:
        """Lay out the windows of the cells ``first`` to ``last`` (excluded; a circle may be passed over).

        Parameters
        ----------
        axis : AxisWeights
            The operator along the whole axis.
        factor : int
            Parts of a cell.
        given_first, given : int
            The first cell that is given, and how many are.
        least : int
            Windows are widened to so many taps at least, by weights of zero.
        """
        whole = axis.start.size // factor
        starts, shared = shared_windows(axis, factor)
        cells = np.arange(first, last)
        turn = cells // whole * whole
        base = starts[cells % whole] + turn - given_first
        weights = shared[cells % whole]
        if weights.shape[2] < least:
            weights = np.concatenate([weights, np.zeros((*weights.shape[:2], least - weights.shape[2]))], axis=2)
        left = max(-int(base.min()), 0)
        wide = left + max(given, int(base.max()) + weights.shape[2])
        same = (weights[1:] == weights[:-1]).all(axis=(1, 2)) & (np.diff(base) == 1)
        begin = np.concatenate([[0], np.flatnonzero(~same) + 1])
        cuts = np.append(begin, cells.size)
        return cls(base, np.ascontiguousarray(weights), cuts, base[begin] + left, weights[begin], left, wide)

    def table(self, given: int, closed: bool = False) -> Whole:
        """Return the given cell of each tap, shape (n, taps); taps beyond an open end have a weight of zero."""
        index = self.base[:, None] + np.arange(self.weights.shape[2])
        return index % given if closed else index.clip(0, given - 1)


@lru_cache(maxsize=16)
def shared_windows(axis: AxisWeights, factor: int) -> tuple[Whole, Floats]:
    """Return one window for all parts of each cell: its first cell, shape (n,), and weights, shape (n, factor, taps).

    Cells whose weights are equal but for rounding get the very same, wherever on the axis they lie. Found once for
    an axis, not once a block: not to be written into.
    """
    start = axis.start.reshape(-1, factor)
    base = start.min(axis=1)
    shift = start - base[:, None]
    taps = int(shift.max()) + axis.taps
    weights = np.zeros((base.size, factor, taps))
    cells, parts = np.indices(start.shape)
    for tap in range(axis.taps):
        weights[cells, parts, shift + tap] = axis.weights[:, tap].reshape(-1, factor)
    return base, alike(weights.reshape(base.size, -1))[0].reshape(weights.shape)


def alike(rows: Floats) -> tuple[Floats, bool]:
    """Return rows of numbers with those that differ by rounding made the very same, and whether all are.

    Examples
    --------
    >>> alike(np.array([[0.1 + 0.2], [0.3]]))[1]
    True
    """
    _, first, inverse = np.unique(np.round(rows, DIGITS), axis=0, return_index=True, return_inverse=True)
    return rows[first][inverse.ravel()], first.size == 1
