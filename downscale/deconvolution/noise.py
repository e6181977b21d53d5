"""The noise in a field, from what no neighbours share (torch; knows no instrument)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Median of the magnitude of a normal variable of variance one.
NORMAL_MEDIAN = 0.6744897501960817


@dataclass(frozen=True, eq=False)
class Restored:
    """A restored field and how it came about.

    Attributes
    ----------
    field : tensor
        Of the shape of the data, zero where they are not valid.
    iterations : int
        Steps taken.
    parameter : float
        Weight of the roughness, NaN where the method has none.
    noise : float
        Standard deviation of the noise that was given or estimated, NaN where the method asks for none.
    misfit : float
        Root of the mean square, by area, of data minus blurred result.
    """

    field: Tensor
    iterations: int
    parameter: float
    noise: float
    misfit: float


def noise_level(data: Tensor, mask: Tensor) -> float:
    """Estimate the standard deviation of white noise from second differences along all axes.

    The median of their magnitude, so that fronts count little; where most of a field is exactly even (dry), among those
    that differ from zero. Zero for fields of fewer than three cells along an axis.

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
    # Below this, differences are rounding.
    seen = seen[seen > 1e-12 * float(data.abs().max())] if seen.numel() else seen
    return float(seen.median()) / (NORMAL_MEDIAN * gain) if seen.numel() else 0.0
