"""The supermesh of two axes: the subcells into which target edges cut coarse cells, and their overlaps.

Each coarse cell has the same number of subcells, so that fields on them are plain arrays; cells with fewer subcells are
padded with empty ones of zero measure. Months cut into days, and cells cut by a grid that does not nest, are handled
alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from downscale.errors import GridError
from downscale.grid.axis import FULL_CIRCLE, CellAxis, Kind, check_factor, edge_tolerance, measure_edges_of, measure_of
from downscale.grid.sphere import EARTH_RADIUS

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Subcells:
    """The parts of the cells of an axis in the order of the coarse axis: ``count`` per coarse cell, also empty ones.

    ``low`` and ``high`` are edges in the coordinate; an empty part has zero measure and repeats the previous one.
    ``owner`` is the target cell that contains each part, -1 for parts outside the target and empty ones. Edges of
    ``target`` that equal coarse ones within rounding are equal to the last digit. Invariant: the fractions of the parts
    of a coarse cell add up to one.
    """

    coarse: CellAxis
    target: CellAxis
    count: int
    low: Floats
    high: Floats
    owner: Indices
    empty: NDArray[np.bool_]

    @classmethod
    def from_factor(cls, coarse: CellAxis, factor: int) -> Subcells:
        """Return the parts of each cell cut into ``factor`` ones that are equal in the coordinate.

        Examples
        --------
        >>> Subcells.from_factor(CellAxis(np.array([0.0, 10.0, 20.0]), "longitude"), 2).low
        array([ 0.,  5., 10., 15.])
        """
        return cls.from_nested(coarse, coarse.refine(check_factor(factor)), factor)

    @classmethod
    def from_nested(cls, coarse: CellAxis, fine: CellAxis, factor: int) -> Subcells:
        """Return the cells of ``fine`` as parts, ``factor`` per coarse cell, in the same order (without checks)."""
        owner = np.arange(fine.size)
        return cls(coarse, fine, factor, fine.edges[:-1], fine.edges[1:], owner, np.zeros(fine.size, dtype=bool))

    @classmethod
    def between(cls, coarse: CellAxis, target: CellAxis) -> Subcells:
        """Return the parts of the cells of one axis cut at the edges of another of the same kind.

        Target edges that differ from a coarse edge only by rounding are replaced by it.

        Examples
        --------
        >>> thirds = Subcells.between(CellAxis([0, 2, 4], "projected"), CellAxis([0, 3, 6], "projected"))
        >>> thirds.low.tolist(), thirds.high.tolist(), thirds.owner.tolist()
        ([0.0, 0.0, 2.0, 3.0], [2.0, 2.0, 3.0, 4.0], [0, -1, 0, 1])
        """
        if coarse.kind != target.kind:
            raise GridError(f"expected two axes of one kind, received {coarse.kind} and {target.kind}")
        sign, target = (1.0 if coarse.ascending else -1.0), _match_edges(target, coarse)
        edges, (low, high, cell) = sign * coarse.edges, _intervals(coarse, target, sign)
        if not cell.size:
            raise GridError(
                f"expected a target that overlaps the {coarse.kind} range {coarse.edges.min():g} to "
                f"{coarse.edges.max():g}, received {target.edges.min():g} to {target.edges.max():g}"
            )
        target_edges = np.concatenate([low, high])
        cuts = np.unique(np.concatenate([edges, target_edges[(target_edges > edges[0]) & (target_edges < edges[-1])]]))
        middle = 0.5 * (cuts[:-1] + cuts[1:])
        parent = np.searchsorted(edges, middle) - 1
        nearest = np.clip(np.searchsorted(low, middle) - 1, 0, cell.size - 1)
        owner = np.where((low[nearest] < middle) & (middle < high[nearest]), cell[nearest], -1)
        return _pad_cells(coarse, target, sign, cuts, parent, owner)

    @property
    def size(self) -> int:
        """Number of parts, including empty ones."""
        return self.owner.size

    @property
    def regular(self) -> bool:
        """Whether every part is a whole target cell and every target cell one part: the target nests evenly."""
        one_to_one = not self.empty.any() and (self.owner >= 0).all() and np.unique(self.owner).size == self.owner.size
        return bool(one_to_one and self.owner.size == self.target.size and (self.covered_fraction > 1 - 1e-6).all())

    @property
    def axis(self) -> CellAxis:
        """Regular parts as cells of one axis, in the order of the coarse one and with its exact edges."""
        return CellAxis(np.append(self.low, self.high[-1]), self.coarse.kind, self.coarse.closed)

    @cached_property
    def measure(self) -> Floats:
        """Measures of the parts; zero for empty ones."""
        return np.where(self.empty, 0.0, measure_of(self.low, self.high, self.coarse.kind))

    @cached_property
    def measure_pairs(self) -> tuple[Floats, Floats]:
        """Edges of the parts in the measure coordinate, in the order of the coarse axis."""
        return measure_edges_of(self.low, self.coarse.kind), measure_edges_of(self.high, self.coarse.kind)

    @cached_property
    def centres(self) -> Floats:
        """Midpoints of the parts in the coordinate."""
        return 0.5 * (self.low + self.high)

    @cached_property
    def area_fraction(self) -> Floats:
        """Fractions of the parts in the measure of their coarse cell; those of a cell add up to one.

        If the border of the target crosses a cell, the part outside has no weight: the part inside gets the value of
        the cell, so that area integrals over the target are those of the area that it covers.
        """
        is_inside = (self.owner >= 0).reshape(-1, self.count)
        parts = self.measure.reshape(-1, self.count)
        parts = np.where(is_inside | ~is_inside.any(axis=1, keepdims=True), parts, 0.0)
        return (parts / parts.sum(axis=1, keepdims=True)).ravel()

    def coarse_range(self) -> tuple[int, int]:
        """Return the first and the last (excluded) coarse cell under the target; negative across the seam of a circle.

        Examples
        --------
        >>> circle = CellAxis(np.arange(0, 361, 90.0), "longitude")
        >>> Subcells.between(circle, CellAxis(np.array([-30.0, 30.0]), "longitude")).coarse_range()
        (-1, 1)
        """
        cells = np.flatnonzero((self.owner.reshape(-1, self.count) >= 0).any(axis=1))
        first, last, size = int(cells[0]), int(cells[-1]) + 1, self.coarse.size
        steps = np.diff(cells)
        if self.coarse.periodic and steps.size and steps.max() > size - (last - first) + 1:
            widest = int(steps.argmax())
            return int(cells[widest + 1]) - size, int(cells[widest]) + 1
        return first, last

    @property
    def cells_per_coarse(self) -> float:
        """Number of target cells per coarse cell, from their mean widths."""
        coarse, target = (float(np.ptp(axis.edges)) / axis.size for axis in (self.coarse, self.target))
        return coarse / target

    @cached_property
    def overlap(self) -> csr_array:
        """Common measures of coarse and target cells, shape (n_coarse, n_target)."""
        inside = np.flatnonzero(self.owner >= 0)
        shape = self.coarse.size, self.target.size
        return csr_array((self.measure[inside], (inside // self.count, self.owner[inside])), shape)

    @cached_property
    def covered_fraction(self) -> Floats:
        """Fraction of each target cell that the coarse axis covers, 0 to 1, shape (n_target,)."""
        is_inside = self.owner >= 0
        total = np.bincount(self.owner[is_inside], weights=self.measure[is_inside], minlength=self.target.size)
        return np.minimum(total / self.target.measure, 1.0)


def _common_tolerance(coarse: CellAxis, target: CellAxis) -> float:
    # The narrower cells determine the misfit: a minute is not rounding of a year.
    return min(edge_tolerance(axis.edges, np.diff(axis.edges)) for axis in (coarse, target))


def _match_edges(target: CellAxis, coarse: CellAxis) -> CellAxis:
    """Return the target with edges that differ from a coarse edge only by rounding moved onto it.

    Its cells and their parts then have the same edges, so that no part is missing by rounding.
    """
    tolerance, edges = _common_tolerance(coarse, target), np.sort(coarse.edges)
    turns = np.zeros(target.edges.size)
    if coarse.kind == "longitude":
        turns = FULL_CIRCLE * np.floor((target.edges - edges[0] + tolerance) / FULL_CIRCLE)
    nearest = _snap(target.edges - turns, edges, tolerance)
    is_moved = nearest != target.edges - turns
    target_edges = np.where(is_moved, nearest + turns, target.edges)
    if target.kind == "longitude" and target.periodic and is_moved[[0, -1]].any():
        # The two ends of a circle are one edge.
        target_edges[-1] = target_edges[0] + np.copysign(FULL_CIRCLE, target_edges[-1] - target_edges[0])
    return CellAxis(target_edges, target.kind, target.closed)


def _intervals(coarse: CellAxis, target: CellAxis, sign: float) -> tuple[Floats, Floats, Indices]:
    """Return the target cells over the coarse axis, on its branch and in its direction, sorted, and their indices."""
    tolerance = _common_tolerance(coarse, target)
    low = np.minimum(sign * target.edges[:-1], sign * target.edges[1:])
    high = np.maximum(sign * target.edges[:-1], sign * target.edges[1:])
    edges, cell = sign * coarse.edges, np.arange(target.size)
    if coarse.kind == "longitude":
        first = np.ceil((edges[0] - high.max()) / FULL_CIRCLE)
        turns = FULL_CIRCLE * np.arange(first, np.floor((edges[-1] - low.min()) / FULL_CIRCLE) + 1)
        low, high = np.add.outer(turns, low).ravel(), np.add.outer(turns, high).ravel()
        cell = np.tile(cell, turns.size)
    low, high = _snap(low, edges, tolerance), _snap(high, edges, tolerance)
    overlaps = (high > edges[0]) & (low < edges[-1]) & (high > low)
    order = np.argsort(low[overlaps], kind="stable")
    return low[overlaps][order], high[overlaps][order], cell[overlaps][order]


def _snap(values: Floats, edges: Floats, tolerance: float) -> Floats:
    """Return the values, with those that differ from an edge by rounding moved onto it."""
    right = np.clip(np.searchsorted(edges, values), 1, edges.size - 1)
    nearest = np.where(values - edges[right - 1] < edges[right] - values, edges[right - 1], edges[right])
    return np.where(np.abs(nearest - values) <= tolerance, nearest, values)


def _pad_cells(
    coarse: CellAxis, target: CellAxis, sign: float, cuts: Floats, parent: Indices, owner: Indices
) -> Subcells:
    """Return the parts with the same number per coarse cell."""
    number = np.bincount(parent, minlength=coarse.size)
    count, first = int(number.max()), np.cumsum(number) - number
    rank = np.arange(count)
    part = (first[:, None] + np.minimum(rank, number[:, None] - 1)).ravel()
    empty = (rank >= number[:, None]).ravel()
    low, high = sign * cuts[part], sign * cuts[part + 1]
    return Subcells(coarse, target, count, low, high, np.where(empty, -1, owner[part]), empty)


@dataclass(frozen=True, eq=False)
class SubcellGrid:
    """The product of the parts of two axes, for fields that are averaged to target cells afterwards."""

    y: Subcells
    x: Subcells

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns, including empty parts."""
        return self.y.size, self.x.size

    @property
    def unit_area(self) -> float:
        """Area in m2 of a unit product of measures, which is a steradian on the sphere."""
        return EARTH_RADIUS**2 if self.y.coarse.kind == "latitude" else 1.0

    @property
    def cell_area(self) -> Floats:
        """Areas of the parts in m2, zero for empty ones, shape (n_y, n_x)."""
        return self.unit_area * np.multiply.outer(self.y.measure, self.x.measure)

    def areas(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
        """Return the areas of some rows and columns of parts."""
        return self.unit_area * np.multiply.outer(self.y.measure[rows], self.x.measure[columns])


def overlap_weights(source: CellAxis, target: CellAxis | Subcells) -> Floats:
    """Return :func:`overlap_matrix` as a dense array, shape (n_target, n_source)."""
    return overlap_matrix(source, target).toarray()


def overlap_matrix(source: CellAxis, target: CellAxis | Subcells) -> csr_array:
    """Return the sparse area fraction of each source cell in each target cell (or part), shape (n_target, n_source).

    Rows add up to one if the source covers the target cell completely, else to the covered fraction.
    """
    start, stop, kind = _cells(target)
    if source.kind != kind:
        raise GridError(f"expected two axes of one kind, received {source.kind} and {kind}")
    low, high = np.minimum(start, stop), np.maximum(start, stop)
    spans, measure = _spans(low, high, kind), measure_of(start, stop, kind)
    total = csr_array((start.size, source.size))
    for shift in _turns(source, low, high) if kind == "longitude" else (0.0,):
        rows, columns, lengths = _lengths(_spans(source.edges[:-1] + shift, source.edges[1:] + shift, kind), spans)
        total += csr_array((lengths / measure[rows], (rows, columns)), total.shape)
    return total


def _cells(target: CellAxis | Subcells) -> tuple[Floats, Floats, Kind]:
    if isinstance(target, Subcells):
        # An empty part repeats its neighbour: it takes the same value and has no weight.
        return target.low, target.high, target.coarse.kind
    return target.edges[:-1], target.edges[1:], target.kind


def _turns(source: CellAxis, low: Floats, high: Floats) -> Floats:
    """Return all multiples of 360 degrees that can bring source longitudes onto target longitudes."""
    first = np.ceil((low.min() - source.edges.max()) / FULL_CIRCLE)
    last = np.floor((high.max() - source.edges.min()) / FULL_CIRCLE)
    return FULL_CIRCLE * np.arange(first, last + 1)


def _spans(start: Floats, stop: Floats, kind: Kind) -> Floats:
    return np.sort(np.stack([measure_edges_of(start, kind), measure_edges_of(stop, kind)]), axis=0)


def _lengths(source: Floats, target: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return target cell, source cell and common length of all pairs that overlap; source cells follow each other."""
    order = np.argsort(source[0], kind="stable")
    lower, upper = source[:, order]
    first = np.searchsorted(upper, target[0], side="right")
    count = np.maximum(np.searchsorted(lower, target[1], side="left") - first, 0)
    rows = np.repeat(np.arange(count.size), count)
    position = np.arange(rows.size) - np.repeat(np.cumsum(count) - count, count)
    columns = first[rows] + position
    lengths = np.minimum(target[1][rows], upper[columns]) - np.maximum(target[0][rows], lower[columns])
    return rows, order[columns], np.clip(lengths, 0.0, None)
