"""Extension of coarse fields beyond an edge, and folding of overhanging fine values.

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
    """Continuation of a field beyond an edge.

    Attributes
    ----------
    extend : callable
        ``extend(field, dim, start, stop)`` returns the cells ``start ... stop - 1`` of the extended field.
    spills : bool
        Whether the fine field extends beyond the edge and is then folded back (`fold`).
    keeps : frozenset of str
        Constraints that every constrained kernel satisfies up to the edge.
    """

    extend: Extend
    spills: bool
    keeps: frozenset[str]


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
    "zeros": Edge(_zeros, spills=False, keeps=frozenset({"cell"})),
    "circular": Edge(_circular, spills=False, keeps=frozenset({"total", "phase", "cell"})),
    "reflect": Edge(_reflect, spills=False, keeps=frozenset({"phase", "cell"})),
    "fold": Edge(_zeros, spills=True, keeps=frozenset({"total", "cell"})),
}


def edge_names(padding_mode: str | Sequence[str]) -> tuple[str, str]:
    """Return the edge modes along (lat, lon) from one name or a pair of names.

    Raises
    ------
    OptionError
        If there are not one or two names, or one is not in ``EDGES``.
    """
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
