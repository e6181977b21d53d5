"""Exact reach of a learned model on a grid, from network, channels and kernel together.

A fine cell depends on proposals around it, each proposal on the window of its kernel, and missing cells on the
neighbours that fill them. At open ends windows shift inward, so that the sum of the three reaches would be too large.
The planner therefore follows cells one by one.
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
    """Coarse cells on which the proposal of each coarse cell depends, along an axis.

    Attributes
    ----------
    low, high : arrays of int, shape (n,)
        First and last cell; beyond the ends only on a circle.
    periodic : bool
        Whether the axis closes a circle.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    periodic: bool

    @classmethod
    def of(cls, axis: AxisWeights, factor: int, fill: int, periodic: bool) -> Windows:
        """Return the windows of an operator, widened by the cells that fill missing ones."""
        start = axis.start.reshape(-1, factor)
        return cls(start.min(axis=1) - fill, start.max(axis=1) + axis.taps - 1 + fill, periodic)

    @classmethod
    def anywhere(cls, taps: int, size: int, fill: int) -> Windows:
        """Return the windows on a long open axis, whose end cells reach farthest."""
        cells = np.arange(size)
        start = np.clip(cells - taps // 2, 0, cells.size - taps)
        return cls(start - fill, start + taps - 1 + fill, False)


@dataclass(frozen=True)
class Radii:
    """Cells on each side that coarse channels, fine channels and the unit of the detail depend on."""

    coarse: int = 0
    fine: int = 0
    unit: int = 0


def axis_halo(network: Network, radii: Radii, windows: Windows, axis: int, fill: int = 0) -> int:
    """Return the largest distance of coarse cells along an axis that affect a fine cell.

    Parameters
    ----------
    network : Network
        Network, which defines the channels that a fine cell depends on.
    radii : Radii
        Cells that channels depend on.
    windows : Windows
        Coarse cells that the proposal of each coarse cell depends on.
    axis : int
        0 rows, 1 columns.
    fill : int
        Coarse cells on each side that fill missing values of coarse channels.
    """
    size, factor, period, most = windows.low.size, network.factor[axis], network.multiple_of, 0
    each = [network.needs(axis, c * factor, c * factor + factor - 1) for c in range(period)]
    for cell in range(size):
        # The layers have the period of the coarsest level.
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
    """Return the coarse cells that the fine channels over the cells ``first`` to ``last`` depend on."""
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
    """Return a halo of rows and columns that suffices on every grid; None if there is no finite one."""
    if network.whole:
        return None
    sizes = (10 * taps + 3 * network.reach(axis) + network.multiple_of for axis in (0, 1))
    fill = taps - 1
    y, x = (
        axis_halo(network, radii, Windows.anywhere(taps, size, fill), axis, fill) for axis, size in enumerate(sizes)
    )
    return y, x
