"""Noise level of a field, from second differences between neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Median magnitude of a normal variable of variance one.
NORMAL_MEDIAN = 0.6744897501960817


@dataclass(frozen=True, eq=False)
class Restored:
    """A restored field, with parameters of the solution.

    Attributes
    ----------
    field : tensor
        With the shape of the data, zero at invalid cells.
    iterations : int
        Steps taken.
    parameter : float
        Weight of the roughness, NaN if the method has none.
    noise : float
        Standard deviation of the noise, given or estimated, NaN if the method does not use it.
    misfit : float
        Area-weighted root mean square of data minus blurred result.
    """

    field: Tensor
    iterations: int
    parameter: float
    noise: float
    misfit: float


def noise_level(data: Tensor, mask: Tensor) -> float:
    """Return the standard deviation of white noise, estimated from second differences along all axes.

    The estimate is the median of their magnitude, so that fronts have little effect. If most of a field is constant
    (dry), only non-zero differences count. Zero for fields of fewer than three cells along an axis.

    References
    ----------
    Immerkaer, J. (1996), Fast noise variance estimation, Computer Vision and Image Understanding 64, 300-302.
    """
    rough, valid, gain = data, mask, 1.0
    for axis in range(-data.ndim, 0):
        size = data.shape[axis]
        if size == 1:
            continue
        if size < 3:
            return 0.0
        left, middle, right = (rough.narrow(axis, k, size - 2) for k in range(3))
        rough = left - 2 * middle + right
        valid = torch.stack([valid.narrow(axis, k, size - 2) for k in range(3)]).amin(dim=0)
        gain *= 6.0**0.5
    seen = rough[valid > 0].abs()
    # Smaller differences are rounding errors.
    seen = seen[seen > 1e-12 * float(data.abs().max())] if seen.numel() else seen
    return float(seen.median()) / (NORMAL_MEDIAN * gain) if seen.numel() else 0.0
