"""Area-weighted means over cells: of nested fine cells, and of the subcells of a supermesh.

Constraints, penalties and checks use these operators. They accept NumPy arrays and PyTorch tensors, and add in a fixed
order, element by element, so that neither chunking nor memory layout changes a bit of the result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import ShapeError
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import Subcells

Array = Any  # numpy.ndarray or torch.Tensor
Grid = RectilinearGrid | CurvilinearGrid


def namespace(array: Array) -> Any:
    """Return the module, numpy or torch, whose functions take ``array``."""
    return np if isinstance(array, (np.ndarray, np.generic)) else sys.modules["torch"]


def like(values: NDArray[Any], reference: Array) -> Array:
    """Return ``values`` with the kind, data type and device of ``reference``; floats if that has integers."""
    if namespace(reference) is np:
        return np.asarray(values, dtype=reference.dtype if reference.dtype.kind == "f" else np.float64)
    kind = reference.dtype if reference.is_floating_point() else None
    return reference.new_tensor(values, dtype=kind or sys.modules["torch"].float64)


@dataclass(frozen=True, eq=False)
class Aggregation:
    """Means over coarse cells, with exact areas and masks: the operator A.

    Attributes
    ----------
    y_share, x_share : array of float64, shapes (n_fine_y,) and (n_fine_x,)
        Area fractions of fine rows and columns in their coarse row and column; those of a coarse cell add up to one.
    factor_y, factor_x : int
        Fine rows and columns per coarse cell.
    part_share : array of float64, shape (n_fine_y, n_fine_x), optional
        Area fractions of fine cells in their coarse cell, if areas are not products of rows and columns; those of a
        coarse cell add up to one. ``y_share`` and ``x_share`` then only define sizes.

    Notes
    -----
    An area fraction of zero is an empty part: its value is ignored.

    Examples
    --------
    >>> equal = Aggregation(np.full(4, 0.5), np.full(4, 0.5), 2, 2)
    >>> equal.mean(np.arange(16.0).reshape(4, 4)).tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """

    y_share: NDArray[np.float64]
    x_share: NDArray[np.float64]
    factor_y: int
    factor_x: int
    part_share: NDArray[np.float64] | None = None

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
        both = None if fine.separable else part_shares(fine.cell_area, *factors)
        return cls(coarse.y.part_weights(fine.y), coarse.x.part_weights(fine.x), *factors, both)

    @property
    def fine_shape(self) -> tuple[int, int]:
        """Number of fine rows and columns."""
        return self.y_share.size, self.x_share.size

    @property
    def coarse_shape(self) -> tuple[int, int]:
        """Number of coarse rows and columns."""
        return self.y_share.size // self.factor_y, self.x_share.size // self.factor_x

    def window(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Aggregation:
        """Return the operator of the coarse ``rows`` by ``columns``."""
        y_share = self.y_share.reshape(-1, self.factor_y)[rows].ravel()
        x_share = self.x_share.reshape(-1, self.factor_x)[columns].ravel()
        both = self.part_share
        if both is not None:
            n_y, n_x = self.coarse_shape
            cells = both.reshape(n_y, self.factor_y, n_x, self.factor_x)[rows][:, :, columns]
            both = cells.reshape(y_share.size, x_share.size)
        return Aggregation(y_share, x_share, self.factor_y, self.factor_x, both)

    def mean(self, fine: Array, mask: Array | None = None) -> Array:
        """Average a fine field over coarse cells, ``A y``: (..., n_fine_y, n_fine_x) -> (..., n_y, n_x).

        Invariant: a constant maps to itself under any mask.

        Parameters
        ----------
        fine : array
            Fine field; values under the mask are ignored, NaN too.
        mask : array of bool, optional
            True for valid fine cells; a coarse cell without a valid part becomes NaN.
        """
        if mask is None:
            return self._share_sum(fine)
        xp = namespace(fine)
        total = self._share_sum(xp.where(mask, fine, xp.zeros_like(fine)))
        # Rounding leaves the fractions of a whole cell a little off one. Relative to their sum, a cell without gaps has
        # the same bits as without a mask, whatever its neighbours lack.
        share = self.share(mask, fine) / self._share_sum(like(np.ones(self.fine_shape), fine))
        some = share > 0
        return xp.where(some, total / xp.where(some, share, xp.ones_like(share)), xp.full_like(share, np.nan))

    def share(self, mask: Array, reference: Array) -> Array:
        """Return the valid area fraction of each coarse cell, 0 to 1, in the data type of ``reference``."""
        xp = namespace(reference)
        return self._share_sum(xp.where(mask, xp.ones_like(reference), xp.zeros_like(reference)))

    def adjoint(self, coarse: Array) -> Array:
        """Apply the transpose of the unmasked ``mean``: ``<A y, x> = <y, A* x>``."""
        spread = self.spread(coarse)
        if self.part_share is not None:
            return spread * like(self.part_share, spread)
        return spread * like(self.y_share, spread)[:, None] * like(self.x_share, spread)

    def spread(self, coarse: Array) -> Array:
        """Give each fine cell the value of its coarse cell, ``S x``; ``A S = I`` under any mask."""
        *other, n_y, n_x = coarse.shape
        wide = (*other, n_y, self.factor_y, n_x, self.factor_x)
        cells = coarse.reshape(*other, n_y, 1, n_x, 1)
        whole = namespace(coarse).broadcast_to(cells, wide)
        return whole.reshape(*other, n_y * self.factor_y, n_x * self.factor_x)

    def subcells(self, fine: Array) -> Array:
        """Return the fine values of each coarse cell: (..., n_fine_y, n_fine_x) -> (..., n_y, n_x, subcells)."""
        *other, _, _ = fine.shape
        (n_y, n_x), (f_y, f_x) = self.coarse_shape, (self.factor_y, self.factor_x)
        blocks = fine.reshape(*other, n_y, f_y, n_x, f_x)
        return namespace(fine).moveaxis(blocks, -3, -2).reshape(*other, n_y, n_x, f_y * f_x)

    def fractions(self, reference: Array, mask: Array | None = None) -> Array:
        """Return the area fractions of valid fine cells in the valid part of their coarse cell, like ``reference``."""
        both = self.part_share
        both = np.multiply.outer(self.y_share, self.x_share) if both is None else both
        whole = like(both, reference)
        if mask is None:
            return whole
        xp, covered = namespace(reference), self.share(mask, like(np.ones(self.fine_shape), reference))
        part = xp.where(mask, whole, xp.zeros_like(whole))
        return part / self.spread(xp.where(covered > 0, covered, xp.ones_like(covered)))

    def fold(self, fine: Array, combine: Callable[[Array, Array], Array]) -> Array:
        """Combine the parts of each coarse cell two by two (maximum, minimum, ...): fine -> coarse shape.

        An empty part is replaced by a part of its cell with an area, so ``combine(a, a)`` must be ``a``.
        """
        self._check(fine)
        if self._stand_ins is not None:
            fine = _picked(fine, *self._stand_ins)
        columns = reduce(combine, [fine[..., part :: self.factor_x] for part in range(self.factor_x)])
        return reduce(combine, [columns[..., part :: self.factor_y, :] for part in range(self.factor_y)])

    @cached_property
    def _empty(self) -> NDArray[np.bool_] | None:
        """Fine cells with zero area fraction, None if there are none."""
        if self.part_share is not None:
            empty = self.part_share == 0
        elif (self.y_share == 0).any() or (self.x_share == 0).any():
            empty = (self.y_share == 0)[:, None] | (self.x_share == 0)
        else:
            return None
        return empty if empty.any() else None

    @cached_property
    def _stand_ins(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Rows and columns of the representative of each fine cell: itself, or the first with an area."""
        if self._empty is None:
            return None
        rows, columns = np.indices(self.fine_shape)
        (n_y, n_x), f_y, f_x = self.coarse_shape, self.factor_y, self.factor_x
        inside = (~self._empty).reshape(n_y, f_y, n_x, f_x).transpose(0, 2, 1, 3).reshape(n_y, n_x, -1)
        first = np.repeat(np.repeat(inside.argmax(axis=-1), f_y, axis=0), f_x, axis=1)
        first_rows, first_columns = rows // f_y * f_y + first // f_x, columns // f_x * f_x + first % f_x
        return np.where(self._empty, first_rows, rows), np.where(self._empty, first_columns, columns)

    def _check(self, fine: Array) -> None:
        expected = self.fine_shape
        if tuple(fine.shape[-2:]) != expected:
            sizes = f"(..., {expected[0]}, {expected[1]})"
            raise ShapeError(f"expected a fine field of shape {sizes}, received {tuple(fine.shape)}")

    def _share_sum(self, fine: Array) -> Array:
        self._check(fine)
        if self._empty is not None:
            # Zero times NaN would be NaN.
            xp = namespace(fine)
            fine = xp.where(_beside(self._empty, fine), xp.zeros_like(fine), fine)
        weighted = fine * like(self.x_share if self.part_share is None else self.part_share, fine)
        columns = reduce(lambda a, b: a + b, [weighted[..., part :: self.factor_x] for part in range(self.factor_x)])
        rows = columns if self.part_share is not None else columns * like(self.y_share, fine)[:, None]
        return reduce(lambda a, b: a + b, [rows[..., part :: self.factor_y, :] for part in range(self.factor_y)])


def part_shares(area: NDArray[np.float64], factor_y: int, factor_x: int) -> NDArray[np.float64]:
    """Return the area fractions of fine cells in their coarse cell from their areas, shape (n_fine_y, n_fine_x).

    Invariant: the fractions of a coarse cell add up to one; those of a cell without area are equal.

    Examples
    --------
    >>> part_shares(np.array([[1.0, 3.0], [0.0, 0.0]]), 1, 2).tolist()
    [[0.25, 0.75], [0.5, 0.5]]
    """
    n_y, n_x = area.shape[0] // factor_y, area.shape[1] // factor_x
    parts = area.reshape(n_y, factor_y, n_x, factor_x)
    whole = parts.sum(axis=(1, 3), keepdims=True)
    some = whole > 0
    share = np.where(some, parts / np.where(some, whole, 1.0), 1 / (factor_y * factor_x))
    return share.reshape(area.shape)


def _beside(values: NDArray[np.bool_], reference: Array) -> Array:
    """Return a boolean array of the kind and on the device of ``reference``."""
    if namespace(reference) is np:
        return values
    return reference.new_tensor(values, dtype=sys.modules["torch"].bool)


def _picked(fine: Array, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Array:
    """Return the values at some rows and columns, on the array's own device."""
    if namespace(fine) is np:
        return fine[..., rows, columns]
    whole = sys.modules["torch"].int64
    flat = (rows * fine.shape[-1] + columns).ravel()
    index = fine.new_tensor(flat, dtype=whole)
    return fine.reshape(*fine.shape[:-2], -1).index_select(-1, index).reshape(fine.shape)


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
    def of(cls, parts: Subcells, cells: NDArray[np.int64] | None = None) -> Gathering:
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
class SupermeshMean:
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
        cls, y: Subcells, x: Subcells, rows: NDArray[np.int64] | None = None, columns: NDArray[np.int64] | None = None
    ) -> SupermeshMean:
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
