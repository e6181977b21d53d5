"""Conservation errors between two grids that do not nest: by common region, and near each coarse cell.

The check compares the smallest regions that are unions of cells of both grids. Along each axis these regions end at the
edges that both grids share. A fine field is conservative if, in each region, its mean over the valid area of the coarse
field equals the mean of the coarse field. If one grid nests in the other, the regions are the larger cells.

Near each coarse cell, the error is bounded. A fine value ``y`` is the mean of an unknown field over its cell. An
expected value ``p`` is that of a field with the coarse means. Their difference ``e = y - p`` is then the mean of a
field ``h`` whose mean over any coarse cell is zero. The average of ``e`` over a coarse cell differs from zero only by
the variation of ``h`` within the fine cells that cross its border: ``|A e| <= sum of f (1 - a) D``, where ``f`` is the
area fraction of the fine cell in the coarse one, ``a`` the fraction of the fine cell inside, and ``D`` the range of
``h`` in it. ``D`` is estimated from ``e`` itself, as the range over the fine cell and its eight neighbours. If nearly
all fine values equal the expected ones, the largest and the smallest of the nine are left out, so that one wrong value
does not excuse itself: such a field is checked to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from downscale.conservation.measures import PartialResult, check_block, count_outside, peak_of, smallest_magnitude
from downscale.fields.aggregate import Aggregation, SupermeshMean
from downscale.grid.subcells import Subcells

Floats = NDArray[np.float64]
# Allowed ratio of the range within a fine cell to that over means of neighbours: if nearly all values are the expected
# ones, and for fields of any method (twice the maximum of all methods on real fields, see the guide).
STRICT, MARGIN = 2.0, 4.0
# Fraction of the fine values of a map that must equal the expected ones if these vary.
SAME_FRACTION = 0.9


@dataclass(frozen=True, eq=False)
class Regions:
    """The common regions of two axes, and the parts that make them up.

    ``coarse_cells`` and ``fine_cells`` are the cells of either axis that contain each part, ``first`` is the first part
    of each region. ``closed`` states whether the last region continues in the first, across the seam of a circle.
    """

    coarse_cells: NDArray[np.int64]
    fine_cells: NDArray[np.int64]
    measure: Floats
    first: NDArray[np.int64]
    closed: bool
    centres: Floats

    @classmethod
    def of(cls, parts: Subcells) -> Regions:
        """Return the regions of the axes of ``parts`` (cut: coarse, cutting: fine)."""
        parent = np.repeat(np.arange(parts.coarse.size), parts.count)
        # A part without a fine cell ends a region like a common edge.
        nonempty = np.flatnonzero(~parts.empty)
        owner, cell = parts.owner[nonempty], parent[nonempty]
        starts = np.ones(nonempty.size, dtype=bool)
        starts[1:] = (owner[1:] != owner[:-1]) & ((cell[1:] != cell[:-1]) | (owner[1:] < 0) | (owner[:-1] < 0))
        is_used = owner >= 0
        # If the first part is dropped, its mark moves to the next part in use.
        region = np.cumsum(starts)[is_used]
        first = np.flatnonzero(np.diff(region, prepend=0))
        index = nonempty[is_used]
        closed = parts.coarse.periodic and first.size > 1 and owner[0] == owner[-1] >= 0
        ends = np.append(first[1:], index.size) - 1
        centres = 0.5 * (parts.low[index[first]] + parts.high[index[ends]])
        return cls(
            cell[is_used], owner[is_used], parts.measure[index], first, bool(closed), centres[: centres.size - closed]
        )

    @cached_property
    def size(self) -> int:
        """Number of regions."""
        return self.first.size - int(self.closed)

    def one_of(self, cells: NDArray[np.int64]) -> bool:
        """Return whether each region is within one cell of an axis, given the cells of its parts."""
        return self.size == np.unique(cells).size

    def total(self, values: Floats, axis: int) -> Floats:
        """Sum values over the parts of each region along one axis."""
        sums = np.add.reduceat(values, self.first, axis=axis)
        if not self.closed:
            return sums
        last = np.take(sums, [-1], axis=axis)
        sums = np.delete(sums, -1, axis=axis)
        head = [slice(None)] * sums.ndim
        head[axis] = slice(0, 1)
        sums[tuple(head)] += last
        return sums


@dataclass(frozen=True, eq=False)
class Overlap:
    """Overlap of two grids, independent of the field and computed once for all blocks.

    ``visible_measure`` are the measures of coarse cells without hidden parts, ``outside`` counts coarse cells that are
    not covered completely. Each region is one coarse cell if ``single``, and one coarse or one fine cell if ``exact``.
    """

    y: Regions
    x: Regions
    groups: SupermeshMean
    repeats: tuple[int, int]
    visible_measure: Floats
    hidden: NDArray[np.bool_] | None
    hidden_parts: NDArray[np.bool_] | None
    outside: int
    single: bool
    exact: bool

    @property
    def parts_shape(self) -> tuple[int, int]:
        """Rows and columns of parts."""
        return self.visible_measure.shape[0] * self.repeats[0], self.visible_measure.shape[1] * self.repeats[1]

    @classmethod
    def of(cls, parts: tuple[Subcells, Subcells], hidden: NDArray[np.bool_] | None = None) -> Overlap:
        """Return the overlap of a coarse grid with a fine one that cuts its cells, by rows and columns."""
        y, x = parts
        hidden_parts = None if hidden is None else hidden[np.ix_(y.owner, x.owner)]
        full_counts = [((p.owner >= 0) | p.empty).reshape(-1, p.count).all(axis=1).sum() for p in parts]
        regions = Regions.of(y), Regions.of(x)
        return cls(
            *regions, SupermeshMean.of(y, x), (y.count, x.count), _visible_measure(parts, hidden_parts),
            hidden, hidden_parts, int(y.coarse.size * x.coarse.size - full_counts[0] * full_counts[1]),
            all(axis.one_of(axis.coarse_cells) for axis in regions),
            all(axis.one_of(axis.coarse_cells) or axis.one_of(axis.fine_cells) for axis in regions),
        )  # fmt: skip


def check_regions(
    coarse: Floats,
    fine: Floats,
    common: Overlap,
    origin: tuple[int, ...],
    bounds: tuple[float | None, float | None] = (None, None),
    *,
    extensive: bool = False,
    na_thres: float = 1.0,
) -> PartialResult:
    """Return the conservation errors of whole maps by region; a fine value represents the valid part of its cell.

    ``origin`` is the index of the first map in the whole field. Values out of bounds are counted if the coarse field is
    within them. Regions with a fine cell whose missing fraction exceeds ``na_thres`` are left out.
    """
    y, x, groups = common.y, common.x, common.groups
    coarse_values, fine_values = coarse.astype(np.float64), fine.astype(np.float64)
    if extensive:
        coarse_values = coarse_values / common.visible_measure
    on_parts = np.repeat(np.repeat(np.isfinite(coarse_values), common.repeats[0], axis=-2), common.repeats[1], axis=-1)
    if common.hidden_parts is not None:
        on_parts = on_parts & ~common.hidden_parts
    measure = groups.apply_mask(on_parts).valid_measure
    if extensive:
        fine_values = np.divide(fine_values, measure, out=np.full_like(fine_values, np.nan), where=measure > 0)
    area_fraction = measure / groups.cell_measure
    is_blank = np.isnan(fine_values) & (1 - area_fraction > na_thres)
    parents, cells = np.ix_(y.coarse_cells, x.coarse_cells), np.ix_(y.fine_cells, x.fine_cells)
    a, b = coarse_values[..., parents[0], parents[1]], fine_values[..., cells[0], cells[1]]
    part_blank = is_blank[..., cells[0], cells[1]]
    valid = np.isfinite(a)
    if common.hidden is not None:
        # Conservation concerns valid parts only, and these are not valid.
        valid = valid & ~common.hidden[cells]
        part_blank = part_blank & ~common.hidden[cells]
    missing = valid & ~part_blank & np.isnan(b)
    weight = np.where(valid & ~missing & ~part_blank, np.multiply.outer(y.measure, x.measure), 0.0)
    # In place, one after the other: on the common pieces of two grids a copy is much larger than the field.
    a[weight <= 0] = 0.0
    b[weight <= 0] = 0.0
    with np.errstate(invalid="ignore"):
        a *= weight
        b *= weight
        sums = [_sum(a, y, x), _sum(b, y, x), _sum(np.abs(b, out=b), y, x), _sum(weight, y, x)]
    # The content of a blank cell is unknown: its region cannot be checked.
    whole_region = _sum((valid & part_blank).astype(float), y, x) == 0
    sums = [np.where(whole_region, term, 0.0) for term in sums]
    lost = int((_sum(missing.astype(float), y, x) > 0).sum())
    return _compare_means(sums, (coarse, fine), lost, measure, origin, bounds)


def _visible_measure(parts: tuple[Subcells, Subcells], hidden_parts: NDArray[np.bool_] | None) -> Floats:
    y, x = parts
    measure = np.multiply.outer(y.coarse.measure, x.coarse.measure)
    if hidden_parts is None:
        return measure
    visible = ~hidden_parts | (y.owner < 0)[:, None] | (x.owner < 0)
    area_fraction = Aggregation(y.area_fraction, x.area_fraction, y.count, x.count).apply_mask(visible).valid_fraction
    return measure * np.where(area_fraction > 0, area_fraction, 1.0)


def _sum(values: Floats, y: Regions, x: Regions) -> Floats:
    return y.total(x.total(values, -1), -2)


def _compare_means(
    sums: list[Floats], fields: tuple[Floats, Floats], lost: int, measure: Floats, origin: tuple[int, ...],
    bounds: tuple[float | None, float | None],
) -> PartialResult:  # fmt: skip
    """Return the errors of regions from their integrals: coarse, fine, magnitude and measure."""
    coarse, fine = fields
    x, y, size = (np.divide(term, sums[3], out=np.full_like(term, np.nan), where=sums[3] > 0) for term in sums[:3])
    # Infinite values of both signs sum to NaN: the error is infinite all the same.
    y[np.isnan(y) & (sums[3] > 0)] = np.inf
    single = Aggregation(np.ones(x.shape[-2]), np.ones(x.shape[-1]), 1, 1)
    smallest = smallest_magnitude(coarse, fine)
    partial = check_block(x, y, single, np.ones(x.shape[-2:]), origin, sizes=size, smallest=smallest)
    with np.errstate(invalid="ignore"):
        maps = np.stack([sums[i].sum(axis=(-2, -1)) for i in (1, 0, 2)])
    values = coarse[np.isfinite(coarse)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    feasible = (bounds[0] is None or low >= bounds[0]) and (bounds[1] is None or high <= bounds[1])
    return replace(
        partial,
        cells_lost=lost,
        cells_invented=int((~np.isnan(fine) & (measure == 0)).sum()),
        values_out_of_bounds=count_outside(fine, bounds) if feasible else 0,
        sums={tuple(origin[:-2]): maps},
    )


@dataclass(frozen=True, eq=False)
class AxisOverlap:
    """Overlaps of coarse with fine cells of one axis: measures, and ``squared`` times the fraction of the fine cell."""

    inside: Any
    squared: Any

    @classmethod
    def of(cls, parts: Subcells) -> AxisOverlap:
        """Return the overlaps for the parts of an axis (cut: coarse, cutting: fine)."""
        indices = np.flatnonzero(parts.owner >= 0)
        cell, owner, measure = indices // parts.count, parts.owner[indices], parts.measure[indices]
        shape = parts.coarse.size, parts.target.size
        covered_measure = np.bincount(owner, weights=measure, minlength=shape[1])
        fraction = measure / covered_measure[owner]
        return cls(
            parts.overlap,
            sparse.csr_matrix((measure * fraction, (cell, owner)), shape),
        )


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """Grid data for the bound of each coarse cell, independent of the field.

    ``total`` are the covered measures of the fine cells, of which ``hidden`` ones are intentionally blank; ``closed``
    states whether the last fine column neighbours the first.
    """

    y: AxisOverlap
    x: AxisOverlap
    total: Floats
    closed: bool
    hidden: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, parts: tuple[Subcells, Subcells], hidden: NDArray[np.bool_] | None = None) -> Neighbourhoods:
        """Return the data for a coarse grid whose cells are cut by those of a fine one, by rows and columns."""
        y, x = map(AxisOverlap.of, parts)
        covered_measures = [np.asarray(line.inside.sum(axis=0)).ravel() for line in (y, x)]
        return cls(y, x, np.multiply.outer(*covered_measures), bool(parts[1].target.periodic), hidden)

    def sums(self, values: Floats, squared: bool = False) -> Floats:
        """Return integrals over coarse cells of a field on fine cells, shape (n_y, n_x)."""
        rows, columns = (line.squared if squared else line.inside for line in (self.y, self.x))
        return np.asarray((columns @ (rows @ values).T).T)


def check_neighbourhoods(
    coarse: Floats, fine: Floats, expected_fine: Floats, near: Neighbourhoods, origin: tuple[int, ...],
    tolerance: float, extensive: bool = False, plain: bool = True,
) -> PartialResult:  # fmt: skip
    """Return the excess of each coarse cell over its bound, for whole maps compared with an expected fine field.

    ``tolerance`` is the relative error that rounding explains. ``plain`` is false if a terrain term was added to the
    fine field, which then differs from the expected one.
    """
    excess, bounds = np.zeros(coarse.shape), np.zeros(coarse.shape)
    is_checked = np.zeros(coarse.shape, bool)
    smallest = smallest_magnitude(coarse, fine)
    cell_measure = np.where(near.total > 0, near.total, 1.0) if extensive else 1.0
    visible = ~near.hidden if near.hidden is not None else np.ones(fine.shape[-2:], bool)
    measures = near.sums(visible.astype(np.float64))
    for index in np.ndindex(coarse.shape[:-2]):
        values = np.asarray(fine[index], np.float64) / cell_measure
        difference = values - np.asarray(expected_fine[index], np.float64) / cell_measure
        valid = np.isfinite(difference) & visible
        difference, size = np.where(valid, difference, np.nan), np.where(valid, np.abs(values), 0.0)
        value_ranges = _local_range(np.where(valid, values, np.nan), near.closed)
        equal = np.abs(np.where(valid, difference, 0.0)) <= 2 * tolerance * size
        varying = valid & (value_ranges > 0)
        strict = plain and bool(varying.any()) and equal[varying].mean() >= SAME_FRACTION
        ranges = _local_range(difference, near.closed, inner=strict)
        filled_difference = np.where(valid, difference, 0.0)
        # If part of a cell is missing, the rest of it is unknown.
        is_complete = near.sums((visible & ~valid).astype(np.float64)) == 0
        checked = is_complete & (measures > 0) & np.isfinite(coarse[index])
        divisor = np.where(measures > 0, measures, 1.0)
        mean_error = np.abs(near.sums(filled_difference)) / divisor
        variation = np.maximum(near.sums(ranges) - near.sums(ranges, squared=True), 0.0) / divisor
        bound = (STRICT if strict else MARGIN) * variation
        magnitude = near.sums(size) / divisor
        if not extensive:
            magnitude = np.maximum(magnitude, np.abs(np.where(checked, coarse[index], 0.0)))
        scale = np.maximum(magnitude, max(smallest, np.finfo(np.float64).tiny))
        relative_excess = (mean_error - bound) / scale
        is_checked[index] = checked
        excess[index] = np.where(checked & (relative_excess > tolerance), relative_excess, 0.0)
        typical = float(size[valid].mean()) if valid.any() else 0.0
        bounds[index] = np.where(checked, bound, 0.0) / max(typical, smallest, np.finfo(np.float64).tiny)
    return PartialResult(
        near=peak_of(excess, origin),
        near_checked=int(is_checked.sum()),
        near_failed=int((excess > 0).sum()),
        near_bound=float(bounds.max(initial=0.0)),
    )


def _local_range(values: Floats, closed: bool, inner: bool = False) -> Floats:
    """Return the range over each value and its neighbours, without NaN; zero where a value is NaN.

    ``closed`` states whether the last column neighbours the first. With ``inner`` the largest and the smallest are left
    out, too, if there are at least four values.
    """
    wide = np.pad(values, 1, constant_values=np.nan)
    if closed:
        wide[:, 0], wide[:, -1] = wide[:, -2].copy(), wide[:, 1].copy()
    is_missing = np.isnan(wide)
    low_padded, high_padded = np.where(is_missing, np.inf, wide), np.where(is_missing, -np.inf, wide)
    low, second_low = np.full((2, *values.shape), np.inf)
    high, second_high = np.full((2, *values.shape), -np.inf)
    # Written in place: new arrays take longer than the comparisons.
    count, inside = np.zeros(values.shape, np.int8), np.empty(values.shape)
    for row, column in np.ndindex(3, 3):
        window = slice(row, row + values.shape[0]), slice(column, column + values.shape[1])
        lower, upper = low_padded[window], high_padded[window]
        if inner:
            np.minimum(second_low, np.maximum(low, lower, out=inside), out=second_low)
            np.maximum(second_high, np.minimum(high, upper, out=inside), out=second_high)
            count += ~is_missing[window]
        np.minimum(low, lower, out=low)
        np.maximum(high, upper, out=high)
    with np.errstate(invalid="ignore"):
        ranges = np.where(count >= 4, second_high - second_low, high - low) if inner else high - low
    return np.where(np.isnan(values), 0.0, ranges)
