"""Division of an axis into blocks with halos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from downscale.errors import ShapeError


@dataclass(frozen=True)
class Span:
    """Coarse cells ``first`` to ``last`` (excluded) of an axis of ``size`` cells, across the seam if it is periodic."""

    first: int
    last: int
    size: int

    @property
    def length(self) -> int:
        """Number of cells."""
        return self.last - self.first

    @property
    def is_whole(self) -> bool:
        """Whether these are all cells of the axis."""
        return self.length == self.size

    @property
    def is_in_order(self) -> bool:
        """Whether these are all cells of the axis, in its own order."""
        return self.is_whole and self.first == 0

    @property
    def cells(self) -> NDArray[np.int64]:
        """Indices into the whole axis, wrapped."""
        return np.arange(self.first, self.last) % self.size

    def fine_cells(self, factor: int) -> NDArray[np.int64]:
        """Return the indices of the fine cells into the whole fine axis."""
        return (self.cells[:, None] * factor + np.arange(factor)).ravel()

    def slice_in(self, outer: Span, factor: int = 1) -> slice:
        """Return the slice of the fine cells of this span within those of ``outer``."""
        return slice((self.first - outer.first) * factor, (self.last - outer.first) * factor)


@dataclass(frozen=True)
class Cut:
    """One block along one axis: the cells of its result, those that the refinement needs, and the input cells."""

    core: Span
    refinement: Span
    input: Span


def cut_axis(
    chunks: Sequence[int], periodic: bool, halo: int | None, margin: int = 0, multiple_of: int = 1
) -> tuple[Cut, ...]:
    """Return the blocks of an axis, whose ``chunks`` are sizes in coarse cells.

    The upsampler reads ``halo`` cells beyond those of the refinement (None: all cells). The refinement needs ``margin``
    cells beyond the core. The number of input cells must be a multiple of ``multiple_of``.

    Examples
    --------
    >>> [ (c.input.first, c.input.last) for c in cut_axis([4, 4], periodic=False, halo=1)]
    [(0, 5), (3, 8)]
    """
    size = sum(chunks)
    if halo is None and len(chunks) > 1:
        raise ShapeError(
            f"expected uncut horizontal axes, since this method needs the whole field, received {len(chunks)} "
            "chunks; rechunk that axis to -1"
        )
    cuts, start = [], 0
    for length in chunks:
        core = Span(start, start + length, size)
        refinement = _widen(core, margin, periodic)
        source = _widen(refinement, size if halo is None else halo, periodic)
        cuts.append(Cut(core, source if source.is_whole else refinement, source))
        start += length
    lengths = [cut.input.length for cut in cuts if cut.input.length % multiple_of]
    if lengths:
        raise ShapeError(
            f"expected blocks of a multiple of {multiple_of} coarse cells, received {lengths[0]}; change the chunks"
        )
    return tuple(cuts)


def cut_span(first: int, last: int, size: int, periodic: bool, halo: int | None) -> Cut:
    """Return the single block of the cells ``first`` to ``last`` (excluded) with a halo of ``halo`` cells."""
    core = Span(first, last, size)
    source = _widen(core, size if halo is None else halo, periodic)
    if source.is_whole:
        core = core if first >= 0 and last <= size else source
    return Cut(core, core, source)


def _widen(span: Span, cells: int, periodic: bool) -> Span:
    first, last = span.first - cells, span.last + cells
    if not periodic:
        return Span(max(first, 0), min(last, span.size), span.size)
    # More cells than the full circle would only repeat it.
    return Span(first, last, span.size) if last - first < span.size else Span(0, span.size, span.size)
