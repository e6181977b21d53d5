"""Windows of an axis operator, arranged for inner loops.

Parts of one coarse cell share a window, and neighbouring cells with equal weights, one step apart, form a run: a
uniform axis is a single run, whose weights are the phases of one transposed-convolution kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from downscale.kernels.sobolev import AxisWeights

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# Weights that differ by less are equal: edges are accurate only to some 1e-14 of a cell.
DIGITS = 12


class Operator(NamedTuple):
    """An operator along rows and columns as windows and weights.

    Attributes
    ----------
    index, y_weights : arrays, shapes (n_y, taps) and (n_y * factor_y, taps)
        Coarse rows in the window of each row of cells, and their weights; no two rows of a window are ``taps`` apart.
    cuts, starts, x_weights : arrays, shapes (runs + 1,), (runs,), (runs * factor_x, taps)
        Runs of cells with equal weights and windows one step apart: first cells, and first columns of windows.
    left, wide, closed : int, int, bool
        Columns before the first, number of columns, and whether they continue around a circle.
    """

    index: NDArray[np.int64]  # type: ignore[assignment]
    y_weights: NDArray[Any]
    cuts: NDArray[np.int64]
    starts: NDArray[np.int64]
    x_weights: NDArray[Any]
    left: int
    wide: int
    closed: bool


class CellFractions(NamedTuple):
    """Area fractions of fine cells in their coarse cell, and the field to add to the proposal.

    Attributes
    ----------
    y_fraction, x_fraction, cell_fraction : arrays, shapes (fine rows,), (fine columns,), and both or (0, 0)
        Fractions as products or not; those of a cell add up to one, or to zero if none is valid.
    term : array, shape (fine rows, fine columns) or (0, 0)
        Field to add.
    """

    y_fraction: NDArray[np.float64]
    x_fraction: NDArray[np.float64]
    cell_fraction: NDArray[np.float64]
    term: NDArray[np.float64]


class Strip(NamedTuple):
    """The ``n`` cells from ``begin`` on in the row ``j`` of map ``k``, whose first fine row is ``top``."""

    k: int
    j: int
    begin: int
    n: int
    top: int
    rows: int
    columns: int


class Detail(NamedTuple):
    """Patterns of a climatology, to add to the proposal or to scale it with.

    Attributes
    ----------
    patterns : array of float32, shape (patterns, terms, fine rows, fine columns) or (0, 0, 0, 0)
        Values to add, or relative ones if ``in_proportion``. One term is the same for all values v of the proposal. Of
        2 n terms the first is the value up to the first node, then come n ascending nodes of v, and n - 1 slopes
        between them; beyond the last node the value is constant.
    position : array of int, shape (maps,) or (0,)
        The pattern of each map.
    in_proportion : bool
    """

    patterns: NDArray[np.float32]
    position: NDArray[np.int64]
    in_proportion: bool


class Law(NamedTuple):
    """What is imposed, and the relative error beyond which a cell is counted (none if it is infinite).

    ``power`` is the power to which the proposal is raised before, 1 for none.
    """

    kind: int
    low: float
    high: float
    tolerance: float
    power: float


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of some cells of an axis, in the numbering of the input cells, and runs of cells with equal weights.

    ``base`` (n,) is the first input cell of each window, beyond an end if a circle is crossed; ``weights`` are of shape
    (n, factor, taps). Run ``r`` has the weights ``runs[r]``, its first cell is ``cuts[r]``, and its first window begins
    at column ``starts[r]`` of the padded row, which has ``left`` cells before the input and ``wide`` in all.
    """

    base: Integers
    weights: Floats
    cuts: Integers
    starts: Integers
    runs: Floats
    left: int
    wide: int

    @classmethod
    def of(
        cls, axis: AxisWeights, factor: int, first: int, last: int, input_first: int, input_size: int, least: int = 1
    ) -> Windows:
        """Return the windows of the cells ``first`` to ``last`` (excluded; a circle may be crossed).

        The input has ``input_size`` cells from ``input_first`` on. Zero weights pad windows to at least ``least`` taps.
        """
        axis_cells = axis.start.size // factor
        starts, cell_weights = share_windows(axis, factor)
        cells = np.arange(first, last)
        offset = cells // axis_cells * axis_cells
        base = starts[cells % axis_cells] + offset - input_first
        weights = cell_weights[cells % axis_cells]
        if weights.shape[2] < least:
            weights = np.concatenate([weights, np.zeros((*weights.shape[:2], least - weights.shape[2]))], axis=2)
        left = max(-int(base.min()), 0)
        wide = left + max(input_size, int(base.max()) + weights.shape[2])
        is_same = (weights[1:] == weights[:-1]).all(axis=(1, 2)) & (np.diff(base) == 1)
        begin = np.concatenate([[0], np.flatnonzero(~is_same) + 1])
        cuts = np.append(begin, cells.size)
        return cls(base, np.ascontiguousarray(weights), cuts, base[begin] + left, weights[begin], left, wide)

    def table(self, input_size: int, closed: bool = False) -> Integers:
        """Return the input cell of each tap, shape (n, taps); taps beyond an open end have a weight of zero."""
        index = self.base[:, None] + np.arange(self.weights.shape[2])
        return index % input_size if closed else index.clip(0, input_size - 1)


@lru_cache(maxsize=16)
def share_windows(axis: AxisWeights, factor: int) -> tuple[Integers, Floats]:
    """Return one window for all parts of each cell: its first cell, shape (n,), and weights, shape (n, factor, taps).

    Cells whose weights are equal within rounding get identical ones, at any position on the axis. Cached per axis and
    shared by all blocks: do not modify.
    """
    start = axis.start.reshape(-1, factor)
    base = start.min(axis=1)
    shift = start - base[:, None]
    taps = int(shift.max()) + axis.taps
    weights = np.zeros((base.size, factor, taps))
    cells, parts = np.indices(start.shape)
    for tap in range(axis.taps):
        weights[cells, parts, shift + tap] = axis.weights[:, tap].reshape(-1, factor)
    return base, equalise_rows(weights.reshape(base.size, -1))[0].reshape(weights.shape)


def equalise_rows(rows: Floats) -> tuple[Floats, bool]:
    """Return rows of numbers with those equal within rounding made identical, and whether all are.

    Examples
    --------
    >>> equalise_rows(np.array([[0.1 + 0.2], [0.3]]))[1]
    True
    """
    _, first, inverse = np.unique(np.round(rows, DIGITS), axis=0, return_index=True, return_inverse=True)
    return rows[first][inverse.ravel()], first.size == 1
