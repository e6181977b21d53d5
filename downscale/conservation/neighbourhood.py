"""Bounds on the conservation error near each coarse cell, for grids that do not nest.

A fine value ``y`` is the mean of an unknown field over its cell. An expected value ``p`` is that of a field with the
coarse means. Their difference ``e = y - p`` is then the mean of a field ``h`` whose mean over any coarse cell is zero.
The average of ``e`` over a coarse cell differs from zero only by the variation of ``h`` within the fine cells that
cross its border: ``|A e| <= sum of share (1 - a) D``, where ``a`` is the fraction of a fine cell inside and ``D`` the
range of ``h`` in it. ``D`` is estimated from ``e`` itself, as the range over the fine cell and its eight neighbours. If
nearly all fine values equal the expected ones, the largest and the smallest of the nine are left out, so that one wrong
value does not excuse itself: such a field is checked to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from downscale.conservation.measures import Partial, peak_of, smallest_magnitude
from downscale.grid.parts import Parts
from downscale.kernels.compiled import compiled

Floats = NDArray[np.float64]
# Allowed ratio of the range within a fine cell to that over means of neighbours: if nearly all values are the expected
# ones, and for fields of any method (twice the maximum of all methods on real fields, see the guide).
STRICT, MARGIN = 2.0, 4.0
# Fraction of the fine values of a map that must equal the expected ones if these vary.
SAME = 0.9


@dataclass(frozen=True, eq=False)
class Line:
    """Overlaps of the cells of one axis with those of another.

    Attributes
    ----------
    inside : sparse matrix, shape (n_coarse, n_fine)
        Measures of the common parts.
    squared : sparse matrix
        The same times the fraction of the fine cell that each part covers.
    """

    inside: Any
    squared: Any

    @classmethod
    def of(cls, parts: Parts) -> Line:
        """Return the overlaps for the parts of an axis (cut: coarse, cutting: fine)."""
        used = np.flatnonzero(parts.owner >= 0)
        cell, owner, measure = used // parts.count, parts.owner[used], parts.measure[used]
        shape = parts.coarse.size, parts.target.size
        covered = np.bincount(owner, weights=measure, minlength=shape[1])
        fraction = measure / covered[owner]
        return cls(
            sparse.csr_matrix((measure, (cell, owner)), shape),
            sparse.csr_matrix((measure * fraction, (cell, owner)), shape),
        )


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """Grid data for the bound of each coarse cell, independent of the field.

    Attributes
    ----------
    y, x : Line
        Overlaps along rows and columns.
    total : array, shape (n_fine_y, n_fine_x)
        Measures of the covered parts of the fine cells.
    closed : bool
        Whether the last fine column neighbours the first.
    hidden : array of bool, shape (n_fine_y, n_fine_x), or None
        Fine cells that are intentionally blank.
    """

    y: Line
    x: Line
    total: Floats
    closed: bool
    hidden: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, parts: tuple[Parts, Parts], hidden: NDArray[np.bool_] | None = None) -> Neighbourhoods:
        """Return the data for a coarse grid whose cells are cut by those of a fine one, by rows and columns."""
        y, x = map(Line.of, parts)
        covered = [np.asarray(line.inside.sum(axis=0)).ravel() for line in (y, x)]
        return cls(y, x, np.multiply.outer(*covered), bool(parts[1].target.periodic), hidden)

    def sums(self, values: Floats, squared: bool = False) -> Floats:
        """Return integrals over coarse cells of a field on fine cells, shape (n_y, n_x)."""
        rows, columns = (line.squared if squared else line.inside for line in (self.y, self.x))
        return np.asarray((columns @ (rows @ values).T).T)


def near_chunk(
    given: Floats, made: Floats, expected: Floats, near: Neighbourhoods, origin: tuple[int, ...], allowed: float,
    extensive: bool = False, plain: bool = True,
) -> Partial:  # fmt: skip
    """Check whole maps of a fine field near each coarse cell against an expected one.

    Parameters
    ----------
    given, made, expected : arrays, shapes (..., n_y, n_x), (..., n_fine_y, n_fine_x) and the same
        Coarse values, fine values, and fine values with the coarse means by a known method; NaN marks missing cells.
    near : Neighbourhoods
        Data of the two grids.
    origin : tuple of int
        Index of the first map in the whole field.
    allowed : float
        Relative error that rounding explains.
    extensive : bool
        Whether values are sums over cells.
    plain : bool
        Whether the fine field may be the expected one: false if a terrain term was added to it.
    """
    excess, bounds = np.zeros(given.shape), np.zeros(given.shape)
    judged = np.zeros(given.shape, bool)
    smallest = smallest_magnitude(given, made)
    per = np.where(near.total > 0, near.total, 1.0) if extensive else 1.0
    own = ~near.hidden if near.hidden is not None else np.ones(made.shape[-2:], bool)
    whole = near.sums(own.astype(np.float64))
    for index in np.ndindex(given.shape[:-2]):
        values = np.asarray(made[index], np.float64) / per
        off = values - np.asarray(expected[index], np.float64) / per
        known = np.isfinite(off) & own
        off, size = np.where(known, off, np.nan), np.where(known, np.abs(values), 0.0)
        spread, varied = np.zeros(off.shape), np.zeros(off.shape)
        local_range(np.where(known, values, np.nan), near.closed, False, varied)
        equal = np.abs(np.where(known, off, 0.0)) <= 2 * allowed * size
        lively = known & (varied > 0)
        strict = plain and bool(lively.any()) and equal[lively].mean() >= SAME
        local_range(off, near.closed, strict, spread)
        flat = np.where(known, off, 0.0)
        # If part of a cell is missing, the rest of it is unknown.
        all_there = near.sums((own & ~known).astype(np.float64)) == 0
        some = all_there & (whole > 0) & np.isfinite(given[index])
        over = np.where(whole > 0, whole, 1.0)
        miss = np.abs(near.sums(flat)) / over
        across = np.maximum(near.sums(spread) - near.sums(spread, squared=True), 0.0) / over
        bound = (STRICT if strict else MARGIN) * across
        magnitude = near.sums(size) / over
        if not extensive:
            magnitude = np.maximum(magnitude, np.abs(np.where(some, given[index], 0.0)))
        scale = np.maximum(magnitude, max(smallest, np.finfo(np.float64).tiny))
        beyond = (miss - bound) / scale
        judged[index] = some
        excess[index] = np.where(some & (beyond > allowed), beyond, 0.0)
        typical = float(size[known].mean()) if known.any() else 0.0
        bounds[index] = np.where(some, bound, 0.0) / max(typical, smallest, np.finfo(np.float64).tiny)
    return Partial(
        near=peak_of(excess, origin),
        near_checked=int(judged.sum()),
        near_failed=int((excess > 0).sum()),
        near_bound=float(bounds.max(initial=0.0)),
    )


@compiled
def local_range(values, closed, inner, out):  # type: ignore[no-untyped-def]
    """Write the range over each value and its neighbours.

    Parameters
    ----------
    values : array, shape (n_y, n_x)
        NaN is left out.
    closed : bool
        Whether the last column neighbours the first.
    inner : bool
        Whether to leave out the largest and the smallest, too, if there are at least four values.
    out : array of the shape of ``values``
        Written; zero where a value is NaN.
    """
    n_y, n_x = values.shape
    for j in range(n_y):
        for i in range(n_x):
            out[j, i] = 0.0
            if np.isnan(values[j, i]):
                continue
            least, second_least, greatest, second_greatest, count = np.inf, np.inf, -np.inf, -np.inf, 0
            for dj in range(-1, 2):
                for di in range(-1, 2):
                    row, column = j + dj, i + di
                    if closed:
                        column = column % n_x
                    if row < 0 or row >= n_y or column < 0 or column >= n_x:
                        continue
                    value = values[row, column]
                    if np.isnan(value):
                        continue
                    count += 1
                    if value < least:
                        least, second_least = value, least
                    elif value < second_least:
                        second_least = value
                    if value > greatest:
                        greatest, second_greatest = value, greatest
                    elif value > second_greatest:
                        second_greatest = value
            out[j, i] = second_greatest - second_least if inner and count >= 4 else greatest - least
