"""Additional inputs of losses beside prediction, target and weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from downscale.errors import OptionError, listing
from downscale.fields.aggregate import Aggregation
from downscale.fields.gradient import Spacing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class LossContext:
    """Additional inputs of losses for one batch.

    Attributes
    ----------
    spacing : Spacing, optional
        Distances of the fine cells in metres; for patches of several places see ``stacked``.
    orog : tensor that broadcasts to (..., n_y, n_x), optional
        Fine orography in metres.
    coarse : tensor, shape (..., n_y, n_x), optional
        Coarse values x in the units of the prediction.
    cells : Aggregation, optional
        Aggregation from fine to coarse cells.
    kernels : tuple of tensors, optional
        Weights of convolutions, (..., k_y, k_x).
    members : int, optional
        Dimension of the prediction that the target lacks: ensemble members (or quantile levels).
    scale : tensor or float
        Units of errors, such as the standard deviation of each variable, broadcast to the target. Terms with units are
        divided by it. Thresholds and slopes stay in the units of the field.
    variables : tuple of str
        Names along dimension -3 of prediction and target.
    """

    spacing: Spacing | None = None
    orog: Tensor | None = None
    coarse: Tensor | None = None
    cells: Aggregation | None = None
    kernels: tuple[Tensor, ...] = ()
    members: int | None = None
    scale: Tensor | float = 1.0
    variables: tuple[str, ...] = ()

    def need(self, name: str, loss: str) -> Any:
        """Return the attribute ``name``, which ``loss`` needs.

        Raises
        ------
        OptionError
            If it is missing.
        """
        found = getattr(self, name)
        if found is None or (name == "kernels" and not found):
            raise OptionError(f"expected {name!r} in the context of loss {loss!r}, received none; leave out that loss")
        return found

    def positions(self, names: Sequence[str]) -> list[int]:
        """Return the positions of variables along dimension -3.

        Raises
        ------
        OptionError
            If one is not among ``variables``.
        """
        unknown = [name for name in names if name not in self.variables]
        if unknown:
            raise OptionError(f"expected variables among {listing(self.variables)}, received {listing(unknown)}")
        return [self.variables.index(name) for name in names]


def stacked(spacings: Sequence[Spacing]) -> Spacing:
    """Return the spacings of patches of one shape, joined for fields of shape (n_patches, n_variables, n_y, n_x).

    Raises
    ------
    OptionError
        If only some close the circle.

    Examples
    --------
    >>> one = Spacing(np.full(2, 2.0), np.full((2, 3), 2.0), np.ones((2, 3)), False)
    >>> stacked([one, one]).dx.shape
    (2, 1, 2, 3)
    """
    closed = {spacing.periodic for spacing in spacings}
    if len(closed) != 1:
        raise OptionError(f"expected patches that all close the circle or none does, received {len(spacings)} patches")
    dy = np.stack([np.broadcast_to(spacing.dy_cells, spacing.dx.shape) for spacing in spacings])[:, None]
    dx = np.stack([spacing.dx for spacing in spacings])[:, None]
    return Spacing(dy, dx, np.stack([spacing.area for spacing in spacings])[:, None], closed.pop())
