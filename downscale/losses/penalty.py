"""Settings of the terrain-gradient penalty."""

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
        g0: slope allowed over flat land, in units of the field per m.
    ratio : float
        gamma: slope allowed per unit of terrain slope, in units of the field per m of height.
    weight : float
        Strength of the refinement, in units of the mean fine cell area.
    iterations : int
        Steps of the refinement; each widens the halo of a block by one coarse cell.

    Raises
    ------
    OptionError
        If a value is negative, or iterations is not an integer.
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
        """Return the allowed slope at each fine cell, with the shape of ``orog`` or of one field."""
        flat = field.new_full(field.shape[-2:], self.base_gradient)
        return flat if orog is None else flat + self.ratio * slope(orog.nan_to_num(), spacing)
