"""Sizes and reaches of stacks of layers along one axis, in integers (no field, no weights, no torch).

A layer is two functions: how many cells it makes of a number of cells, and which cells it looks at for the cells
``first`` to ``last`` (both included) of its output. Reaches are exact: stride, dilation and the phases of up-sampling
are followed cell by cell, not added up as half widths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from downscale.errors import ShapeError

Interval = tuple[int, int]


class Layer(Protocol):
    """What the planner knows of a layer along one axis."""

    def size(self, cells: int) -> int:
        """Return the number of cells made of ``cells``."""
        ...

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells ``first`` to ``last`` look at."""
        ...


@dataclass(frozen=True)
class Window:
    """A convolution or a pooling: ``kernel`` cells, ``dilation`` apart, every ``stride`` cells."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0

    def size(self, cells: int) -> int:
        """Return the number of cells made of ``cells``."""
        return (cells + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells look at."""
        start = first * self.stride - self.padding
        return start, last * self.stride - self.padding + self.dilation * (self.kernel - 1)


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution, with the sizes of torch."""

    kernel: int
    stride: int
    padding: int = 0
    output_padding: int = 0

    def size(self, cells: int) -> int:
        """Return the number of cells made of ``cells``."""
        return (cells - 1) * self.stride - 2 * self.padding + self.kernel + self.output_padding

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells look at."""
        # A single fine cell between the kernels looks at none: the interval is then empty.
        return -((self.kernel - 1 - self.padding - first) // self.stride), (last + self.padding) // self.stride


@dataclass(frozen=True)
class Linear:
    """Linear interpolation to ``factor`` times as many cells, between centres."""

    factor: int

    def size(self, cells: int) -> int:
        """Return the number of cells made of ``cells``."""
        return cells * self.factor

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells look at."""
        # Centres lie at (2 i + 1 - factor) / (2 factor) coarse cells.
        low, high = 2 * first + 1 - self.factor, 2 * last + 1 - self.factor
        return low // (2 * self.factor), -(-high // (2 * self.factor))


@dataclass(frozen=True)
class Spread:
    """Each cell becomes ``factor`` cells: a pixel shuffle."""

    factor: int

    def size(self, cells: int) -> int:
        """Return the number of cells made of ``cells``."""
        return cells * self.factor

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells look at."""
        return first // self.factor, last // self.factor


@dataclass(frozen=True)
class Gather:
    """``factor`` cells become one: the inverse of a pixel shuffle."""

    factor: int

    def size(self, cells: int) -> int:
        """Return the number of cells made of ``cells``."""
        return cells // self.factor

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells look at."""
        return first * self.factor, last * self.factor + self.factor - 1


@dataclass(frozen=True)
class Stack:
    """Layers one after the other; none leaves everything as it is.

    Examples
    --------
    >>> doubled = Stack((Window(3, padding=1), Transposed(4, 2, 1)))
    >>> doubled.size(7), doubled.needs(6, 6), doubled.needs(7, 7)
    (14, (1, 4), (2, 5))
    """

    layers: tuple[Layer, ...] = ()

    def size(self, cells: int) -> int:
        """Return the number of cells made of ``cells``."""
        for layer in self.layers:
            cells = layer.size(cells)
        return cells

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells look at."""
        for layer in reversed(self.layers):
            first, last = layer.needs(first, last)
        return first, last


@dataclass(frozen=True)
class Branches:
    """Layers side by side on the same input, added or joined: a skip connection is a branch.

    Raises
    ------
    ShapeError
        When sizes are asked for and the branches make different ones.
    """

    layers: tuple[Layer, ...]

    def size(self, cells: int) -> int:
        """Return the number of cells made of ``cells``."""
        sizes = {layer.size(cells) for layer in self.layers}
        if len(sizes) > 1:
            raise ShapeError(f"expected branches of one size, received {sorted(sizes)} from {cells} cells; pad them")
        return sizes.pop()

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells look at."""
        each = [layer.needs(first, last) for layer in self.layers]
        return min(low for low, _ in each), max(high for _, high in each)


def reach(needs: Callable[[int, int], Interval], factor: int, period: int = 1) -> int:
    """Return how many input cells away an output cell looks, at most: the halo, tight.

    Parameters
    ----------
    needs : callable
        Input cells for the output cells ``first`` to ``last``.
    factor : int
        Output cells in an input cell.
    period : int
        Input cells after which the layers repeat (the product of the strides of a network that coarsens).

    Examples
    --------
    >>> reach(Stack((Window(3, padding=1), Spread(2), Window(3, padding=1))).needs, 2)
    2
    """
    most = 0
    for cell in range(period):
        low, high = needs(cell * factor, cell * factor + factor - 1)
        most = max(most, cell - low, high - cell)
    return most


def receptive_field(layer: Layer, cell: int = 0) -> int:
    """Return the number of input cells that one output cell looks at.

    Examples
    --------
    >>> receptive_field(Stack((Window(3), Window(3, stride=2), Window(3))))
    9
    """
    low, high = layer.needs(cell, cell)
    return high - low + 1


def projection_field(layer: Layer, cell: int, cells: int) -> Interval:
    """Return the first and last output cell that one of ``cells`` input cells moves: the reach of a latent cell.

    Examples
    --------
    >>> projection_field(Stack((Transposed(4, 2, 1), Transposed(4, 2, 1))), 3, 8)
    (9, 18)
    """
    moved = [i for i in range(layer.size(cells)) if layer.needs(i, i)[0] <= cell <= layer.needs(i, i)[1]]
    if not moved:
        raise ShapeError(f"expected an input cell that moves an output cell, received {cell} of {cells}; pad less")
    return moved[0], moved[-1]


def coherent_depth(layer: Layer, cells: int, most: int = 64) -> int | None:
    """Return how many such layers it takes until every output cell sees every one of ``cells`` input cells.

    None where ``most`` layers are not enough: transposed convolutions alone spread a cell over its neighbours only.

    Examples
    --------
    >>> doubling = Transposed(4, 2, 1)
    >>> coherent_depth(Window(3, padding=1), 8), coherent_depth(doubling, 1), coherent_depth(doubling, 4)
    (7, 1, None)
    """
    for depth in range(1, most + 1):
        stack = Stack((layer,) * depth)
        last = stack.size(cells) - 1
        if stack.needs(0, 0)[1] >= cells - 1 and stack.needs(last, last)[0] <= 0:
            return depth
    return None


def prime_factors(number: int) -> tuple[int, ...]:
    """Return the prime factors of a number, largest first; none for one.

    Examples
    --------
    >>> prime_factors(10), prime_factors(8), prime_factors(1)
    ((5, 2), (2, 2, 2), ())
    """
    found, rest, divisor = [], number, 2
    while rest > 1:
        while rest % divisor == 0:
            found.append(divisor)
            rest //= divisor
        divisor += 1
    return tuple(reversed(found))


def stage_factors(factor: tuple[int, int], steps: str = "prime") -> tuple[tuple[int, int], ...]:
    """Return the refinements of rows and columns, one after the other: by prime factors, or at once ("whole").

    Examples
    --------
    >>> stage_factors((6, 2)), stage_factors((4, 4), "whole")
    (((3, 2), (2, 1)), ((4, 4),))
    """
    if steps == "whole":
        return (factor,)
    rows, columns = (prime_factors(number) for number in factor)
    count = max(len(rows), len(columns), 1)
    ones = (1,) * count
    return tuple(zip((*rows, *ones)[:count], (*columns, *ones)[:count], strict=True))
