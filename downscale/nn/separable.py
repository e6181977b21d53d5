"""Linear upsampling operators as products of one operator along rows and one along columns.

The engine applies these in one compiled pass; for gradients and accelerators, calls with tensors use the torch form of
:mod:`downscale.nn.polyphase`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from downscale.errors import GridError, OptionError, ShapeError, listing
from downscale.grid.axis import check_factor
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import Subcells
from downscale.kernels.classic import block_weights, cubic_weights, linear_weights
from downscale.kernels.sobolev import (
    AxisWeights,
    check_settings,
    check_solution,
    enforce_cell_conservation,
    part_weights,
)
from downscale.kernels.windows import Windows
from downscale.typing import Place

if TYPE_CHECKING:
    from torch import Tensor

Factor = int | tuple[int, int]
BothParts = tuple[Subcells, Subcells]
Grid = RectilinearGrid | CurvilinearGrid
# Layouts in the torch form that an operator caches.
MOST_LAYOUTS = 16
EVERY_LAW = frozenset({"cell", "phase", "total"})


@dataclass(frozen=True, eq=False)
class Separable:
    """Operators along rows and columns of the whole coarse grid, with the kinds of conservation that they satisfy."""

    grid: Grid
    axes: tuple[AxisWeights, AxisWeights]
    factor: tuple[int, int]
    laws: frozenset[str]
    multiple_of = 1

    def __getstate__(self) -> dict[str, Any]:
        # Cached properties are not sent to workers.
        return {key: self.__dict__[key] for key in self.__dataclass_fields__}

    @cached_property
    def reach(self) -> tuple[int, int]:
        """Largest distance of coarse rows and columns that a fine cell depends on."""
        y, x = (_reach(w, f, n) for w, f, n in zip(self.axes, self.factor, self.grid.shape, strict=True))
        return y, x

    @cached_property
    def halo(self) -> tuple[int, int] | None:
        """Distance of coarse cells beyond a block that affect its fine values."""
        # Missing neighbours are filled from their own neighbours, which doubles the reach.
        return 2 * self.reach[0], 2 * self.reach[1]

    def layout(self, row: int, column: int, shape: tuple[int, int]) -> Any:
        """Return a torch module for ``shape`` cells, of which the first is ``row`` and ``column``.

        The module takes (coarse, has_gaps) and equals the operator to rounding; its windows are precomputed here.
        """
        from downscale.nn.polyphase import Polyphase

        closed = bool(self.grid.x.periodic) and shape[1] == self.grid.shape[1]
        y, x = (
            Windows.of(axis, factor, first, first + count, first, count)
            for axis, factor, first, count in zip(self.axes, self.factor, (row, column), shape, strict=True)
        )
        return Polyphase(y, x, closed, self.reach)

    @cached_property
    def _layouts(self) -> dict[Any, Any]:
        """The layouts of this process by cells, device and type."""
        return {}

    def __call__(self, coarse: Tensor, place: Place | None = None) -> Tensor:
        """Return ``coarse`` of shape (..., n_y, n_x) upsampled; the parts of missing (NaN) cells become NaN."""
        shape = coarse.shape[-2], coarse.shape[-1]
        if place is None and tuple(coarse.shape[-2:]) != self.grid.shape:
            raise ShapeError(f"expected a coarse field of {self.grid.shape} cells, received {tuple(coarse.shape)}")
        first = (0, 0) if place is None else (place.row, place.column)
        key = (*first, *shape, coarse.device, coarse.dtype)
        layout = self._layouts.get(key)
        if layout is None:
            layout = self.layout(*first, shape).to(coarse.device, coarse.dtype)
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = layout
        return layout(coarse, bool(coarse.isnan().any()))


def factor_pair(factor: Factor) -> tuple[int, int]:
    """Return the refinement of rows and columns as two checked integers."""
    pair = factor if isinstance(factor, tuple) else (factor, factor)
    return check_factor(pair[0]), check_factor(pair[1])


def parts_of(grid: Grid, factor: Factor | BothParts) -> BothParts:
    """Return the parts of rows and columns, equal ones for a factor."""
    if isinstance(factor, tuple) and isinstance(factor[0], Subcells):
        return factor  # type: ignore[return-value]
    factor_y, factor_x = factor_pair(factor)  # type: ignore[arg-type]
    return Subcells.from_factor(grid.y, factor_y), Subcells.from_factor(grid.x, factor_x)


def counts_of(parts: BothParts) -> tuple[int, int]:
    """Return the number of parts of each row and each column."""
    return parts[0].count, parts[1].count


def sobolev_operator(grid: Grid, parts: BothParts, taps: int = 7, order: float = 1.25) -> Separable:
    """Return the Sobolev-optimal operator for the parts of rows and columns: cell, phase and total conservation."""
    check_settings(taps, order)
    y, x = (_sobolev_axis(axis, taps, order) for axis in parts)
    return Separable(grid, (y, x), counts_of(parts), EVERY_LAW)


def _sobolev_axis(parts: Subcells, taps: int, order: float) -> AxisWeights:
    axis = parts.coarse
    if parts.count == 1:
        return block_weights(1, axis.size)
    arrays = (axis.measure_edges, *parts.measure_pairs, parts.area_fraction, parts.measure)
    flat = np.flatnonzero(np.diff(axis.measure_edges) == 0)
    cell = int(flat[0]) if flat.size else int((arrays[1] == arrays[2]).argmax()) // parts.count
    if flat.size or (arrays[1] == arrays[2]).any():
        first, last = sorted(axis.edges[cell : cell + 2].tolist())
        raise GridError(
            f"expected {axis.kind} cells whose parts have some width, received one from {first:.10g} to {last:.10g}, "
            f"which float64 cannot cut into {parts.count}; merge it with its neighbour, or method='conservative'"
        )
    return _solve_axis(*(np.asarray(array, np.float64).tobytes() for array in arrays), taps, order, axis.measure_period)


@lru_cache(maxsize=16)
def _solve_axis(
    edges: bytes, low: bytes, high: bytes, share: bytes, measure: bytes, taps: int, order: float, period: float | None
) -> AxisWeights:
    """Return the weights of a numerical axis; cached, so that calls in a loop solve only once."""
    cells, first, last, shares, sizes = (np.frombuffer(buffer) for buffer in (edges, low, high, share, measure))
    parent = np.repeat(np.arange(cells.size - 1), first.size // (cells.size - 1))
    weights_of_parts = part_weights(cells, first, last, parent, taps, order, period)
    check_solution(weights_of_parts, sizes, parent)
    axis_weights = enforce_cell_conservation(weights_of_parts, shares)
    for array in (axis_weights.weights, axis_weights.start):
        array.setflags(write=False)
    return axis_weights


def _block(grid: Grid, parts: BothParts) -> Separable:
    y, x = (block_weights(axis.count, axis.coarse.size) for axis in parts)
    return Separable(grid, (y, x), counts_of(parts), EVERY_LAW)


def _interpolation(weights: Callable[..., AxisWeights], grid: Grid, parts: BothParts) -> Separable:
    y, x = (weights(axis.coarse.centres, axis.centres, axis.coarse.period) for axis in parts)
    return Separable(grid, (y, x), counts_of(parts), frozenset({"phase"}))


# Each method takes the grid, the parts of its cells and the settings of the kernel (which only sobolev uses).
METHODS: dict[str, Callable[..., Separable]] = {
    "sobolev": sobolev_operator,
    "conservative": lambda grid, parts, taps, order: _block(grid, parts),
    "bilinear": lambda grid, parts, taps, order: _interpolation(linear_weights, grid, parts),
    "bicubic": lambda grid, parts, taps, order: _interpolation(cubic_weights, grid, parts),
}


def operator(method: str, grid: Grid, factor: Factor | BothParts, taps: int = 7, order: float = 1.25) -> Separable:
    """Return the training-free operator with this name, for a factor or for the parts of rows and columns.

    Raises
    ------
    OptionError
        If the name is unknown; the message lists the names.
    ShapeError
        If factor or taps are not usable.
    """
    if method not in METHODS:
        raise OptionError(f"expected method to be one of {listing(METHODS)}, received {method!r}")
    return METHODS[method](grid, parts_of(grid, factor), taps, order)


def _reach(weights: AxisWeights, factor: int, size: int) -> int:
    parent = np.arange(weights.start.size) // factor
    return int(min(max((parent - weights.start).max(), (weights.start + weights.taps - 1 - parent).max()), size))
