"""Receptive fields of networks, measured by probing, and the halos of learned models.

NaN in the channels of a coarse cell spreads to every fine value that depends on them, whatever the weights are. A fine
cell of a learned model depends on proposals around it, each proposal on the window of its kernel, and missing cells on
the neighbours that fill them; at open ends windows shift inward, so that the sum of the three reaches is too large.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from downscale.errors import ShapeError

Pair = tuple[int, int]
# Offsets of coarse cells on which a fine cell depends: (coarse or fine channels, phase, first or last).
Spans = NDArray[np.int64]
# Cells along an axis of the first field to probe, and cells of the largest one for a period of one cell.
SHORTEST, MOST_CELLS = 32, 1024


class Radii(NamedTuple):
    """Cells on each side that coarse channels, fine channels and the unit of the detail depend on."""

    coarse: int = 0
    fine: int = 0
    unit: int = 0


def measure_spans(
    network: nn.Module, channels: Pair, factor: Pair, axis: int, period: int = 1, width: int = 1
) -> Spans | None:
    """Return the reach of a network along an axis (0 rows, 1 columns), for each phase of a period of coarse cells.

    None if the reach is infinite, if the last cell of a field affects the first, or if the network stops NaN. Layers
    that depend on the whole field get cell (0, 0) alone.

    Parameters
    ----------
    network : Module
        Called as :class:`~downscale.nn.networks.Network` is.
    channels : (int, int)
        Number of coarse and of fine channels.
    factor : (int, int)
        Refinement of rows and columns.
    axis, period, width : int
        The axis; coarse cells after which the layers repeat; and coarse cells along the other axis.

    Raises
    ------
    ShapeError
        If the network does not return a field of the fine shape.
    """
    probe_network = copy.deepcopy(network).eval().to("cpu", torch.float64)
    size = -(-SHORTEST // period) * period
    while size * width <= MOST_CELLS * period:
        middle = size // 2 // period * period
        positions = [*range(middle, middle + period), size - 1]
        depends = _find_dependence(probe_network, channels, factor, axis, (size, width), positions)
        inner = depends[:, :-1]
        if not inner[0, 0, middle]:
            return None
        if not inner[..., :period].any() and not inner[..., -period:].any():
            kinds, probes, cells = inner.nonzero()
            spans = np.zeros((2, period, 2), np.int64)
            np.minimum.at(spans[..., 0], (kinds, cells % period), middle + probes - cells)
            np.maximum.at(spans[..., 1], (kinds, cells % period), middle + probes - cells)
            return None if depends[:, -1, :period].any() else spans
        size *= 2
    return None


def _find_dependence(
    network: nn.Module, channels: Pair, factor: Pair, axis: int, sizes: Pair, positions: list[int]
) -> NDArray[np.bool_]:
    """Return which cells depend on the coarse (0) and fine (1) channels at each position, (2, positions, cells)."""
    rows, columns = sizes if axis == 0 else sizes[::-1]
    count = len(positions)
    coarse = torch.zeros(2 * count, channels[0], rows, columns, dtype=torch.float64)
    fine = torch.zeros(2 * count, channels[1], rows * factor[0], columns * factor[1], dtype=torch.float64)
    for i, position in enumerate(positions):
        coarse[i].select(1 + axis, position).fill_(torch.nan)
        fine[count + i].narrow(1 + axis, position * factor[axis], factor[axis]).fill_(torch.nan)
    with torch.no_grad():
        detail: Tensor = network(coarse, fine, (slice(0, 1), slice(0, 1)))
    if detail.ndim != 4 or detail.shape[-2:] != fine.shape[-2:]:
        raise ShapeError(
            f"expected a network that returns {fine.shape[-2]} x {fine.shape[-1]} fine cells from {rows} x {columns} "
            f"coarse cells, received the shape {tuple(detail.shape)}"
        )
    lines = detail.isnan().any(1).any(2 - axis).unflatten(1, (sizes[0], -1)).any(2)
    return lines.unflatten(0, (2, count)).numpy()


def axis_halo(spans: Spans, radii: Radii, start: NDArray[np.int64], taps: int, fill: int, periodic: bool) -> int:
    """Return the largest distance of coarse cells along an axis that affect a fine cell.

    Parameters
    ----------
    spans
        Reach of the network along the axis.
    radii
        Reach of the channels.
    start : array, shape (cells, parts)
        First cell of the kernel's window, which increases along the axis.
    taps : int
        Cells of a window.
    fill : int
        Coarse cells on each side that fill missing values.
    periodic : bool
        Whether the axis closes a circle.
    """
    size = len(start)
    cells = np.arange(size)
    coarse, fine = spans[:, cells % spans.shape[1]] + cells[:, None]
    (first, last), near = fine.T, radii.fine + fill * (radii.fine > 0)
    begin, end = (first, last) if periodic else (first.clip(0), last.clip(None, size - 1))
    low = np.min([
        start.min(axis=1)[begin % size] + begin // size * size - fill, first - near,
        coarse[:, 0] - radii.coarse - fill, cells - radii.unit - fill,
    ], axis=0)  # fmt: skip
    high = np.max([
        start.max(axis=1)[end % size] + end // size * size + taps - 1 + fill, last + near,
        coarse[:, 1] + radii.coarse + fill, cells + radii.unit + fill,
    ], axis=0)  # fmt: skip
    if not periodic:
        low, high = low.clip(0), high.clip(None, size - 1)
    return min(int(max((cells - low).max(), (high - cells).max())), size)


def open_halo(spans: Spans, radii: Radii, taps: int) -> int:
    """Return a halo that suffices on every grid: that of a long open axis, whose end cells reach farthest."""
    size = 10 * taps + 3 * int(abs(spans).max()) + spans.shape[1]
    start = np.clip(np.arange(size) - taps // 2, 0, size - taps)
    return axis_halo(spans, radii, start[:, None], taps, taps - 1, False)
