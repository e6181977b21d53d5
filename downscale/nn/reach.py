"""Exact reach of layers, networks and learned models along an axis, in integers.

A layer returns the input cells that the output cells ``first`` to ``last`` (both included) depend on, following stride,
dilation and the phases of upsampling cell by cell instead of adding half widths. A fine cell of a learned model depends
on proposals around it, each proposal on the window of its kernel, and missing cells on the neighbours that fill them;
at open ends windows shift inward, so that the sum of the three reaches would be too large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from downscale.kernels.sobolev import AxisWeights
    from downscale.nn.networks import Network

Interval = tuple[int, int]
# Returns the first and last input cell that the output cells ``first`` to ``last`` depend on.
Layer = Callable[[int, int], Interval]


def window_reach(kernel: int, stride: int = 1, dilation: int = 1, padding: int = 0) -> Layer:
    """Return the reach of a convolution or a pooling: ``kernel`` cells, ``dilation`` apart, every ``stride`` cells."""
    return lambda first, last: (first * stride - padding, last * stride - padding + dilation * (kernel - 1))


def transposed_reach(kernel: int, stride: int, padding: int = 0) -> Layer:
    """Return the reach of a transposed convolution, with the sizes of torch.

    A fine cell between the kernels depends on no input cell: the interval is then empty.
    """
    return lambda first, last: (-((kernel - 1 - padding - first) // stride), (last + padding) // stride)


def linear_reach(factor: int) -> Layer:
    """Return the reach of linear interpolation between centres, to ``factor`` times as many cells."""
    # Centres are at (2 i + 1 - factor) / (2 factor) coarse cells.
    double = 2 * factor
    return lambda first, last: ((2 * first + 1 - factor) // double, -(-(2 * last + 1 - factor) // double))


def shuffle_reach(factor: int) -> Layer:
    """Return the reach of a pixel shuffle: each cell becomes ``factor`` cells."""
    return lambda first, last: (first // factor, last // factor)


def unshuffle_reach(factor: int) -> Layer:
    """Return the reach of the inverse of a pixel shuffle: ``factor`` cells become one."""
    return lambda first, last: (first * factor, last * factor + factor - 1)


def in_sequence(*layers: Layer) -> Layer:
    """Return the reach of layers one after another; of none, that of the identity.

    Examples
    --------
    >>> doubled = in_sequence(window_reach(3, padding=1), transposed_reach(4, 2, 1))
    >>> doubled(6, 6), doubled(7, 7)
    ((1, 4), (2, 5))
    """

    def needs(first: int, last: int) -> Interval:
        for layer in reversed(layers):
            first, last = layer(first, last)
        return first, last

    return needs


def in_parallel(*layers: Layer) -> Layer:
    """Return the reach of layers on the same input, added or joined: a skip connection is one of them."""

    def needs(first: int, last: int) -> Interval:
        intervals = [layer(first, last) for layer in layers]
        return min(low for low, _ in intervals), max(high for _, high in intervals)

    return needs


def reach(needs: Layer, factor: int, period: int = 1) -> int:
    """Return the largest distance of input cells that an output cell depends on: the tight halo.

    A layer has ``factor`` output cells per input cell, and the period of its strides in input cells.

    Examples
    --------
    >>> reach(in_sequence(window_reach(3, padding=1), shuffle_reach(2), window_reach(3, padding=1)), 2)
    2
    """
    farthest = 0
    for cell in range(period):
        low, high = needs(cell * factor, cell * factor + factor - 1)
        farthest = max(farthest, cell - low, high - cell)
    return farthest


@dataclass(frozen=True)
class Windows:
    """Coarse cells on which the proposal of each coarse cell depends, along an axis.

    ``low`` and ``high`` are the first and last, of shape (n,); beyond the ends only on a circle.
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
    """Return the largest distance of coarse cells along an axis (0 rows, 1 columns) that affect a fine cell.

    ``fill`` is the number of coarse cells on each side that fill missing values of coarse channels.
    """
    size, factor, period, farthest = windows.low.size, network.factor[axis], network.multiple_of, 0
    intervals = [network.needs(axis, c * factor, c * factor + factor - 1) for c in range(period)]
    for cell in range(size):
        # The layers have the period of the coarsest level.
        turn, phase = cell - cell % period, cell % period
        coarse, fine = intervals[phase]
        low, high = _looked_at(windows, fine[0] + turn, fine[1] + turn, radii.fine + fill * (radii.fine > 0))
        low = min(low, coarse[0] + turn - radii.coarse - fill, cell - radii.unit - fill)
        high = max(high, coarse[1] + turn + radii.coarse + fill, cell + radii.unit + fill)
        if not windows.periodic:
            low, high = max(low, 0), min(high, size - 1)
        farthest = max(farthest, cell - low, high - cell)
    return min(farthest, size)


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
