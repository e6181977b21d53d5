"""Area-weighted means over cells: of nested fine cells, and of the subcells of a supermesh.

Constraints, penalties and checks use these operators. They accept NumPy arrays and PyTorch tensors, and add in a fixed
order, element by element, so that neither chunking nor memory layout changes a bit of the result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from downscale.errors import ShapeError
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import Subcells

Array = Any  # numpy.ndarray or torch.Tensor
Grid = RectilinearGrid | CurvilinearGrid
# Area fractions are sums of differences; a smaller missing fraction than this is rounding.
SLACK = 1e-6


def namespace(array: Array) -> Any:
    """Return the module, numpy or torch, whose functions take ``array``."""
    return np if isinstance(array, (np.ndarray, np.generic)) else sys.modules["torch"]


def like(values: Array, reference: Array) -> Array:
    """Return ``values`` with the kind, data type and device of ``reference``; floats if that has integers."""
    if namespace(reference) is np:
        return np.asarray(values, dtype=reference.dtype if reference.dtype.kind == "f" else np.float64)
    dtype = reference.dtype if reference.is_floating_point() else sys.modules["torch"].float64
    return reference.new_tensor(values, dtype=dtype) if namespace(values) is np else values.to(reference.device, dtype)


@dataclass(frozen=True, eq=False)
class Aggregation:
    """Means over coarse cells, with exact areas and masks: the operator A.

    Attributes
    ----------
    y_fraction, x_fraction : array of float64, shapes (n_fine_y,) and (n_fine_x,)
        Area fractions of fine rows and columns in their coarse row and column; those of a coarse cell add up to one.
    factor_y, factor_x : int
        Fine rows and columns per coarse cell.
    cell_fraction : array of float64, shape (n_fine_y, n_fine_x), optional
        Area fractions of fine cells in their coarse cell, if areas are not products of rows and columns; those of a
        coarse cell add up to one. ``y_fraction`` and ``x_fraction`` then only define sizes.
    mask : array of bool, shape (..., n_fine_y, n_fine_x), optional
        False for fine cells whose area fraction is zero instead, see :meth:`apply_mask`.

    Notes
    -----
    The value of a fine cell with an area fraction of zero is ignored, even if it is NaN.

    Examples
    --------
    >>> equal = Aggregation(np.full(4, 0.5), np.full(4, 0.5), 2, 2)
    >>> equal.mean(np.arange(16.0).reshape(4, 4)).tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """

    y_fraction: NDArray[np.float64]
    x_fraction: NDArray[np.float64]
    factor_y: int
    factor_x: int
    cell_fraction: NDArray[np.float64] | None = None
    mask: Array | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Values computed on demand are not sent to workers.
        return {key: self.__dict__[key] for key in self.__dataclass_fields__}

    @classmethod
    def between(cls, coarse: Grid, fine: Grid) -> Aggregation:
        """Return the operator of two nested grids of the same kind and orientation.

        Raises
        ------
        ShapeError
            If the fine grid does not nest in the coarse one.
        """
        factors = coarse.nest_factors(fine)
        if factors is None:
            raise ShapeError(
                f"expected a fine grid nested in the coarse one, received shapes {fine.shape} and {coarse.shape} "
                "with edges that do not match; give the coarse field of the same domain"
            )
        cell_fraction = None if fine.separable else area_fractions(fine.cell_area, *factors)
        return cls(coarse.y.fine_fractions(fine.y), coarse.x.fine_fractions(fine.x), *factors, cell_fraction)

    @property
    def fine_shape(self) -> tuple[int, int]:
        """Number of fine rows and columns."""
        return self.y_fraction.size, self.x_fraction.size

    @property
    def coarse_shape(self) -> tuple[int, int]:
        """Number of coarse rows and columns."""
        return self.y_fraction.size // self.factor_y, self.x_fraction.size // self.factor_x

    def apply_mask(self, mask: Array | None) -> Aggregation:
        """Return the operator over valid fine cells only: all others get an area fraction of zero.

        ``mask``, True for valid cells, has the kind of the fields that are averaged; with more than two dimensions each
        map has its own. None returns the operator itself.
        """
        if mask is None:
            return self
        self._require_shape(mask)
        return replace(self, mask=mask)

    def window(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Aggregation:
        """Return the operator, without its mask, of the coarse ``rows`` by ``columns``."""
        y_fraction = self.y_fraction.reshape(-1, self.factor_y)[rows].ravel()
        x_fraction = self.x_fraction.reshape(-1, self.factor_x)[columns].ravel()
        cell_fraction = self.cell_fraction
        if cell_fraction is not None:
            n_y, n_x = self.coarse_shape
            cells = cell_fraction.reshape(n_y, self.factor_y, n_x, self.factor_x)[rows][:, :, columns]
            cell_fraction = cells.reshape(y_fraction.size, x_fraction.size)
        return Aggregation(y_fraction, x_fraction, self.factor_y, self.factor_x, cell_fraction)

    def mean(self, fine: Array) -> Array:
        """Average a fine field over coarse cells, ``A y``: (..., n_fine_y, n_fine_x) -> (..., n_y, n_x).

        Invariant: a constant maps to itself under any mask. A coarse cell without a valid part becomes NaN.
        """
        total = self._weighted_sum(fine)
        if self.mask is None:
            return total
        xp, valid = namespace(fine), like(self.valid_fraction, fine)
        has_valid = valid > 0
        return xp.where(has_valid, total / xp.where(has_valid, valid, xp.ones_like(valid)), xp.full_like(valid, np.nan))

    def mean_of_finite(self, fine: NDArray[Any]) -> NDArray[Any]:
        """Average a fine field over its finite values in each coarse cell, NaN where there are none.

        Examples
        --------
        >>> cells = Aggregation(np.full(2, 0.5), np.full(2, 0.5), 2, 2)
        >>> cells.mean_of_finite(np.array([[1.0, np.nan], [2.0, 3.0]])).tolist()
        [[2.0]]
        """
        finite = np.isfinite(fine)
        return np.asarray(self.apply_mask(None if finite.all() else finite).mean(fine))

    @cached_property
    def valid_fraction(self) -> Array:
        """The valid area fraction of each coarse cell, 0 to 1 in float64, with the shape and kind of the mask.

        Rounding leaves the sum of the fractions of a whole cell a little off one. Relative to that sum, a cell without
        gaps has the same bits as without a mask, whatever its neighbours lack.
        """
        if self.mask is None:
            return np.ones(self.coarse_shape)
        total = replace(self, mask=None)._weighted_sum(np.ones(self.fine_shape))
        valid = self._weighted_sum(_ones_like(self.mask))
        return valid / like(total, valid)

    def fractions(self, reference: Array) -> Array:
        """Return the fractions of fine cells in the valid area of their coarse cell, in the type of ``reference``."""
        cell_fraction = self.cell_fraction
        fraction = like(
            np.multiply.outer(self.y_fraction, self.x_fraction) if cell_fraction is None else cell_fraction, reference
        )
        if self.mask is None:
            return fraction
        xp, valid = namespace(reference), like(self.valid_fraction, reference)
        return xp.where(self.mask, fraction, xp.zeros_like(fraction)) / self.broadcast_to_fine(
            xp.where(valid > 0, valid, xp.ones_like(valid))
        )

    def adjoint(self, coarse: Array) -> Array:
        """Return the transpose of ``mean``, applied to a coarse field: ``<A y, x> = <y, A* x>``."""
        fine = self.broadcast_to_fine(coarse)
        if self.mask is not None or self.cell_fraction is not None:
            return fine * self.fractions(fine)
        return fine * like(self.y_fraction, fine)[:, None] * like(self.x_fraction, fine)

    def broadcast_to_fine(self, coarse: Array) -> Array:
        """Return the value of its coarse cell for each fine cell, ``S x``; ``A S = I`` under any mask."""
        *lead, n_y, n_x = coarse.shape
        shape = (*lead, n_y, self.factor_y, n_x, self.factor_x)
        cells = coarse.reshape(*lead, n_y, 1, n_x, 1)
        blocks = namespace(coarse).broadcast_to(cells, shape)
        return blocks.reshape(*lead, n_y * self.factor_y, n_x * self.factor_x)

    def subcells(self, fine: Array) -> Array:
        """Return the fine values of each coarse cell: (..., n_fine_y, n_fine_x) -> (..., n_y, n_x, subcells)."""
        (n_y, n_x), (f_y, f_x) = self.coarse_shape, (self.factor_y, self.factor_x)
        blocks = fine.reshape(*fine.shape[:-2], n_y, f_y, n_x, f_x)
        return namespace(fine).moveaxis(blocks, -3, -2).reshape(*fine.shape[:-2], n_y, n_x, f_y * f_x)

    def reduce_cells(self, fine: Array, combine: Callable[[Array, Array], Array], neutral: float) -> Array:
        """Combine the valid subcells of each coarse cell two by two (maximum, minimum, ...): fine -> coarse shape.

        ``neutral`` is the neutral value of ``combine``, which stands in for subcells with an area fraction of zero.
        """
        self._require_shape(fine)
        valid = self._valid(fine)
        if valid is not None:
            fine = namespace(fine).where(valid, fine, namespace(fine).full_like(fine, neutral))
        columns = reduce(combine, [fine[..., i :: self.factor_x] for i in range(self.factor_x)])
        return reduce(combine, [columns[..., i :: self.factor_y, :] for i in range(self.factor_y)])

    @cached_property
    def _with_area(self) -> NDArray[np.bool_] | None:
        """Fine cells with an area fraction above zero before masking, None if these are all."""
        if self.cell_fraction is not None:
            has_area: NDArray[np.bool_] = self.cell_fraction > 0
        elif (self.y_fraction > 0).all() and (self.x_fraction > 0).all():
            return None
        else:
            has_area = np.logical_and.outer(self.y_fraction > 0, self.x_fraction > 0)
        return None if has_area.all() else has_area

    def _valid(self, reference: Array) -> Array | None:
        """Return the fine cells with an area fraction above zero, None if these are all."""
        has_area = self._with_area
        if has_area is None:
            return self.mask
        if namespace(reference) is not np:
            has_area = reference.new_tensor(has_area, dtype=sys.modules["torch"].bool)
        return has_area if self.mask is None else has_area & self.mask

    def _require_shape(self, fine: Array) -> None:
        if tuple(fine.shape[-2:]) != self.fine_shape:
            sizes = f"(..., {self.fine_shape[0]}, {self.fine_shape[1]})"
            raise ShapeError(f"expected a fine field of shape {sizes}, received {tuple(fine.shape)}")

    def _weighted_sum(self, fine: Array) -> Array:
        """Return the sums of valid fine values times their area fractions before masking."""
        self._require_shape(fine)
        valid = self._valid(fine)
        if valid is not None:
            # Zero times NaN would be NaN.
            fine = namespace(fine).where(valid, fine, namespace(fine).zeros_like(fine))
        weighted_values = fine * like(self.x_fraction if self.cell_fraction is None else self.cell_fraction, fine)
        columns = reduce(add, [weighted_values[..., i :: self.factor_x] for i in range(self.factor_x)])
        rows = columns if self.cell_fraction is not None else columns * like(self.y_fraction, fine)[:, None]
        return reduce(add, [rows[..., i :: self.factor_y, :] for i in range(self.factor_y)])


def area_fractions(area: NDArray[np.float64], factor_y: int, factor_x: int) -> NDArray[np.float64]:
    """Return the area fractions of fine cells in their coarse cell from their areas, shape (n_fine_y, n_fine_x).

    Invariant: the fractions of a coarse cell add up to one; those of a cell without area are equal.

    Examples
    --------
    >>> area_fractions(np.array([[1.0, 3.0], [0.0, 0.0]]), 1, 2).tolist()
    [[0.25, 0.75], [0.5, 0.5]]
    """
    n_y, n_x = area.shape[0] // factor_y, area.shape[1] // factor_x
    subcells = area.reshape(n_y, factor_y, n_x, factor_x)
    total = subcells.sum(axis=(1, 3), keepdims=True)
    has_area = total > 0
    return np.where(has_area, subcells / np.where(has_area, total, 1.0), 1 / (factor_y * factor_x)).reshape(area.shape)


def _ones_like(mask: Array) -> Array:
    """Return floating-point ones of the shape, kind and device of a mask."""
    if namespace(mask) is np:
        return np.ones(mask.shape)
    torch = sys.modules["torch"]
    return mask.new_ones(mask.shape, dtype=torch.float32 if mask.device.type == "mps" else torch.float64)


@dataclass(frozen=True, eq=False)
class SupermeshMean:
    """Means of target cells over the valid subcells that they cover: the second half of a remap that does not nest.

    Fields are computed on the subcells into which target edges cut the coarse cells, with cell conservation. Averaging
    the subcells to target cells conserves area integrals exactly, and the mean of every region that is a union of
    coarse cells and of target cells. The weight of a target value in any area integral is ``valid_measure``.

    Attributes
    ----------
    y, x : sparse arrays, shapes (n_target_y, rows) and (n_target_x, columns)
        Measures of the subcells in each target cell.
    cell_measure : array, shape (n_target_y, n_target_x)
        Measures of whole target cells, whether covered or not.
    mask : array of bool, shape (..., rows, columns), optional
        False for subcells that are ignored.
    """

    y: csr_array
    x: csr_array
    cell_measure: NDArray[np.float64]
    mask: NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls, y: Subcells, x: Subcells, rows: NDArray[np.int64] | None = None, columns: NDArray[np.int64] | None = None
    ) -> SupermeshMean:
        """Return the operator for fields on the subcells of the coarse ``rows`` by ``columns``, all by default."""
        cell_measure = np.multiply.outer(y.target.measure, x.target.measure)
        return cls(_target_measures(y, rows), _target_measures(x, columns), cell_measure)

    @classmethod
    def across(cls, y: Subcells, x: Subcells) -> SupermeshMean:
        """Return means of fine cells over the coarse cells that they cross, from the parts that both grids cut.

        A fine value counts in each coarse cell by the area inside: the operator A of grids that do not nest.
        """
        return cls(y.overlap, x.overlap, np.multiply.outer(y.coarse.measure, x.coarse.measure))

    def apply_mask(self, mask: NDArray[np.bool_] | None) -> SupermeshMean:
        """Return the operator over valid subcells only; None returns the operator itself."""
        return self if mask is None else replace(self, mask=mask)

    @cached_property
    def valid_measure(self) -> NDArray[np.float64]:
        """Measures of the valid subcells of target cells."""
        if self.mask is None:
            return np.multiply.outer(self.y.sum(axis=1), self.x.sum(axis=1))
        return self.integral(self.mask.astype(np.float64))

    def mean(self, field: NDArray[Any], na_thres: float = 1.0) -> NDArray[np.float64]:
        """Return means over the valid subcells of target cells, NaN if none is valid; masked values are ignored.

        ``na_thres`` is the maximum missing fraction of a target cell that still gets a value, 0 to 1; area outside the
        coarse domain is missing. 1 requires any valid subcell, 0 all of them (as in xESMF).
        """
        total = self.integral(field if self.mask is None else np.where(self.mask, field, 0.0))
        valid = self.valid_measure
        has_value = (valid > 0) & (1 - valid / self.cell_measure <= na_thres + SLACK)
        return np.divide(total, valid, out=np.full(total.shape, np.nan), where=has_value)

    def largest(self, field: NDArray[Any]) -> NDArray[np.float64]:
        """Return the largest value that each target cell covers, -inf if it covers only NaN or nothing.

        Rounding can put a mean above the largest of its values: an area fraction above 1.
        """
        for matrix in (self.y, self.x):
            cell, part = matrix.nonzero()
            largest = np.full((*field.shape[:-2], matrix.shape[0], field.shape[-1]), -np.inf)
            index: Any = (..., cell, slice(None))
            np.fmax.at(largest, index, field[..., part, :])
            field = largest.swapaxes(-1, -2)
        return field

    def integral(self, field: NDArray[Any]) -> NDArray[np.float64]:
        """Return integrals over target cells: (..., rows, columns) -> (..., n_target_y, n_target_x)."""
        maps = [(self.x @ (self.y @ one).T).T for one in field.reshape(-1, *field.shape[-2:])]
        return np.reshape(maps, (*field.shape[:-2], *self.cell_measure.shape))

    def adjoint(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the transpose of ``integral`` for one map: (n_target_y, n_target_x) -> (rows, columns)."""
        return np.asarray((self.x.T @ (self.y.T @ values).T).T)


def _target_measures(subcells: Subcells, cells: NDArray[np.int64] | None) -> csr_array:
    """Return the measure of each subcell of some coarse cells, numbered in the order of these, in each target cell."""
    coarse_cells = np.arange(subcells.coarse.size) if cells is None else cells
    index = (coarse_cells[:, None] * subcells.count + np.arange(subcells.count)).ravel()
    owner, measure = subcells.owner[index], subcells.measure[index]
    part = np.flatnonzero(owner >= 0)
    return csr_array((measure[part], (owner[part], part)), (subcells.target.size, index.size))
