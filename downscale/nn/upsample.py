"""Fixed, latitude-aware upsampling on the sphere and on planes.

The two-dimensional operators are products of one operator per axis: first rows (latitude), then columns. Each fine
value is a sum over a window of coarse neighbours, added in a fixed order. The bits therefore do not depend on how the
field is cut into blocks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from downscale.errors import ShapeError
from downscale.fields.fill import filled
from downscale.grid.axis import CellAxis
from downscale.kernels.sobolev import AxisWeights
from downscale.nn.separable import METHODS, BothParts, Factor, Grid, Separable, factor_pair, operator, parts_of
from downscale.nn.separable import sobolev_operator as _sobolev
from downscale.typing import Place

__all__ = ["METHODS", "SeparableUpsample", "SobolevUpsample", "factor_pair", "upsampler"]


class SeparableUpsample(torch.nn.Module):
    """Linear upsampling with one operator along rows and one along columns.

    Parameters
    ----------
    operator : Separable
        The operators, their grid, and the kinds of conservation that they satisfy.
    """

    multiple_of = 1

    def __init__(self, operator: Separable) -> None:
        super().__init__()
        self.operator = operator
        self.grid, self.axes, self.factor, self.laws = operator.grid, operator.axes, operator.factor, operator.laws
        self.halo: tuple[int, int] | None = operator.halo

    def forward(self, coarse: Tensor, place: Place | None = None) -> Tensor:
        """Return ``coarse`` of shape (..., n_y, n_x) upsampled; the parts of missing (NaN) cells become NaN."""
        row, column = (0, 0) if place is None else (place.row, place.column)
        if place is None and tuple(coarse.shape[-2:]) != self.grid.shape:
            raise ShapeError(f"expected a coarse field of {self.grid.shape} cells, received {tuple(coarse.shape)}")
        missing = torch.isnan(coarse)
        holes = bool(missing.any())
        closed = self.grid.x.periodic and coarse.shape[-1] == self.grid.shape[1]
        source = filled(coarse, missing, self.operator.reach, closed) if holes else coarse
        fine = _gather(source, self.axes[0], self.factor[0], row, self.grid.y, axis=-2)
        fine = _gather(fine, self.axes[1], self.factor[1], column, self.grid.x, axis=-1)
        return fine.masked_fill(_repeat(missing, self.factor), torch.nan) if holes else fine

    def extra_repr(self) -> str:
        """Return a description for ``repr``."""
        taps = self.axes[0].taps, self.axes[1].taps
        return f"cells={self.grid.shape}, factor={self.factor}, taps={taps}, laws={sorted(self.laws)}"


class SobolevUpsample(SeparableUpsample):
    """The Sobolev-optimal kernel on a grid: cell, phase and total conservation, exact on the sphere.

    Parameters
    ----------
    grid : RectilinearGrid or CurvilinearGrid
        The whole coarse grid, rows and columns.
    factor : int, (int, int) or (Subcells, Subcells)
        Refinement of rows and columns, or the parts of their cells.
    taps : int, odd
        Coarse cells in a window along each axis; fewer where the axis is shorter.
    order : float
        Order of the Sobolev seminorm that the kernel minimises.

    Raises
    ------
    ShapeError, OptionError
        If factor, taps or order are not usable.

    Notes
    -----
    On a uniform axis this is the transposed convolution of kernel length ``taps * factor`` and stride ``factor``
    whose kernel sums to ``factor``; at ends windows shift inward, on a closed circle they wrap.

    Examples
    --------
    >>> from downscale.grid.axis import axis_from_centres
    >>> from downscale.grid.latlon import RectilinearGrid
    >>> lat, lon = np.arange(-85.0, 90, 10), np.arange(5.0, 360, 10)
    >>> grid = RectilinearGrid(axis_from_centres(lat, "latitude"), axis_from_centres(lon, "longitude"))
    >>> SobolevUpsample(grid, 2)(torch.ones(18, 36)).shape
    torch.Size([36, 72])
    """

    def __init__(
        self, grid: Grid, factor: Factor | BothParts, taps: int = 7, order: float = 1.25
    ) -> None:
        super().__init__(_sobolev(grid, parts_of(grid, factor), taps, order))


def upsampler(
    method: str, grid: Grid, factor: Factor | BothParts, taps: int = 7, order: float = 1.25
) -> SeparableUpsample:
    """Return the training-free method with this name as a module; see :func:`downscale.nn.separable.operator`.

    Raises
    ------
    OptionError
        If the name is unknown; the message lists the names.
    """
    return SeparableUpsample(operator(method, grid, factor, taps, order))


def _gather(coarse: Tensor, weights: AxisWeights, factor: int, first: int, axis_cells: CellAxis, axis: int) -> Tensor:
    """Return one axis operator applied to the coarse cells ``first, first + 1, ...`` of the whole axis."""
    given, whole = coarse.shape[axis], axis_cells.size
    cells = np.arange(first, first + given)
    wrap = cells // whole * whole
    rows = ((cells - wrap)[:, None] * factor + np.arange(factor)).ravel()
    local = (weights.start[rows] + np.repeat(wrap, factor) - first).reshape(given, factor)
    share = weights.weights[rows]
    if (local == local[:, :1]).all():
        # Parts of a cell share one window: gather each coarse cell once and apply the weights of all parts.
        local, share = local[:, 0], share.reshape(given, factor, -1)
    else:
        local, share = local.ravel(), share[:, None]
    closed = given == whole and axis_cells.periodic
    trailing = (1,) * (-1 - axis)
    total: Tensor | None = None
    for tap in range(weights.taps):
        # At block boundaries, windows extend beyond the block; those values are within the halo and are trimmed.
        index = (local + tap) % given if closed else np.clip(local + tap, 0, given - 1)
        term = coarse.index_select(axis, torch.as_tensor(index, device=coarse.device)).unsqueeze(axis)
        term = term * coarse.new_tensor(share[..., tap]).reshape(*share.shape[:2], *trailing)
        total = term if total is None else total + term
    assert total is not None
    return total.flatten(axis - 1, axis)


def _repeat(mask: Tensor, factor: tuple[int, int]) -> Tensor:
    return mask.repeat_interleave(factor[0], dim=-2).repeat_interleave(factor[1], dim=-1)
