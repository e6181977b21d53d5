"""Linear operators between grids as sorted sparse weights: target, source, weight.

Sums are over the links of a target cell in the order of their sources. Neither the chunks of a field nor the order of
links in a file changes a bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from downscale.errors import OptionError, ShapeError
from downscale.grid.corners import Cells

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

# Links per batch, which bounds the memory of an application.
BLOCK_LINKS = 4_000_000
# If weights of both signs lose a source, the rest may nearly cancel; a result that would amplify values beyond this is
# not usable. Weights of one sign amplify nothing.
MOST_GAIN = 10.0
# Fractions are sums of rounded weights.
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class SparseWeights:
    """A linear operator from source cells to target cells; create it with :meth:`from_links` or :meth:`from_axes`.

    Attributes
    ----------
    row, col : array of int32, shape (n_links,)
        Target and source cell of each link, from zero, row by row of each grid; sorted by target, then by source.
    weight : array of float64, shape (n_links,)
        Never zero. If the weights of a target add up to one, constants are preserved.
    source_shape, target_shape : (n_y, n_x) or (n,)
        Shapes of the two grids.
    source, target : Cells, optional
        The cells, if known.
    """

    row: Ints
    col: Ints
    weight: Floats
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    source: Cells | None = None
    target: Cells | None = None

    @classmethod
    def from_links(
        cls, row: ArrayLike, col: ArrayLike, weight: ArrayLike, source_shape: tuple[int, ...],
        target_shape: tuple[int, ...], source: Cells | None = None, target: Cells | None = None,
    ) -> SparseWeights:  # fmt: skip
        """Return the operator of links counted from zero, in any order; zero weights are dropped.

        Raises
        ------
        ShapeError
            If the lists differ in length, or a grid has too many cells to number.
        """
        for shape in (source_shape, target_shape):
            _check_countable(shape)
        rows, cols = np.asarray(row).astype(np.int32), np.asarray(col).astype(np.int32)
        weights = np.asarray(weight, dtype=np.float64)
        if not rows.shape == cols.shape == weights.shape or weights.ndim != 1:
            raise ShapeError(
                f"expected three lists of links of one length, received {rows.shape}, {cols.shape}, {weights.shape}"
            )
        if not weights.all():
            nonzero = weights != 0
            rows, cols, weights = rows[nonzero], cols[nonzero], weights[nonzero]
        row_steps, col_steps = np.diff(rows), np.diff(cols)
        if (row_steps < 0).any() or ((row_steps == 0) & (col_steps < 0)).any():
            order = np.lexsort((cols, rows))
            rows, cols, weights = rows[order], cols[order], weights[order]
        return cls(rows, cols, weights, tuple(source_shape), tuple(target_shape), source, target)

    @classmethod
    def from_axes(
        cls, along_y: ArrayLike, along_x: ArrayLike, source: Cells | None = None, target: Cells | None = None
    ) -> SparseWeights:
        """Return the product of one matrix per axis: ``fine = along_y @ coarse @ along_x.T``.

        Parameters
        ----------
        along_y, along_x : array, shapes (n_target_y, n_source_y) and (n_target_x, n_source_x)
            Weights of each axis; zeros give no link.

        Examples
        --------
        >>> double = SparseWeights.from_axes([[1.0], [1.0]], [[0.5, 0.5]])
        >>> double.apply(np.array([[1.0, 3.0]])).tolist()
        [[2.0], [2.0]]
        """
        y, x = np.asarray(along_y, dtype=np.float64), np.asarray(along_x, dtype=np.float64)
        sources, targets = (y.shape[1], x.shape[1]), (y.shape[0], x.shape[0])
        for shape in (sources, targets):
            _check_countable(shape)
        return cls.from_links(*_product(y, x), sources, targets, source, target)

    def sums(self) -> Floats:
        """Return the sum of the weights of each target cell, shape ``target_shape``; zero for cells without links."""
        sums: Floats = np.bincount(self.row, self.weight, int(np.prod(self.target_shape))).astype(np.float64)
        return sums.reshape(self.target_shape)

    def adjoint(self, values: ArrayLike) -> Floats:
        """Return the sum over targets of weight times ``values`` for each source cell, shape ``source_shape``.

        With target areas it gives source areas if area integrals are conserved.
        """
        products = self.weight * np.asarray(values, dtype=np.float64).ravel()[self.row]
        sums: Floats = np.bincount(self.col, products, int(np.prod(self.source_shape))).astype(np.float64)
        return sums.reshape(self.source_shape)

    def apply(self, values: ArrayLike, *, skipna: bool = True, na_thres: float = 1.0) -> Floats:
        """Apply the operator to fields.

        Parameters
        ----------
        values : array, shape ``(..., *source_shape)``
            NaN where missing.
        skipna : bool
            Leave missing sources out and divide by the fraction of the weights that is left; False makes targets with
            any missing source missing.
        na_thres : float, 0 to 1
            A target is missing if more than this fraction of its weights (of their absolute values, if they have both
            signs) is missing: 0, if any source is missing; 1, only if all are.

        Returns
        -------
        array of float64, shape ``(..., *target_shape)``
            NaN if a target has no source at all. Fractions are relative to the weights of the target itself, so that
            without missing values the result is the plain product, also if the weights do not add up to one. If weights
            have both signs and the remaining ones nearly cancel, the target is missing.

        Raises
        ------
        ShapeError, OptionError
            If the last dimensions are not the source grid, or the threshold is not a fraction.
        """
        fields = np.asarray(values)
        rank = len(self.source_shape)
        if fields.shape[-rank:] != self.source_shape:
            raise ShapeError(
                f"expected a field on the {_sizes(self.source_shape)} source cells of the weights, received "
                f"{_sizes(fields.shape[-rank:])}; transpose it, or make weights for this grid"
            )
        check_threshold(na_thres)
        maps = fields.reshape(-1, int(np.prod(self.source_shape)))
        out = np.full((len(maps), int(np.prod(self.target_shape))), np.nan)
        blocks = list(self._blocks())
        for source_map, result in zip(maps, out, strict=True):
            field = source_map.astype(np.float64)
            has_missing = skipna and bool(np.isnan(field).any())
            for links, starts, rows in blocks:
                source_values, weight = field[self.col[links]], self.weight[links]
                if has_missing:
                    result[rows] = _without_missing(source_values, weight, starts, na_thres)
                else:
                    result[rows] = np.add.reduceat(weight * source_values, starts)
        return out.reshape(fields.shape[: fields.ndim - rank] + self.target_shape)

    def _blocks(self) -> Iterator[tuple[slice, NDArray[np.intp], Ints]]:
        """Yield the links in batches that end between targets: links, first link of each target, and the targets."""
        first = np.flatnonzero(np.diff(self.row, prepend=-1))
        ends = np.append(first[1:], self.row.size)
        begin = 0
        while begin < first.size:
            stop = int(np.searchsorted(ends, first[begin] + BLOCK_LINKS, side="right"))
            stop = max(stop, begin + 1)
            starts = first[begin:stop]
            yield slice(int(starts[0]), int(ends[stop - 1])), starts - starts[0], self.row[starts]
            begin = stop


def _without_missing(taken: Floats, weight: Floats, starts: NDArray[np.intp], na_thres: float) -> Floats:
    """Return sums over valid sources, divided by their fraction of the weights; NaN beyond the threshold."""
    is_missing = np.isnan(taken)
    total = np.add.reduceat(np.where(is_missing, 0.0, weight * np.where(is_missing, 0.0, taken)), starts)
    missing_count = np.add.reduceat(is_missing.astype(np.intp), starts)
    if not missing_count.any():
        return total
    valid_weight = np.where(is_missing, 0.0, weight)
    valid_sum, weight_sum = np.add.reduceat(valid_weight, starts), np.add.reduceat(weight, starts)
    absolute_sum, missing_sum = (np.add.reduceat(np.abs(values), starts) for values in (weight, weight - valid_weight))
    with np.errstate(divide="ignore", invalid="ignore"):
        valid_fraction = valid_sum / weight_sum
        rescaled = total / valid_fraction
        is_stable = (valid_fraction > 0) & (MOST_GAIN * np.abs(valid_sum) >= absolute_sum - missing_sum)
    all_missing = missing_count == np.diff(starts, append=taken.size)
    is_invalid = all_missing | ~is_stable | (missing_sum > na_thres * absolute_sum * (1 + ROUNDING))
    return np.where(missing_count == 0, total, np.where(is_invalid, np.nan, rescaled))


def check_threshold(na_thres: Any) -> float:
    """Return the maximum missing fraction as a float; raise ``OptionError`` if it is not a number from 0 to 1."""
    is_number = isinstance(na_thres, (int, float, np.number)) and not isinstance(na_thres, bool)
    if not is_number or not 0 <= na_thres <= 1:
        raise OptionError(f"expected na_thres to be a number from 0 to 1, received {na_thres!r}")
    return float(na_thres)


def _check_countable(shape: tuple[int, ...]) -> None:
    limit = int(np.iinfo(np.int32).max)
    if int(np.prod(shape, dtype=np.float64)) > limit:
        raise ShapeError(f"expected a grid of at most {limit} cells, received {_sizes(shape)}; cut it into regions")


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "no"


def _product(y: Floats, x: Floats) -> tuple[Ints, Ints, Floats]:
    """Return the links of the Kronecker product, sorted by target and then by source."""
    y_starts, y_cols, y_weights = _compressed(y)
    x_starts, x_cols, x_weights = _compressed(x)
    y_counts, x_counts = np.diff(y_starts), np.diff(x_starts)
    size = int(y_counts.sum()) * int(x_counts.sum())
    row, col, weight = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size)
    patterns: dict[int, tuple[NDArray[Any], ...]] = {}
    begin = 0
    for target, count in enumerate(y_counts.tolist()):
        if count not in patterns:
            patterns[count] = _pattern(count, x_starts, x_counts)
        columns, tap_y, link_x = patterns[count]
        links = slice(begin, begin + columns.size)
        link_y = y_starts[target] + tap_y
        row[links] = target * x.shape[0] + columns
        col[links] = y_cols[link_y] * x.shape[1] + x_cols[link_x]
        weight[links] = y_weights[link_y] * x_weights[link_x]
        begin += columns.size
    return row, col, weight


def _compressed(matrix: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    rows, cols = np.nonzero(matrix)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(matrix)))])
    return starts, cols, matrix[rows, cols]


def _pattern(count: int, starts: NDArray[np.intp], counts: NDArray[np.intp]) -> tuple[NDArray[np.intp], ...]:
    """Return target column, tap along y and link along x of all links of a row with ``count`` taps along y."""
    sizes = count * counts
    columns = np.repeat(np.arange(counts.size), sizes)
    position = np.arange(columns.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    tap_y, tap_x = np.divmod(position, counts[columns])
    return columns, tap_y, starts[:-1][columns] + tap_x
