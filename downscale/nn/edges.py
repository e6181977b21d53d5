"""Extension of coarse fields beyond an edge, folding of overhanging fine values, and frames of cells around a field.

The edge modes ``zeros``, ``circular`` and ``reflect`` extend the coarse field before the convolution. The mode ``fold``
lets the convolution extend beyond the edge and folds the overhang back, as the transpose of ``reflect``.
Reflection is about the edge itself (half-sample), so block means commute with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from downscale.errors import OptionError, listing

Extend = Callable[[Tensor, int, int, int], Tensor]


@dataclass(frozen=True, slots=True)
class Edge:
    """Continuation of a field beyond an edge, and the constraints that kernels satisfy up to the edge (``laws``).

    ``extend(field, dim, start, stop)`` returns the cells ``start ... stop - 1`` of the extended field. With
    ``overhangs`` the fine field extends beyond the edge and is then folded back (`fold`).
    """

    extend: Extend
    overhangs: bool
    laws: frozenset[str]


def _tiles(start: int, stop: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield the pieces of ``start ... stop`` in each copy of an axis: (number of the copy, first and last place)."""
    for tile in range(start // size, -(-stop // size)):
        yield tile, max(start - tile * size, 0), min(stop - tile * size, size)


def _zeros(field: Tensor, dim: int, start: int, stop: int) -> Tensor:
    return F.pad(field, [0, 0] * (-1 - dim) + [-start, stop - field.shape[dim]])


def _circular(field: Tensor, dim: int, start: int, stop: int) -> Tensor:
    tiles = _tiles(start, stop, field.shape[dim])
    return torch.cat([field.narrow(dim, low, high - low) for _, low, high in tiles], dim)


def _reflect(field: Tensor, dim: int, start: int, stop: int) -> Tensor:
    mirror = (field, field.flip(dim))
    tiles = _tiles(start, stop, field.shape[dim])
    return torch.cat([mirror[tile % 2].narrow(dim, low, high - low) for tile, low, high in tiles], dim)


def fold(field: Tensor, dim: int, start: int, size: int) -> Tensor:
    """Return a field with the part outside ``0 ... size - 1`` added to its mirror position; conserves the sum.

    ``field`` holds the places from ``start <= 0`` along ``dim``, at least up to ``size``.

    Examples
    --------
    >>> fold(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]), -1, start=-2, size=2)
    tensor([[ 5., 10.]])
    """
    inside = field.narrow(dim, -start, size).clone()
    for tile, low, high in _tiles(start, start + field.shape[dim], size):
        piece = field.narrow(dim, tile * size + low - start, high - low)
        if tile % 2:
            inside.narrow(dim, size - high, high - low).add_(piece.flip(dim))
        elif tile:
            inside.narrow(dim, low, high - low).add_(piece)
    return inside


EDGES: dict[str, Edge] = {
    "zeros": Edge(_zeros, overhangs=False, laws=frozenset({"cell"})),
    "circular": Edge(_circular, overhangs=False, laws=frozenset({"total", "phase", "cell"})),
    "reflect": Edge(_reflect, overhangs=False, laws=frozenset({"phase", "cell"})),
    "fold": Edge(_zeros, overhangs=True, laws=frozenset({"total", "cell"})),
}


def edge_names(padding_mode: str | Sequence[str]) -> tuple[str, str]:
    """Return the edge modes along (lat, lon) from one name or a pair of names."""
    names = (padding_mode,) * 2 if isinstance(padding_mode, str) else tuple(padding_mode)
    if len(names) != 2 or any(name not in EDGES for name in names):
        raise OptionError(
            f"padding_mode expected a name or a pair (lat, lon) of {listing(EDGES)}, received "
            f"{padding_mode!r}: choose among these names"
        )
    return names


def default_edge(law: Sequence[str]) -> str:
    """Return the mode that satisfies a constraint up to the edge: fold for total alone, reflect for phase and cell.

    Examples
    --------
    >>> default_edge(("total",)), default_edge(("phase", "cell"))
    ('fold', 'reflect')
    """
    return "fold" if set(law) == {"total"} else "reflect"


@dataclass(frozen=True)
class Frame:
    """Numbers of coarse cells to add before and after a field, along rows and columns; zeros on open axes.

    Padding of columns that close a circle (``closed``) comes from the other end.

    Examples
    --------
    >>> Frame.of((5, 8), multiple=4)
    Frame(rows=(0, 3), columns=(0, 0), closed=False)
    >>> Frame.of((5, 8), multiple=4, corner=(3, -2), closed=True, wrap=3)
    Frame(rows=(3, 0), columns=(6, 6), closed=True)
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    closed: bool = False

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        multiple: int = 1,
        corner: tuple[int, int] = (0, 0),
        closed: bool = False,
        wrap: int = 0,
    ) -> Frame:
        """Return the frame of ``shape`` cells from ``corner`` in the world that completes whole multiples.

        Levels of coarsening are aligned to cell (0, 0) of the world, whatever the position of the field.
        """
        rows = _padding(corner[0], shape[0], multiple, 0)
        return cls(rows, _padding(corner[1], shape[1], multiple, wrap if closed else 0), closed)

    def pad(self, field: Tensor, factor: tuple[int, int] = (1, 1)) -> Tensor:
        """Return the framed field, (B, C, ny * fy, nx * fx) for a field with ``factor`` cells per coarse cell."""
        top, bottom = (count * factor[0] for count in self.rows)
        left, right = (count * factor[1] for count in self.columns)
        if self.closed and (left or right):
            field = EDGES["circular"].extend(field, -1, -left, field.shape[-1] + right)
            left = right = 0
        return F.pad(field, (left, right, top, bottom)) if top or bottom or left or right else field

    def crop(self, fine: Tensor, factor: tuple[int, int]) -> Tensor:
        """Return the part inside the frame."""
        rows, columns = self.core((fine.shape[-2] // factor[0], fine.shape[-1] // factor[1]))
        return fine[
            ...,
            rows.start * factor[0] : rows.stop * factor[0],
            columns.start * factor[1] : columns.stop * factor[1],
        ]

    def core(self, framed_shape: tuple[int, int]) -> tuple[slice, slice]:
        """Return the position of the field among ``framed_shape`` coarse cells."""
        pads = zip((self.rows, self.columns), framed_shape, strict=True)
        y, x = (slice(before, size - after) for (before, after), size in pads)
        return y, x


def _padding(first: int, count: int, multiple: int, wrap: int) -> tuple[int, int]:
    """Return the cells to add before and after ``count`` cells that start at ``first``."""
    before = wrap + (first - wrap) % multiple
    after = wrap + (-(first + count + wrap)) % multiple
    return before, after


def wrap_columns(field: Tensor, cells: int) -> Tensor:
    """Return the field with some columns of the other end added at both ends."""
    extended: Tensor = EDGES["circular"].extend(field, -1, -cells, field.shape[-1] + cells)
    return extended


def box_mean(field: Tensor, valid: Tensor, radius: int, closed: bool) -> Tensor:
    """Return means over the valid cells of boxes of ``2 * radius + 1`` cells per side, zero where there are none.

    ``field`` (B, C, ny, nx) is zero where not valid, ``valid`` is one or zero; ``closed`` columns form a circle.
    """
    total, count = (_box(values, radius, closed) for values in (field, valid))
    # Without valid cells the sum is zero, too.
    return total / torch.where(count > 0, count, torch.ones_like(count))


def _box(field: Tensor, radius: int, closed: bool) -> Tensor:
    side = 2 * radius + 1
    rows = F.avg_pool2d(field, (side, 1), stride=1, padding=(radius, 0))
    if closed:
        return F.avg_pool2d(wrap_columns(rows, radius), (1, side), stride=1)
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, radius))
