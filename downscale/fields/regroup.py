"""Means of target cells from pieces of coarse cells, over the covered and valid part.

This is the second half of upsampling to a grid that does not nest. Fields are computed on the pieces into which target
edges cut the coarse cells, with cell conservation. Averaging the pieces to target cells conserves area integrals
exactly, and the mean of every region that is a union of coarse cells and of target cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.fields.aggregate import like, namespace
from downscale.grid.parts import Parts

Array = Any  # numpy.ndarray or torch.Tensor
# Area fractions are sums of differences; a smaller missing fraction than this is rounding.
SLACK = 1e-6


@dataclass(frozen=True, eq=False)
class Gathering:
    """The pieces of one axis that make up each target cell.

    Attributes
    ----------
    part : array of int, shape (n_target, k)
        Pieces, padded.
    measure : array, shape (n_target, k)
        Their measures, zero where padded.
    total : array, shape (n_target,)
        Measure of the whole target cell, whether covered or not.
    """

    part: NDArray[np.int64]
    measure: NDArray[np.float64]
    total: NDArray[np.float64]

    @classmethod
    def of(cls, parts: Parts, cells: NDArray[np.int64] | None = None) -> Gathering:
        """Return the pieces of the coarse ``cells`` (all by default), numbered in the order of these cells."""
        given = np.arange(parts.coarse.size) if cells is None else cells
        index = (given[:, None] * parts.count + np.arange(parts.count)).ravel()
        owner, measure = parts.owner[index], parts.measure[index]
        inside = np.flatnonzero(owner >= 0)
        order = inside[np.argsort(owner[inside], kind="stable")]
        number = np.bincount(owner[order], minlength=parts.target.size)
        first = np.cumsum(number) - number
        rank = np.arange(max(int(number.max(initial=0)), 1))
        held = rank < number[:, None]
        slot = order[np.minimum(first[:, None] + rank, max(order.size - 1, 0))] if order.size else np.zeros_like(held)
        return cls(np.where(held, slot, 0), np.where(held, measure[np.where(held, slot, 0)], 0.0), parts.target.measure)


@dataclass(frozen=True, eq=False)
class Regroup:
    """Means of target cells over the valid pieces that they cover.

    Notes
    -----
    Sums are in a fixed order, so that no chunking changes a bit. The weight of a target value in any area integral is
    the measure of its valid pieces, ``valid_measure``.
    """

    y: Gathering
    x: Gathering

    @classmethod
    def of(
        cls, y: Parts, x: Parts, rows: NDArray[np.int64] | None = None, columns: NDArray[np.int64] | None = None
    ) -> Regroup:
        """Return the operator for fields on the pieces of the coarse ``rows`` by ``columns``."""
        return cls(Gathering.of(y, rows), Gathering.of(x, columns))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the target."""
        return self.y.total.size, self.x.total.size

    def total(self, parts: Array) -> Array:
        """Return integrals over target cells: (..., n_parts_y, n_parts_x) -> (..., n_target_y, n_target_x)."""
        return _gathered(_gathered(parts, self.x, -1), self.y, -2)

    def valid_measure(self, mask: Array, reference: Array) -> Array:
        """Return the measure of the valid pieces of each target cell, in the data type of ``reference``."""
        xp = namespace(reference)
        return self.total(xp.where(mask, xp.ones_like(reference), xp.zeros_like(reference)))

    def mean(self, parts: Array, mask: Array | None = None, na_thres: float = 1.0) -> Array:
        """Return means over the valid pieces of target cells, NaN if none is valid.

        Parameters
        ----------
        parts : array
            Field on the pieces; values under the mask are ignored, NaN too.
        mask : array of bool, optional
            True for valid pieces.
        na_thres : float
            Maximum missing fraction of a target cell that still gets a value, 0 to 1; area outside the coarse domain is
            missing. 1 requires any valid piece, 0 all of them (as in xESMF).
        """
        xp = namespace(parts)
        whole = like(np.multiply.outer(self.y.total, self.x.total), parts)
        if mask is None:
            total = self.total(parts)
            valid = like(np.multiply.outer(self.y.measure.sum(axis=1), self.x.measure.sum(axis=1)), parts)
        else:
            total = self.total(xp.where(mask, parts, xp.zeros_like(parts)))
            valid = self.valid_measure(mask, parts)
        some = (valid > 0) & (1 - valid / whole <= na_thres + SLACK)
        return xp.where(some, total / xp.where(some, valid, xp.ones_like(valid)), xp.full_like(total, np.nan))

    def greatest(self, parts: Array) -> Array:
        """Return the largest value that each target cell covers, -inf if it covers only NaN or nothing.

        Rounding can put a mean above the largest of its values: an area fraction above 1.
        """
        xp = namespace(parts)
        valid = xp.where(xp.isnan(parts), xp.full_like(parts, -np.inf), parts)
        return _gathered(_gathered(valid, self.x, -1, xp.maximum), self.y, -2, xp.maximum)


def _gathered(
    field: Array, axis_parts: Gathering, axis: int, combine: Callable[[Array, Array], Array] | None = None
) -> Array:
    """Sum the pieces of target cells along one axis in their order, or combine them without weights."""
    wide = (slice(None), None) if axis == -2 else slice(None)

    def term(rank: int) -> Array:
        index, measure = axis_parts.part[:, rank], axis_parts.measure[:, rank]
        taken = field[..., index] if axis == -1 else field[..., index, :]
        if combine is None:
            return taken * like(measure, taken)[wide]
        held = like(measure, taken)[wide] > 0
        return namespace(taken).where(held, taken, namespace(taken).full_like(taken, -np.inf))

    return reduce(combine or add, (term(rank) for rank in range(axis_parts.part.shape[1])))
