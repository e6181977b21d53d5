"""Fixed, latitude-aware up-sampling on the sphere and on planes (torch; knows grids, no file and no dask).

The two-dimensional operators are products of one operator a axis: first rows (latitude), then columns. They gather:
each fine value is a sum over a window of coarse neighbours, added tap by tap in one order, so that any cutting of the
field gives the same bits.
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
    """A linear up-sampler that is one operator along rows and one along columns.

    Parameters
    ----------
    operator : Separable
        The operators, the grid that they are made for, and the laws that they obey.
    """

    multiple_of = 1

    def __init__(self, operator: Separable) -> None:
        super().__init__()
        self.operator = operator
        self.grid, self.axes, self.factor, self.laws = operator.grid, operator.axes, operator.factor, operator.laws
        self.halo: tuple[int, int] | None = operator.halo

    def forward(self, coarse: Tensor, place: Place | None = None) -> Tensor:
        """Up-sample ``coarse`` of shape (..., n_y, n_x); NaN marks missing cells, whose parts become NaN."""
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
        """Describe the operator."""
        taps = self.axes[0].taps, self.axes[1].taps
        return f"cells={self.grid.shape}, factor={self.factor}, taps={taps}, laws={sorted(self.laws)}"


class SobolevUpsample(SeparableUpsample):
    """The Sobolev-optimal kernel on a grid: cell, phase and total law, exact on the sphere.

    Parameters
    ----------
    grid : RectilinearGrid or CurvilinearGrid
        The whole coarse grid, rows and columns.
    factor : int, (int, int) or (Parts, Parts)
        Refinement of rows and columns, or the parts into which the cells are to be cut.
    taps : int, odd
        Coarse cells in a window along each axis; fewer where the axis is shorter.
    order : float
        Order of the Sobolev seminorm that is least.

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
    """Build the training-free up-sampler of that name as a module; see :func:`downscale.nn.separable.operator`.

    Raises
    ------
    OptionError
        If there is none of that name; lists the names.
    """
    return SeparableUpsample(operator(method, grid, factor, taps, order))


def _gather(coarse: Tensor, weights: AxisWeights, factor: int, first: int, axis_cells: CellAxis, axis: int) -> Tensor:
    """Apply one axis operator to the coarse cells ``first, first + 1, ...`` of the whole axis."""
    given, whole = coarse.shape[axis], axis_cells.size
    cells = np.arange(first, first + given)
    wrap = cells // whole * whole
    rows = ((cells - wrap)[:, None] * factor + np.arange(factor)).ravel()
    local = (weights.start[rows] + np.repeat(wrap, factor) - first).reshape(given, factor)
    share = weights.weights[rows]
    if (local == local[:, :1]).all():
        # Siblings look at one window: take each coarse cell once and let the weights make the siblings.
        local, share = local[:, 0], share.reshape(given, factor, -1)
    else:
        local, share = local.ravel(), share[:, None]
    closed = given == whole and axis_cells.periodic
    trailing = (1,) * (-1 - axis)
    total: Tensor | None = None
    for tap in range(weights.taps):
        # At a cut, windows leave the block; those values lie within the halo and are trimmed.
        index = (local + tap) % given if closed else np.clip(local + tap, 0, given - 1)
        term = coarse.index_select(axis, torch.as_tensor(index, device=coarse.device)).unsqueeze(axis)
        term = term * coarse.new_tensor(share[..., tap]).reshape(*share.shape[:2], *trailing)
        total = term if total is None else total + term
    assert total is not None
    return total.flatten(axis - 1, axis)


def _repeat(mask: Tensor, factor: tuple[int, int]) -> Tensor:
    return mask.repeat_interleave(factor[0], dim=-2).repeat_interleave(factor[1], dim=-1)
