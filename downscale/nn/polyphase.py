"""The torch form of a product of two axis operators, for given cells.

Windows are buffers, so that a call needs no transfer to the device and no synchronisation; gradients flow. Each fine
value is a sum over a window of coarse neighbours, added in a fixed order: the bits do not depend on how the field is
cut into blocks, nor on the other maps of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downscale.kernels.windows import Windows


def refine(source: Tensor, y_cells: Tensor, y_weights: Tensor, x_cells: Tensor, x_weights: Tensor) -> Tensor:
    """Return the operator along rows, then along columns, as one function for the compiler.

    A compiled form serves every layout with as many weights, whatever the sizes.
    """
    return _sum_taps(_sum_taps(source, y_cells, y_weights, -2), x_cells, x_weights, -1)


def _sum_taps(source: Tensor, cells: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Return the weighted sum of the cells of each window, (..., n, ...) -> (..., n * parts, ...)."""
    total = source.index_select(axis, cells[0]).unsqueeze(axis) * weights[0]
    for tap in range(1, cells.shape[0]):
        # Not addcmul: on CPUs it fuses in some lanes only, and bits would depend on the boundaries of blocks.
        total += source.index_select(axis, cells[tap]).unsqueeze(axis) * weights[tap]
    return total.flatten(axis - 1, axis)


class Polyphase(torch.nn.Module):
    """Operator for given cells: first along rows (latitude), then the phases along columns (longitude).

    ``refine`` is the function :func:`refine`, or a compiled form that the owner of the device sets. ``reach`` is the
    number of rows and columns from which missing cells are filled; ``closed`` columns form a circle.
    """

    def __init__(self, y: Windows, x: Windows, closed: bool, reach: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = len(y.base), len(x.base)
        self.parts = y.weights.shape[1], x.weights.shape[1]
        self._register("y", y.table(rows), y.weights[..., None])
        self._register("x", x.table(columns, closed), x.weights)
        near_y, weights_y = _neighbours(rows, reach[0], False)
        self._register("near_y", near_y, weights_y[..., None])
        self._register("near_x", *_neighbours(columns, reach[1], closed))
        self.refine: Callable[..., Tensor] = refine

    def _register(self, name: str, cells: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        """Register cells, shape (n, taps), and weights, shape (n, parts, taps[, 1]), as buffers with taps first."""
        for kind, array in (("cells", cells.T), ("weights", np.moveaxis(weights, 2, 0))):
            self.register_buffer(f"{name}_{kind}", torch.from_numpy(np.ascontiguousarray(array)), persistent=False)

    def forward(self, coarse: Tensor, has_gaps: bool) -> Tensor:
        """Return ``coarse`` (..., n_y, n_x) upsampled; with ``has_gaps`` it may hold NaN, whose parts become NaN."""
        missing = torch.isnan(coarse) if has_gaps else None
        source = coarse if missing is None else self.fill_missing(coarse, missing)
        fine = self.refine(source, self.y_cells, self.y_weights, self.x_cells, self.x_weights)
        if missing is None:
            return fine
        cells = fine.unflatten(-1, (-1, self.parts[1])).unflatten(-3, (-1, self.parts[0]))
        return cells.masked_fill(missing[..., :, None, :, None], torch.nan).reshape(fine.shape)

    def fill_missing(self, coarse: Tensor, missing: Tensor) -> Tensor:
        """Return the field without gaps, bit for bit as :func:`downscale.fields.fill.fill_missing` does."""
        zero, ones = torch.zeros_like(coarse), torch.ones_like(coarse)
        neighbours: Any = self.near_y_cells, self.near_y_weights, self.near_x_cells, self.near_x_weights
        value, weight = (refine(torch.where(missing, zero, field), *neighbours) for field in (coarse, ones))
        positive = weight > 0
        return torch.where(missing, torch.where(positive, value / torch.where(positive, weight, ones), zero), coarse)


def _neighbours(size: int, radius: int, closed: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the neighbours of each cell and weights that fall by a factor of four per cell, zero beyond open ends."""
    offsets = np.arange(-radius, radius + 1)
    cells = np.arange(size)[:, None] + offsets
    inside = closed | ((cells >= 0) & (cells < size))
    weights = np.where(inside, 0.25 ** np.abs(offsets), 0.0)
    return cells % size if closed else cells.clip(0, size - 1), weights[:, None, :]
