"""The weighted aggregation of a field: fine -> coarse and back (knows arrays and shares of area, no file).

Constraints, penalties and validators are uses of this one operator. It takes numpy arrays and torch tensors alike and
adds in a fixed order, element by element, so that neither chunking nor memory layout changes a bit of the result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import ShapeError
from downscale.grid.latlon import RectilinearGrid

Array = Any  # numpy.ndarray or torch.Tensor


def namespace(array: Array) -> Any:
    """Return the module, numpy or torch, whose functions take ``array``."""
    return np if isinstance(array, (np.ndarray, np.generic)) else sys.modules["torch"]


def like(values: NDArray[Any], reference: Array) -> Array:
    """Return ``values`` with the kind, data type and place of ``reference``; fractions beside whole numbers."""
    if namespace(reference) is np:
        return np.asarray(values, dtype=reference.dtype if reference.dtype.kind == "f" else np.float64)
    kind = reference.dtype if reference.is_floating_point() else None
    return reference.new_tensor(values, dtype=kind or sys.modules["torch"].float64)


@dataclass(frozen=True, eq=False)
class Aggregation:
    """Means over coarse cells, with exact areas and masks: the operator A of the three laws.

    Attributes
    ----------
    y_share, x_share : array of float64, shapes (n_fine_y,) and (n_fine_x,)
        Shares of fine rows and columns in their coarse row and column; each coarse cell's shares add up to one.
    factor_y, factor_x : int
        Fine rows and columns in a coarse cell.

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

    @classmethod
    def between(cls, coarse: RectilinearGrid, fine: RectilinearGrid) -> Aggregation:
        """Build the operator from two nested grids of one orientation.

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
        return cls(coarse.y.part_weights(fine.y), coarse.x.part_weights(fine.x), *factors)

    def window(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Aggregation:
        """Return the operator of the coarse ``rows`` by ``columns``."""
        y_share = self.y_share.reshape(-1, self.factor_y)[rows].ravel()
        x_share = self.x_share.reshape(-1, self.factor_x)[columns].ravel()
        return Aggregation(y_share, x_share, self.factor_y, self.factor_x)

    def mean(self, fine: Array, mask: Array | None = None) -> Array:
        """Average a fine field over coarse cells, ``A y``: (..., n_fine_y, n_fine_x) -> (..., n_y, n_x).

        Invariant: a constant maps to itself under any mask.

        Parameters
        ----------
        fine : array
            Fine field; what lies under the mask is ignored, NaN too.
        mask : array of bool, optional
            True where a fine cell is valid; a coarse cell without a valid part becomes NaN.
        """
        if mask is None:
            return self._share_sum(fine)
        xp = namespace(fine)
        total = self._share_sum(xp.where(mask, fine, xp.zeros_like(fine)))
        # Rounding leaves the share of a whole cell a little off one. Relative to it, a cell without gaps gets the bits
        # that it gets without a mask, whatever its neighbours lack.
        share = self.share(mask, fine) / self._share_sum(like(np.ones((self.y_share.size, self.x_share.size)), fine))
        some = share > 0
        return xp.where(some, total / xp.where(some, share, xp.ones_like(share)), xp.full_like(share, np.nan))

    def share(self, mask: Array, reference: Array) -> Array:
        """Return the valid share of the area of each coarse cell, 0 to 1, in the data type of ``reference``."""
        xp = namespace(reference)
        return self._share_sum(xp.where(mask, xp.ones_like(reference), xp.zeros_like(reference)))

    def adjoint(self, coarse: Array) -> Array:
        """Apply the transpose of the unmasked ``mean``: ``<A y, x> = <y, A* x>``."""
        spread = self.spread(coarse)
        return spread * like(self.y_share, spread)[:, None] * like(self.x_share, spread)

    def spread(self, coarse: Array) -> Array:
        """Give each fine cell the value of its coarse cell, ``S x``; ``A S = I`` under any mask."""
        *other, n_y, n_x = coarse.shape
        wide = (*other, n_y, self.factor_y, n_x, self.factor_x)
        cells = coarse.reshape(*other, n_y, 1, n_x, 1)
        whole = namespace(coarse).broadcast_to(cells, wide)
        return whole.reshape(*other, n_y * self.factor_y, n_x * self.factor_x)

    def fold(self, fine: Array, combine: Callable[[Array, Array], Array]) -> Array:
        """Combine the parts of each coarse cell two by two (maximum, minimum, ...): fine -> coarse shape."""
        self._check(fine)
        columns = reduce(combine, [fine[..., part :: self.factor_x] for part in range(self.factor_x)])
        return reduce(combine, [columns[..., part :: self.factor_y, :] for part in range(self.factor_y)])

    def _check(self, fine: Array) -> None:
        expected = (self.y_share.size, self.x_share.size)
        if tuple(fine.shape[-2:]) != expected:
            sizes = f"(..., {expected[0]}, {expected[1]})"
            raise ShapeError(f"expected a fine field of shape {sizes}, received {tuple(fine.shape)}")

    def _share_sum(self, fine: Array) -> Array:
        self._check(fine)
        weighted = fine * like(self.x_share, fine)
        columns = reduce(lambda a, b: a + b, [weighted[..., part :: self.factor_x] for part in range(self.factor_x)])
        rows = columns * like(self.y_share, fine)[:, None]
        return reduce(lambda a, b: a + b, [rows[..., part :: self.factor_y, :] for part in range(self.factor_y)])
