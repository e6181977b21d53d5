"""What every network of a learned model is: channels in, detail out, and an exact reach (torch; knows no field)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from downscale.nn.shapes import Interval, Layer, reach

Core = tuple[slice, slice]


class Network(nn.Module):
    """Base of the networks: detail of normalised coarse and fine channels.

    Attributes
    ----------
    factor : (int, int)
        Refinement of rows and columns.
    multiple_of : int
        Coarse cells in one cell of the coarsest level. Any size goes in: fields are padded with zeros and cropped.
    whole : bool
        Whether a fine cell looks at the whole field.
    """

    multiple_of = 1
    whole = False
    # Options that may be zero: there is then no such layer.
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"depth", "levels"})

    def __init__(self, factor: tuple[int, int]) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Make detail (B, outputs, ny * fy, nx * fx) of (B, C_c, ny, nx) and (B, C_f, ny * fy, nx * fx).

        ``core`` holds the coarse cells that are no padding, for networks that look at the whole field.
        """
        raise NotImplementedError

    def paths(self, axis: int) -> tuple[Layer, Layer]:
        """Return the reach along an axis (0 rows, 1 columns) from fine cells to coarse channels and to fine ones."""
        raise NotImplementedError

    def needs(self, axis: int, first: int, last: int) -> tuple[Interval, Interval]:
        """Return the coarse cells whose coarse channels, and those whose fine channels, move fine cells.

        Parameters
        ----------
        axis : int
            0 rows, 1 columns.
        first, last : int
            The first and last fine cell.
        """
        coarse, fine = self.paths(axis)
        low, high = fine.needs(first, last)
        return coarse.needs(first, last), (low // self.factor[axis], high // self.factor[axis])

    def reach(self, axis: int) -> int:
        """Return how many coarse cells along an axis a fine cell looks at, whatever the whole field tells it."""

        def needs(first: int, last: int) -> Interval:
            coarse, fine = self.needs(axis, first, last)
            return min(coarse[0], fine[0]), max(coarse[1], fine[1])

        return reach(needs, self.factor[axis], self.multiple_of)

    @property
    def halo(self) -> int | None:
        """Coarse cells away whose channels move a fine cell, tight; None: all of them."""
        return None if self.whole else max(self.reach(0), self.reach(1))
