"""Precomputed product of two axis operators for given cells, for accelerators.

:class:`downscale.nn.upsample.SeparableUpsample` is the readable equivalent, which computes its windows at every call.
Here they are buffers, so that a call needs no transfer to the device and no synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downscale.kernels.windows import Windows

Taps = tuple[NDArray[np.int64], NDArray[np.float64]]


class Stage(torch.nn.Module):
    """Operator along one axis: the weighted sum of gathered cells, added in a fixed order.

    Parameters
    ----------
    cells : array of int, shape (n, taps)
        Coarse cell of each weight.
    weights : array, shape (n, parts, taps)
        Weights for each part of a cell.
    axis : {-2, -1}
        Rows or columns.
    """

    cells: Tensor
    weights: Tensor

    def __init__(self, cells: NDArray[np.int64], weights: NDArray[np.float64], axis: int) -> None:
        super().__init__()
        self.axis = axis
        trailing = (1,) * (-1 - axis)
        shares = np.moveaxis(weights, 2, 0)
        self.register_buffer("cells", torch.from_numpy(np.ascontiguousarray(cells.T)), persistent=False)
        shares = np.ascontiguousarray(shares).reshape(*shares.shape, *trailing)
        self.register_buffer("weights", torch.from_numpy(shares), persistent=False)

    def forward(self, source: Tensor) -> Tensor:
        """Return the parts of all cells, (..., n, ...) -> (..., n * parts, ...)."""
        return _gathered(source, self.cells, self.weights, self.axis)


def refined(source: Tensor, y_cells: Tensor, y_weights: Tensor, x_cells: Tensor, x_weights: Tensor) -> Tensor:
    """Return the result of the stage along rows, then along columns, as one function for the compiler.

    A compiled form serves every layout with as many weights, whatever the sizes.
    """
    return _gathered(_gathered(source, y_cells, y_weights, -2), x_cells, x_weights, -1)


def _gathered(source: Tensor, cells: Tensor, weights: Tensor, axis: int) -> Tensor:
    total = _term(source, cells[0], weights[0], axis)
    for tap in range(1, cells.shape[0]):
        # Not addcmul: on CPUs it fuses in some lanes only, and bits would depend on the boundaries of blocks.
        total += _term(source, cells[tap], weights[tap], axis)
    return total.flatten(axis - 1, axis)


def _term(source: Tensor, cells: Tensor, weights: Tensor, axis: int) -> Tensor:
    return source.index_select(axis, cells).unsqueeze(axis) * weights


class Polyphase(torch.nn.Module):
    """Operator for given cells: first along rows (latitude), then the phases along columns (longitude).

    Parameters
    ----------
    y, x : Windows
        Windows of the rows and columns.
    closed : bool
        Whether the columns close a circle.
    reach : (int, int)
        Rows and columns from which missing cells are filled.

    Attributes
    ----------
    refined : callable
        The function :func:`refined`, or a compiled form that the owner of the device sets.

    Notes
    -----
    Values equal those of :class:`downscale.nn.upsample.SeparableUpsample` to rounding, and no bit depends on the other
    maps of a batch.
    """

    def __init__(self, y: Windows, x: Windows, closed: bool, reach: tuple[int, int]) -> None:
        super().__init__()
        given = len(y.base), len(x.base)
        self.parts = y.weights.shape[1], x.weights.shape[1]
        self.rows = Stage(y.table(given[0]), y.weights, -2)
        self.columns = Stage(x.table(given[1], closed), x.weights, -1)
        self.near_rows = Stage(*_neighbours(given[0], reach[0], False), -2)
        self.near_columns = Stage(*_neighbours(given[1], reach[1], closed), -1)
        self.refined: Callable[..., Tensor] = refined

    def forward(self, coarse: Tensor, gaps: bool) -> Tensor:
        """Return ``coarse`` (..., n_y, n_x) upsampled; with ``gaps`` it may hold NaN, whose parts become NaN."""
        if not gaps:
            return self._refined(coarse)
        missing = torch.isnan(coarse)
        fine = self._refined(self._filled(coarse, missing))
        cells = fine.unflatten(-1, (-1, self.parts[1])).unflatten(-3, (-1, self.parts[0]))
        return cells.masked_fill(missing[..., :, None, :, None], torch.nan).reshape(fine.shape)

    def _refined(self, source: Tensor) -> Tensor:
        y, x = self.rows, self.columns
        return self.refined(source, y.cells, y.weights, x.cells, x.weights)

    def _filled(self, coarse: Tensor, missing: Tensor) -> Tensor:
        """Return filled values, bit for bit as in :func:`downscale.fields.fill.filled`."""
        zero, one = torch.zeros_like(coarse), torch.ones_like(coarse)
        value = self.near_columns(self.near_rows(torch.where(missing, zero, coarse)))
        weight = self.near_columns(self.near_rows(torch.where(missing, zero, one)))
        some = weight > 0
        return torch.where(missing, torch.where(some, value / torch.where(some, weight, one), zero), coarse)


def _neighbours(size: int, radius: int, closed: bool) -> Taps:
    """Return the neighbours of each cell and weights that fall by a factor of four per cell, zero beyond open ends."""
    offsets = np.arange(-radius, radius + 1)
    cells = np.arange(size)[:, None] + offsets
    inside = closed | ((cells >= 0) & (cells < size))
    share = np.where(inside, 0.25 ** np.abs(offsets), 0.0)
    return cells % size if closed else cells.clip(0, size - 1), share[:, None, :]
