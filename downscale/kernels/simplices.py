"""Non-negative kernels with a sum-to-one constraint, as products of simplices.

Like `downscale.kernels.laws`, it accepts NumPy arrays and PyTorch tensors.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from downscale.errors import OptionError
from downscale.kernels.laws import (
    Array,
    KernelT,
    Law,
    Size,
    Sizes,
    geometry_of,
    kernel_geometry,
    law_names,
    law_system,
    like,
    to_float64,
    to_kernel_type,
)


class SimplexGroups(NamedTuple):
    """The groups of taps that a law makes into simplices, as a table with one group per row.

    ``taps[g, j]`` is an index into the flattened kernel, ``present[g, j]`` is whether the table has a tap there, each
    row sums to ``total``; ``place[t]`` is the index of tap ``t`` in the flattened table and ``used[t]`` is 0 for the
    taps that are always zero.
    """

    taps: NDArray[np.intp]
    present: NDArray[np.bool_]
    total: float
    place: NDArray[np.intp]
    used: Array


@lru_cache(maxsize=256)
def _groups(names: tuple[str, ...], kernel: Sizes, stride: Sizes, padding: Sizes) -> SimplexGroups:
    binding = tuple(name for name in names if name != "total") or names
    if len(binding) > 1:
        raise OptionError(
            f"non-negative kernels expected one of the laws 'phase' and 'cell', received {names}: together "
            "they leave only the block of ones (nearest neighbour); take one of them or sign 'any'"
        )
    system = law_system(binding, kernel, stride, padding)
    rows = system.constraints[system.target > 0] > 0
    present = np.sort(rows, axis=1)[:, ::-1][:, : rows.sum(axis=1).max()]
    taps = np.argsort(~rows, axis=1, kind="stable")[:, : present.shape[1]]
    place = np.zeros(rows.shape[1], dtype=np.intp)
    place[taps[present]] = np.flatnonzero(present)
    return SimplexGroups(taps, present, float(system.target.max()), place, rows.any(axis=0).astype(float))


def simplex_groups(law: Law, kernel_size: Size, stride: Size, padding: Size | None = None) -> SimplexGroups:
    """Return the simplices whose product is the set of non-negative kernels that obey a law.

    total: one simplex of all taps; phase: one for each phase; cell: the central block, with every other
    tap zero (taps of a block that are >= 0 and sum to zero are zero).

    Raises
    ------
    OptionError
        If a name is not in ``LAWS``, or phase and cell are requested together.
    ShapeError
        If no kernel of this size, stride and padding obeys the law.

    Examples
    --------
    >>> simplex_groups("phase", 3, 2).taps.tolist(), simplex_groups("phase", 3, 2).present.tolist()
    ([[1, 0], [0, 2]], [[True, False], [True, True]])
    """
    return _groups(law_names(law), *kernel_geometry(kernel_size, stride, padding))


def project_nonnegative(kernel: KernelT, law: Law, stride: Size, padding: Size | None = None) -> KernelT:
    """Return the nearest non-negative kernel (least squares) that obeys the law.

    Shapes, types and strides as in `project`.

    Raises
    ------
    OptionError
        If a name is not in ``LAWS``, or phase and cell are requested together.
    ShapeError
        If no kernel of this size, stride and padding obeys the law.

    References
    ----------
    Held, Wolfe and Crowder (1974), Mathematical Programming 6, 62-88.

    Examples
    --------
    >>> project_nonnegative(np.array([-1.0, 2.0, 1.0]), "total", 2)
    array([0. , 1.5, 0.5])
    """
    geometry = geometry_of(kernel, stride, padding)
    groups = simplex_groups(law, *geometry)
    wide = to_float64(kernel)
    flat = wide.reshape(-1, prod(geometry[0]))
    table = flat[:, groups.taps] + like(np.where(groups.present, 0.0, -np.inf), wide)
    level = _simplex_level(table, groups.total)
    table = (table - level).clip(0.0).reshape(len(flat), -1)
    return to_kernel_type(table[:, groups.place] * like(groups.used, wide), kernel)


def _simplex_level(table: Any, total: float) -> Any:
    """Return the t of each row with sum(max(row - t, 0)) = total: the greatest over leading entries."""
    counts = like(np.arange(1.0, table.shape[-1] + 1), table)
    if isinstance(table, np.ndarray):
        leading = -np.sort(-table, axis=-1)
        return ((leading.cumsum(axis=-1) - total) / counts).max(axis=-1, keepdims=True)
    leading = -(-table).sort(dim=-1).values
    return ((leading.cumsum(dim=-1) - total) / counts).amax(dim=-1, keepdim=True)
