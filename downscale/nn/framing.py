"""Padding that aligns the levels of a network to the world, and closes circles of longitude."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from downscale.nn.edges import EDGES


@dataclass(frozen=True)
class Frame:
    """Numbers of coarse cells to add before and after a field, along rows and columns.

    Attributes
    ----------
    rows, columns : (int, int)
        Cells before and after; zeros on open axes.
    closed : bool
        Whether the columns close a circle, so that padding comes from the other end.

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
        rows = _around(corner[0], shape[0], multiple, 0)
        return cls(rows, _around(corner[1], shape[1], multiple, wrap if closed else 0), closed)

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

    def core(self, framed: tuple[int, int]) -> tuple[slice, slice]:
        """Return the position of the field among ``framed`` coarse cells."""
        y, x = (slice(pads[0], size - pads[1]) for pads, size in zip((self.rows, self.columns), framed, strict=True))
        return y, x


def _around(first: int, count: int, multiple: int, wrap: int) -> tuple[int, int]:
    """Return the cells to add before and after ``count`` cells that start at ``first``."""
    before = wrap + (first - wrap) % multiple
    after = wrap + (-(first + count + wrap)) % multiple
    return before, after


def wrapped(field: Tensor, cells: int) -> Tensor:
    """Return the field with some columns of the other end added at both ends."""
    extended: Tensor = EDGES["circular"].extend(field, -1, -cells, field.shape[-1] + cells)
    return extended


def box_mean(field: Tensor, valid: Tensor, radius: int, closed: bool) -> Tensor:
    """Return means over the valid cells of boxes of ``2 * radius + 1`` cells per side, zero where there are none.

    Parameters
    ----------
    field : Tensor, shape (B, C, ny, nx)
        Values; zero where not valid.
    valid : Tensor, of that shape
        One where valid, else zero.
    radius : int
        Cells on each side.
    closed : bool
        Whether the columns close a circle.
    """
    total, count = (_box(each, radius, closed) for each in (field, valid))
    # Without valid cells the sum is zero, too.
    return total / torch.where(count > 0, count, torch.ones_like(count))


def _box(field: Tensor, radius: int, closed: bool) -> Tensor:
    side = 2 * radius + 1
    rows = F.avg_pool2d(field, (side, 1), stride=1, padding=(radius, 0))
    if closed:
        return F.avg_pool2d(wrapped(rows, radius), (1, side), stride=1)
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, radius))
