"""Linear up-samplers that are one operator along rows and one along columns, as plain numbers (numpy; torch on call).

The engine applies these in one compiled pass; called with tensors they are the modules of
:mod:`downscale.nn.upsample`, where gradients and accelerators are wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from downscale.errors import GridError, OptionError, listing
from downscale.grid.axis import check_factor
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.parts import Parts
from downscale.kernels.classic import block_weights, cubic_weights, linear_weights
from downscale.kernels.sobolev import AxisWeights, check_settings, check_solved, enforce_cell_law, part_weights
from downscale.kernels.windows import Windows
from downscale.typing import Place

if TYPE_CHECKING:
    from torch import Tensor

Factor = int | tuple[int, int]
BothParts = tuple[Parts, Parts]
# Two axes are all that an operator looks at.
Grid = RectilinearGrid | CurvilinearGrid
EVERY_LAW = frozenset({"cell", "phase", "total"})


@dataclass(frozen=True, eq=False)
class Separable:
    """An operator along rows and one along columns (an Upscaler).

    Attributes
    ----------
    grid : RectilinearGrid or CurvilinearGrid
        The whole coarse grid.
    axes : (AxisWeights, AxisWeights)
        The operators along its rows and columns.
    factor : (int, int)
        Refinement of rows and columns.
    laws : frozenset of str
        Laws that the operators obey.
    """

    grid: Grid
    axes: tuple[AxisWeights, AxisWeights]
    factor: tuple[int, int]
    laws: frozenset[str]
    multiple_of = 1

    def __getstate__(self) -> dict[str, Any]:
        # What is computed on demand does not go to workers.
        return {key: self.__dict__[key] for key in self.__dataclass_fields__}

    @cached_property
    def reach(self) -> tuple[int, int]:
        """Coarse rows and columns beyond its own that a fine cell looks at, at most."""
        y, x = (_reach(w, f, n) for w, f, n in zip(self.axes, self.factor, self.grid.shape, strict=True))
        return y, x

    @cached_property
    def halo(self) -> tuple[int, int] | None:
        """Coarse cells beyond a block that move its fine values."""
        # Missing neighbours are filled from their own neighbours, which doubles the reach.
        return 2 * self.reach[0], 2 * self.reach[1]

    @cached_property
    def module(self) -> Any:
        """The same operator as a torch module."""
        from downscale.nn.upsample import SeparableUpsample

        return SeparableUpsample(self)

    def layout(self, row: int, column: int, shape: tuple[int, int]) -> Any:
        """Return a torch module for ``shape`` given cells, of which the first is ``row`` and ``column``.

        It is called with (coarse, gaps) and equals the operator to rounding; what it needs is laid out here, once.
        """
        from downscale.nn.polyphase import Polyphase

        closed = bool(self.grid.x.periodic) and shape[1] == self.grid.shape[1]
        y, x = (
            Windows.of(axis, factor, first, first + given, first, given)
            for axis, factor, first, given in zip(self.axes, self.factor, (row, column), shape, strict=True)
        )
        return Polyphase(y, x, closed, self.reach)

    def __call__(self, coarse: Tensor, place: Place | None = None) -> Tensor:
        """Up-sample ``coarse`` of shape (..., n_y, n_x); NaN marks missing cells, whose parts become NaN."""
        return self.module(coarse, place)


def factor_pair(factor: Factor) -> tuple[int, int]:
    """Return the refinement of rows and columns as two checked integers."""
    pair = factor if isinstance(factor, tuple) else (factor, factor)
    return check_factor(pair[0]), check_factor(pair[1])


def parts_of(grid: Grid, factor: Factor | BothParts) -> BothParts:
    """Return the parts of rows and columns, equal ones for a factor."""
    if isinstance(factor, tuple) and isinstance(factor[0], Parts):
        return factor  # type: ignore[return-value]
    factor_y, factor_x = factor_pair(factor)  # type: ignore[arg-type]
    return Parts.equal(grid.y, factor_y), Parts.equal(grid.x, factor_x)


def counts_of(parts: BothParts) -> tuple[int, int]:
    """Return how many parts each row and each column has."""
    return parts[0].count, parts[1].count


def sobolev_operator(grid: Grid, parts: BothParts, taps: int = 7, order: float = 1.25) -> Separable:
    """Return the Sobolev-optimal operator for the parts of rows and columns: cell, phase and total law."""
    check_settings(taps, order)
    y, x = (_sobolev_axis(axis, taps, order) for axis in parts)
    return Separable(grid, (y, x), counts_of(parts), EVERY_LAW)


def _sobolev_axis(parts: Parts, taps: int, order: float) -> AxisWeights:
    axis = parts.coarse
    if parts.count == 1:
        return block_weights(1, axis.size)
    numbers = (axis.measure_edges, *parts.measure_pairs, parts.share, parts.measure)
    flat = np.flatnonzero(np.diff(axis.measure_edges) == 0)
    cell = int(flat[0]) if flat.size else int((numbers[1] == numbers[2]).argmax()) // parts.count
    if flat.size or (numbers[1] == numbers[2]).any():
        first, last = sorted(axis.edges[cell : cell + 2].tolist())
        raise GridError(
            f"expected {axis.kind} cells whose parts have some width, received one from {first:.10g} to {last:.10g}, "
            f"which float64 cannot cut into {parts.count}; merge it with its neighbour, or method='conservative'"
        )
    return _solved(*(np.asarray(one, np.float64).tobytes() for one in numbers), taps, order, axis.measure_period)


@lru_cache(maxsize=16)
def _solved(
    edges: bytes, low: bytes, high: bytes, share: bytes, measure: bytes, taps: int, order: float, period: float | None
) -> AxisWeights:
    """Return the weights of an axis that is known by its numbers alone: calls in a loop solve for them once."""
    cells, first, last, shares, sizes = (np.frombuffer(one) for one in (edges, low, high, share, measure))
    parent = np.repeat(np.arange(cells.size - 1), first.size // (cells.size - 1))
    solved = part_weights(cells, first, last, parent, taps, order, period)
    check_solved(solved, sizes, parent)
    made = enforce_cell_law(solved, shares)
    for numbers in (made.weights, made.start):
        numbers.setflags(write=False)
    return made


def _block(grid: Grid, parts: BothParts) -> Separable:
    y, x = (block_weights(axis.count, axis.coarse.size) for axis in parts)
    return Separable(grid, (y, x), counts_of(parts), EVERY_LAW)


def _interpolation(weights: Callable[..., AxisWeights], grid: Grid, parts: BothParts) -> Separable:
    y, x = (weights(axis.coarse.centres, axis.centres, axis.coarse.period) for axis in parts)
    return Separable(grid, (y, x), counts_of(parts), frozenset({"phase"}))


# Every method is built from the grid, the parts of its cells and the settings of the kernel (which only sobolev heeds).
METHODS: dict[str, Callable[..., Separable]] = {
    "sobolev": sobolev_operator,
    "conservative": lambda grid, parts, taps, order: _block(grid, parts),
    "bilinear": lambda grid, parts, taps, order: _interpolation(linear_weights, grid, parts),
    "bicubic": lambda grid, parts, taps, order: _interpolation(cubic_weights, grid, parts),
}


def operator(
    method: str, grid: Grid, factor: Factor | BothParts, taps: int = 7, order: float = 1.25
) -> Separable:
    """Build the training-free operator of that name, for a factor or for the parts of rows and columns.

    Raises
    ------
    OptionError
        If there is none of that name; lists the names.
    ShapeError
        If factor or taps are not usable.
    """
    if method not in METHODS:
        raise OptionError(f"expected method to be one of {listing(METHODS)}, received {method!r}")
    return METHODS[method](grid, parts_of(grid, factor), taps, order)


def _reach(weights: AxisWeights, factor: int, size: int) -> int:
    parent = np.arange(weights.start.size) // factor
    return int(min(max((parent - weights.start).max(), (weights.start + weights.taps - 1 - parent).max()), size))
