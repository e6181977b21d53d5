"""Settings of the terrain-gradient penalty (knows no field until it is given one; torch tensors pass through)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from downscale.errors import OptionError
from downscale.fields.gradient import Spacing, slope

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TerrainPenalty:
    """Settings of the terrain-gradient penalty.

    Parameters
    ----------
    base_gradient : float
        g0: slope allowed over flat land, units of the field a metre.
    ratio : float
        gamma: slope allowed for each unit of terrain slope, units of the field a metre of height.
    weight : float
        Strength of the refinement, in units of the mean fine cell area.
    iterations : int
        Steps of the refinement; each makes the halo of a block one coarse cell wider.

    Raises
    ------
    OptionError
        If a value is negative, or iterations are no whole number.
    """

    base_gradient: float
    ratio: float = 0.0
    weight: float = 1.0
    iterations: int = 10

    def __post_init__(self) -> None:
        for name in ("base_gradient", "ratio", "weight", "iterations"):
            if not getattr(self, name) >= 0:
                raise OptionError(f"expected terrain penalty {name} >= 0, received {getattr(self, name)!r}")
        if not isinstance(self.iterations, (int, np.integer)):
            raise OptionError(f"expected terrain penalty iterations to be whole, received {self.iterations!r}")

    def allowed(self, orog: Tensor | None, field: Tensor, spacing: Spacing) -> Tensor:
        """Return the allowed slope at each fine cell, shape of ``orog`` or of one field."""
        flat = field.new_full(field.shape[-2:], self.base_gradient)
        return flat if orog is None else flat + self.ratio * slope(orog.nan_to_num(), spacing)
