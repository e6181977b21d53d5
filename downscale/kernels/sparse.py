"""Linear operators between grids as sparse matrices, with missing values.

Sums are over the sources of a target cell in their order. Neither the chunks of a field nor the order of links in a
file changes a bit of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, kron

from downscale.errors import OptionError, ShapeError
from downscale.grid.corners import Cells

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

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
    matrix : sparse array, shape (n_target, n_source)
        Weights without zeros, cells numbered row by row of each grid. If a row adds up to one, constants are preserved.
    source_shape, target_shape : (n_y, n_x) or (n,)
        Shapes of the two grids.
    source, target : Cells, optional
        The cells, if known.
    """

    matrix: csr_array
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    source: Cells | None = None
    target: Cells | None = None

    def __post_init__(self) -> None:
        self.matrix.sum_duplicates()
        self.matrix.eliminate_zeros()

    @classmethod
    def from_links(
        cls, row: ArrayLike, col: ArrayLike, weight: ArrayLike, source_shape: tuple[int, ...],
        target_shape: tuple[int, ...], source: Cells | None = None, target: Cells | None = None,
    ) -> SparseWeights:  # fmt: skip
        """Return the operator of links (target cell, source cell, weight) counted from zero, in any order.

        Raises
        ------
        ShapeError
            If the lists differ in length, or a grid has too many cells to number.
        """
        sizes = _count(target_shape), _count(source_shape)
        rows, cols, weights = np.asarray(row), np.asarray(col), np.asarray(weight, dtype=np.float64)
        if not rows.shape == cols.shape == weights.shape or weights.ndim != 1:
            raise ShapeError(
                f"expected three lists of links of one length, received {rows.shape}, {cols.shape}, {weights.shape}"
            )
        return cls(csr_array((weights, (rows, cols)), sizes), tuple(source_shape), tuple(target_shape), source, target)

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
        y, x = (csr_array(np.asarray(matrix, dtype=np.float64)) for matrix in (along_y, along_x))
        sources, targets = (y.shape[1], x.shape[1]), (y.shape[0], x.shape[0])
        _count(sources), _count(targets)
        return cls(kron(y, x, format="csr"), sources, targets, source, target)

    @property
    def row(self) -> Ints:
        """Target cell of each link, in order."""
        return np.repeat(np.arange(self.matrix.shape[0], dtype=np.int32), np.diff(self.matrix.indptr))

    @property
    def col(self) -> Ints:
        """Source cell of each link, in order within each target."""
        return np.asarray(self.matrix.indices, np.int32)

    @property
    def weight(self) -> Floats:
        """Weight of each link, never zero."""
        return np.asarray(self.matrix.data)

    def sums(self) -> Floats:
        """Return the sum of the weights of each target cell, shape ``target_shape``; zero for cells without links."""
        return np.asarray(self.matrix.sum(axis=1)).reshape(self.target_shape)

    def adjoint(self, values: ArrayLike) -> Floats:
        """Return the sum over targets of weight times ``values`` for each source cell, shape ``source_shape``.

        With target areas it gives source areas if area integrals are conserved.
        """
        return np.asarray(self.matrix.T @ np.asarray(values, dtype=np.float64).ravel()).reshape(self.source_shape)

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
        out = np.empty((*fields.shape[: fields.ndim - rank], *self.target_shape))
        maps = zip(fields.reshape(-1, self.matrix.shape[1]), out.reshape(-1, self.matrix.shape[0]), strict=True)
        for source_map, result in maps:
            field = source_map.astype(np.float64)
            missing = np.isnan(field)
            if skipna and missing.any():
                result[:] = self._without_missing(field, missing, na_thres)
            else:
                result[:] = self.matrix @ field
            result[np.diff(self.matrix.indptr) == 0] = np.nan
        return out

    def _without_missing(self, field: Floats, missing: NDArray[np.bool_], na_thres: float) -> Floats:
        """Return sums over valid sources, divided by their fraction of the weights; NaN beyond the threshold."""
        total, valid_sum = self.matrix @ np.where(missing, 0.0, field), self.matrix @ (~missing).astype(np.float64)
        sizes = abs(self.matrix)
        valid_size, missing_size = sizes @ (~missing).astype(np.float64), sizes @ missing.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            valid_fraction = valid_sum / self.sums().ravel()
            rescaled = total / valid_fraction
            is_usable = (valid_size > 0) & (valid_fraction > 0) & (MOST_GAIN * np.abs(valid_sum) >= valid_size)
        is_usable &= missing_size <= na_thres * (valid_size + missing_size) * (1 + ROUNDING)
        return np.where(missing_size == 0, total, np.where(is_usable, rescaled, np.nan))


def check_threshold(na_thres: Any) -> float:
    """Return the maximum missing fraction as a float; raise ``OptionError`` if it is not a number from 0 to 1."""
    is_number = isinstance(na_thres, (int, float, np.number)) and not isinstance(na_thres, bool)
    if not is_number or not 0 <= na_thres <= 1:
        raise OptionError(f"expected na_thres to be a number from 0 to 1, received {na_thres!r}")
    return float(na_thres)


def _count(shape: tuple[int, ...]) -> int:
    """Return the number of cells of a grid."""
    size, limit = int(np.prod(shape, dtype=np.float64)), int(np.iinfo(np.int32).max)
    if size > limit:
        raise ShapeError(f"expected a grid of at most {limit} cells, received {_sizes(shape)}; cut it into regions")
    return size


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "no"
