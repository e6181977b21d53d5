"""Sizes and reaches of stacks of layers along one axis, in integers.

A layer has two functions: the number of output cells for a number of input cells, and the input cells that the output
cells ``first`` to ``last`` (both included) depend on. Reaches are exact: the planner follows stride, dilation and the
phases of upsampling cell by cell, instead of adding half widths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from downscale.errors import ShapeError

Interval = tuple[int, int]


class Layer(Protocol):
    """Size and reach of a layer along one axis."""

    def size(self, cells: int) -> int:
        """Return the number of output cells for ``cells``."""
        ...

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells ``first`` to ``last`` depend on."""
        ...


@dataclass(frozen=True)
class Window:
    """A convolution or a pooling: ``kernel`` cells, ``dilation`` apart, every ``stride`` cells."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0

    def size(self, cells: int) -> int:
        """Return the number of output cells for ``cells``."""
        return (cells + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells depend on."""
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
        """Return the number of output cells for ``cells``."""
        return (cells - 1) * self.stride - 2 * self.padding + self.kernel + self.output_padding

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells depend on."""
        # A single fine cell between the kernels depends on none: the interval is then empty.
        return -((self.kernel - 1 - self.padding - first) // self.stride), (last + self.padding) // self.stride


@dataclass(frozen=True)
class Linear:
    """Linear interpolation to ``factor`` times as many cells, between centres."""

    factor: int

    def size(self, cells: int) -> int:
        """Return the number of output cells for ``cells``."""
        return cells * self.factor

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells depend on."""
        # Centres are at (2 i + 1 - factor) / (2 factor) coarse cells.
        low, high = 2 * first + 1 - self.factor, 2 * last + 1 - self.factor
        return low // (2 * self.factor), -(-high // (2 * self.factor))


@dataclass(frozen=True)
class Spread:
    """Pixel shuffle: each cell becomes ``factor`` cells."""

    factor: int

    def size(self, cells: int) -> int:
        """Return the number of output cells for ``cells``."""
        return cells * self.factor

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells depend on."""
        return first // self.factor, last // self.factor


@dataclass(frozen=True)
class Gather:
    """Inverse of a pixel shuffle: ``factor`` cells become one."""

    factor: int

    def size(self, cells: int) -> int:
        """Return the number of output cells for ``cells``."""
        return cells // self.factor

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells depend on."""
        return first * self.factor, last * self.factor + self.factor - 1


@dataclass(frozen=True)
class Stack:
    """Layers in sequence; an empty stack is the identity.

    Examples
    --------
    >>> doubled = Stack((Window(3, padding=1), Transposed(4, 2, 1)))
    >>> doubled.size(7), doubled.needs(6, 6), doubled.needs(7, 7)
    (14, (1, 4), (2, 5))
    """

    layers: tuple[Layer, ...] = ()

    def size(self, cells: int) -> int:
        """Return the number of output cells for ``cells``."""
        for layer in self.layers:
            cells = layer.size(cells)
        return cells

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells depend on."""
        for layer in reversed(self.layers):
            first, last = layer.needs(first, last)
        return first, last


@dataclass(frozen=True)
class Branches:
    """Parallel layers on the same input, added or joined: a skip connection is a branch.

    Raises
    ------
    ShapeError
        If the branches have different sizes.
    """

    layers: tuple[Layer, ...]

    def size(self, cells: int) -> int:
        """Return the number of output cells for ``cells``."""
        sizes = {layer.size(cells) for layer in self.layers}
        if len(sizes) > 1:
            raise ShapeError(f"expected branches of one size, received {sorted(sizes)} from {cells} cells; pad them")
        return sizes.pop()

    def needs(self, first: int, last: int) -> Interval:
        """Return the first and last input cell that the output cells depend on."""
        each = [layer.needs(first, last) for layer in self.layers]
        return min(low for low, _ in each), max(high for _, high in each)


def reach(needs: Callable[[int, int], Interval], factor: int, period: int = 1) -> int:
    """Return the largest distance of input cells that an output cell depends on: the tight halo.

    Parameters
    ----------
    needs : callable
        Input cells for the output cells ``first`` to ``last``.
    factor : int
        Output cells per input cell.
    period : int
        Period of the layers in input cells (the product of the strides of a network that coarsens).

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


def projection_field(layer: Layer, cell: int, cells: int) -> Interval:
    """Return the first and last output cell that one of ``cells`` input cells affects: the reach of a latent cell.

    Examples
    --------
    >>> projection_field(Stack((Transposed(4, 2, 1), Transposed(4, 2, 1))), 3, 8)
    (9, 18)
    """
    moved = [i for i in range(layer.size(cells)) if layer.needs(i, i)[0] <= cell <= layer.needs(i, i)[1]]
    if not moved:
        raise ShapeError(f"expected an input cell that moves an output cell, received {cell} of {cells}; pad less")
    return moved[0], moved[-1]


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
    """Return the successive refinements of rows and columns: by prime factors, or in one stage ("whole").

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
