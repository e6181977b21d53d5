"""Base class of the networks of learned models, with exact reach."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from downscale.nn.shapes import Interval, Layer, reach

Core = tuple[slice, slice]


class Network(nn.Module):
    """Base of the networks: detail from normalised coarse and fine channels.

    Attributes
    ----------
    factor : (int, int)
        Refinement of rows and columns.
    multiple_of : int
        Coarse cells per cell of the coarsest level. Any size is valid: fields are padded with zeros and cropped.
    whole : bool
        Whether a fine cell depends on the whole field.
    """

    multiple_of = 1
    whole = False
    # Options that may be zero, which removes the layer.
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"depth", "levels"})

    def __init__(self, factor: tuple[int, int]) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Return detail (B, outputs, ny * fy, nx * fx) from (B, C_c, ny, nx) and (B, C_f, ny * fy, nx * fx).

        ``core`` holds the coarse cells without padding, for networks that depend on the whole field.
        """
        raise NotImplementedError

    def paths(self, axis: int) -> tuple[Layer, Layer]:
        """Return the reach along an axis (0 rows, 1 columns) from fine cells to coarse channels and to fine ones."""
        raise NotImplementedError

    def needs(self, axis: int, first: int, last: int) -> tuple[Interval, Interval]:
        """Return the coarse cells whose coarse channels, and those whose fine channels, affect given fine cells.

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
        """Return the largest distance in coarse cells along an axis that affects a fine cell, without global layers."""

        def needs(first: int, last: int) -> Interval:
            coarse, fine = self.needs(axis, first, last)
            return min(coarse[0], fine[0]), max(coarse[1], fine[1])

        return reach(needs, self.factor[axis], self.multiple_of)

    @property
    def halo(self) -> int | None:
        """Largest distance of coarse cells whose channels affect a fine cell, tight; None for the whole field."""
        return None if self.whole else max(self.reach(0), self.reach(1))
