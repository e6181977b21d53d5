"""Fixed, latitude-aware up-sampling on the sphere and on planes (torch; knows grids, no file and no dask).

The two-dimensional operators are products of one operator a axis: first rows (latitude), then columns. They gather:
each fine value is a sum over a window of coarse neighbours, added tap by tap in one order, so that any cutting of the
field gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from downscale.errors import OptionError, ShapeError, listing
from downscale.grid.axis import CellAxis, check_factor
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.parts import Parts
from downscale.kernels.classic import block_weights, cubic_weights, linear_weights
from downscale.kernels.sobolev import AxisWeights, enforce_cell_law, part_weights
from downscale.typing import Place

if TYPE_CHECKING:
    from torch import Tensor

Factor = int | tuple[int, int]
BothParts = tuple[Parts, Parts]
# Two axes are all that an operator looks at.
Grid = RectilinearGrid | CurvilinearGrid


def factor_pair(factor: Factor) -> tuple[int, int]:
    """Return the refinement of rows and columns as two checked integers."""
    pair = factor if isinstance(factor, tuple) else (factor, factor)
    return check_factor(pair[0]), check_factor(pair[1])


class SeparableUpsample(torch.nn.Module):
    """A linear up-sampler that is one operator along rows and one along columns.

    Parameters
    ----------
    grid : RectilinearGrid or CurvilinearGrid
        The whole coarse grid.
    y_weights, x_weights : AxisWeights
        The operators along the two axes of that grid.
    factor : (int, int)
        Refinement of rows and columns.
    laws : frozenset of str
        Laws that the operators obey.
    """

    multiple_of = 1
    axes: tuple[AxisWeights, AxisWeights]

    def __init__(
        self,
        grid: Grid,
        y_weights: AxisWeights,
        x_weights: AxisWeights,
        factor: tuple[int, int],
        laws: frozenset[str],
    ) -> None:
        super().__init__()
        self.grid, self.factor, self.laws = grid, factor, laws
        self.axes = (y_weights, x_weights)
        reach_y, reach_x = (_reach(w, f, n) for w, f, n in zip(self.axes, factor, grid.shape, strict=True))
        # Missing neighbours are filled from their own neighbours, which doubles the reach.
        self.halo: tuple[int, int] | None = (2 * reach_y, 2 * reach_x)
        self._fill_radius = (reach_y, reach_x)

    def forward(self, coarse: Tensor, place: Place | None = None) -> Tensor:
        """Up-sample ``coarse`` of shape (..., n_y, n_x); NaN marks missing cells, whose parts become NaN."""
        row, column = (0, 0) if place is None else (place.row, place.column)
        if place is None and tuple(coarse.shape[-2:]) != self.grid.shape:
            raise ShapeError(f"expected a coarse field of {self.grid.shape} cells, received {tuple(coarse.shape)}")
        missing = torch.isnan(coarse)
        holes = bool(missing.any())
        closed = self.grid.x.periodic and coarse.shape[-1] == self.grid.shape[1]
        source = _fill(coarse, missing, self._fill_radius, closed) if holes else coarse
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
    >>> lat, lon = np.arange(-85.0, 90, 10), np.arange(5.0, 360, 10)
    >>> grid = RectilinearGrid(axis_from_centres(lat, "latitude"), axis_from_centres(lon, "longitude"))
    >>> SobolevUpsample(grid, 2)(torch.ones(18, 36)).shape
    torch.Size([36, 72])
    """

    def __init__(
        self, grid: Grid, factor: Factor | BothParts, taps: int = 7, order: float = 1.25
    ) -> None:
        both = parts_of(grid, factor)
        axes = [_sobolev_axis(parts, taps, order) for parts in both]
        super().__init__(grid, axes[0], axes[1], counts_of(both), frozenset({"cell", "phase", "total"}))


def parts_of(grid: Grid, factor: Factor | BothParts) -> BothParts:
    """Return the parts of rows and columns, equal ones for a factor."""
    if isinstance(factor, tuple) and isinstance(factor[0], Parts):
        return factor  # type: ignore[return-value]
    factor_y, factor_x = factor_pair(factor)  # type: ignore[arg-type]
    return Parts.equal(grid.y, factor_y), Parts.equal(grid.x, factor_x)


def counts_of(parts: BothParts) -> tuple[int, int]:
    """Return how many parts each row and each column has."""
    return parts[0].count, parts[1].count


def _sobolev_axis(parts: Parts, taps: int, order: float) -> AxisWeights:
    axis = parts.coarse
    if parts.count == 1:
        return block_weights(1, axis.size)
    low, high = parts.measure_pairs
    parent = np.repeat(np.arange(axis.size), parts.count)
    weights = part_weights(axis.measure_edges, low, high, parent, taps, order, axis.measure_period)
    return enforce_cell_law(weights, parts.share)


def _block(grid: Grid, parts: BothParts) -> SeparableUpsample:
    y, x = (block_weights(axis.count, axis.coarse.size) for axis in parts)
    return SeparableUpsample(grid, y, x, counts_of(parts), frozenset({"cell", "phase", "total"}))


def _interpolation(weights: Callable[..., AxisWeights], grid: Grid, parts: BothParts) -> SeparableUpsample:
    y, x = (weights(axis.coarse.centres, axis.centres, axis.coarse.period) for axis in parts)
    return SeparableUpsample(grid, y, x, counts_of(parts), frozenset({"phase"}))


# Every method is built from the grid, the parts of its cells and the settings of the kernel (which only sobolev heeds).
METHODS: dict[str, Callable[..., SeparableUpsample]] = {
    "sobolev": lambda grid, parts, taps, order: SobolevUpsample(grid, parts, taps, order),
    "conservative": lambda grid, parts, taps, order: _block(grid, parts),
    "bilinear": lambda grid, parts, taps, order: _interpolation(linear_weights, grid, parts),
    "bicubic": lambda grid, parts, taps, order: _interpolation(cubic_weights, grid, parts),
}


def upsampler(
    method: str, grid: Grid, factor: Factor | BothParts, taps: int = 7, order: float = 1.25
) -> SeparableUpsample:
    """Build the training-free up-sampler of that name, for a factor or for the parts of rows and columns.

    Raises
    ------
    OptionError
        If there is none of that name; lists the names.
    """
    if method not in METHODS:
        raise OptionError(f"expected method to be one of {listing(METHODS)}, received {method!r}")
    return METHODS[method](grid, parts_of(grid, factor), taps, order)


def _reach(weights: AxisWeights, factor: int, size: int) -> int:
    """Return how many coarse cells beyond its own a fine cell looks at, at most."""
    parent = np.arange(weights.start.size) // factor
    return int(min(max((parent - weights.start).max(), (weights.start + weights.taps - 1 - parent).max()), size))


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


def _fill(coarse: Tensor, missing: Tensor, radius: tuple[int, int], closed: bool) -> Tensor:
    """Fill missing cells by a smooth mean of their valid neighbours, so that windows near a coast stay whole.

    The fill moves no budget: under the cell law a cell's own mean depends on its own value alone.
    """
    value, weight = coarse.masked_fill(missing, 0.0), (~missing).to(coarse.dtype)
    for axis, reach, wraps in ((-2, radius[0], False), (-1, radius[1], closed)):
        value, weight = _smooth(value, axis, reach, wraps), _smooth(weight, axis, reach, wraps)
    filled = torch.where(weight > 0, value / torch.where(weight > 0, weight, 1.0), 0.0)
    return torch.where(missing, filled, coarse)


def _smooth(field: Tensor, axis: int, radius: int, closed: bool) -> Tensor:
    """Sum neighbours with weights that fall by a factor of four a cell, added in one order."""
    size = field.shape[axis]
    total = torch.zeros_like(field)
    for offset in range(-radius, radius + 1):
        index = torch.arange(size, device=field.device) + offset
        inside = (index >= 0) & (index < size)
        index = index % size if closed else index.clamp(0, size - 1)
        share = 0.25 ** abs(offset) * (torch.ones_like(inside) if closed else inside).to(field.dtype)
        total = total + field.index_select(axis, index) * (share if axis == -1 else share[:, None])
    return total
