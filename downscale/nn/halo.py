"""How far a learned model looks on a grid: network, channels and kernel together, exactly (numpy; no field).

A fine cell looks at proposals around it, each of them at the window of its kernel, and, where cells of that are
missing, at the neighbours that fill them. At open ends windows shift inward, so that the sum of the three reaches would
be too much: cells are followed one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from downscale.kernels.sobolev import AxisWeights
    from downscale.nn.base import Network


@dataclass(frozen=True)
class Windows:
    """The coarse cells that the proposal of each coarse cell looks at along an axis.

    Attributes
    ----------
    low, high : arrays of int, shape (n,)
        First and last cell; beyond the ends on a circle only.
    periodic : bool
        Whether the axis closes a circle.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    periodic: bool

    @classmethod
    def of(cls, axis: AxisWeights, factor: int, fill: int, periodic: bool) -> Windows:
        """Widen the windows of an operator by the cells that missing ones are filled from."""
        start = axis.start.reshape(-1, factor)
        return cls(start.min(axis=1) - fill, start.max(axis=1) + axis.taps - 1 + fill, periodic)

    @classmethod
    def anywhere(cls, taps: int, size: int, fill: int) -> Windows:
        """Return the windows on a long open axis, whose ends look farther than any other cells."""
        cells = np.arange(size)
        start = np.clip(cells - taps // 2, 0, cells.size - taps)
        return cls(start - fill, start + taps - 1 + fill, False)


@dataclass(frozen=True)
class Radii:
    """Cells on each side that coarse channels, fine channels and the unit of the detail are made of."""

    coarse: int = 0
    fine: int = 0
    unit: int = 0


def axis_halo(network: Network, radii: Radii, windows: Windows, axis: int, fill: int = 0) -> int:
    """Return how many coarse cells along an axis move a fine cell, at most.

    Parameters
    ----------
    network : Network
        Tells which channels a fine cell looks at.
    radii : Radii
        Cells that channels are made of.
    windows : Windows
        What the proposal of each coarse cell looks at.
    axis : int
        0 rows, 1 columns.
    fill : int
        Coarse cells on each side that missing values of coarse channels are filled from.
    """
    size, factor, period, most = windows.low.size, network.factor[axis], network.multiple_of, 0
    each = [network.needs(axis, c * factor, c * factor + factor - 1) for c in range(period)]
    for cell in range(size):
        # The layers repeat with the coarsest level.
        turn, phase = cell - cell % period, cell % period
        coarse, fine = each[phase]
        low, high = _looked_at(windows, fine[0] + turn, fine[1] + turn, radii.fine + fill * (radii.fine > 0))
        low = min(low, coarse[0] + turn - radii.coarse - fill, cell - radii.unit - fill)
        high = max(high, coarse[1] + turn + radii.coarse + fill, cell + radii.unit + fill)
        if not windows.periodic:
            low, high = max(low, 0), min(high, size - 1)
        most = max(most, cell - low, high - cell)
    return min(most, size)


def _looked_at(windows: Windows, first: int, last: int, radius: int) -> tuple[int, int]:
    """Return the coarse cells that the fine channels over the cells ``first`` to ``last`` are made of."""
    size = windows.low.size
    if windows.periodic:
        cells = np.arange(first, last + 1)
        turn = cells // size * size
        low, high = windows.low[cells % size] + turn, windows.high[cells % size] + turn
    else:
        cells = np.arange(max(first, 0), min(last, size - 1) + 1)
        low, high = windows.low[cells], windows.high[cells]
    return min(int(low.min()), first - radius), max(int(high.max()), last + radius)


def learned_halo(network: Network, radii: Radii, taps: int) -> tuple[int, int] | None:
    """Return the halo of rows and columns that is enough on every grid; None where there is no finite one."""
    if network.whole:
        return None
    sizes = (10 * taps + 3 * network.reach(axis) + network.multiple_of for axis in (0, 1))
    fill = taps - 1
    y, x = (
        axis_halo(network, radii, Windows.anywhere(taps, size, fill), axis, fill) for axis, size in enumerate(sizes)
    )
    return y, x
