"""Mean power spectra of prediction and target as running sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from downscale.errors import ShapeError
from downscale.fields.gradient import Spacing
from downscale.fields.spectrum import radial_power, resolved, rings, steps, taper

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spectra:
    """Sums of ring-averaged power over maps.

    Attributes
    ----------
    wavenumber : array, shape (n_rings,)
        In cycles per m, or per cell without spacing.
    made, true : array, shape (n_rings,)
        Sums of the power of predictions and targets, in units of the field squared, each map with its weight.
    weight : float
        Sum of the weights of maps.
    """

    wavenumber: Floats
    made: Floats
    true: Floats
    weight: float

    @classmethod
    def of(cls, made: Floats, true: Floats, weight: Floats, spacing: Spacing | None = None) -> Spectra | None:
        """Return the sums over predictions (n_members, n_maps, n_y, n_x), targets and weights (n_maps, n_y, n_x).

        Cells without weight are gaps in both fields. Members are averaged in power, not in phase, because their mean is
        too smooth. None if maps are too small, or too elongated, for a spectrum.
        """
        shape = (true.shape[-2], true.shape[-1])
        closed, step = (False, (1.0, 1.0)) if spacing is None else (spacing.periodic, steps(spacing))
        if not resolved(shape, step):
            return None
        table = rings(shape, step)
        window, valid, each = taper(shape, closed), weight > 0, weight.sum(axis=(-2, -1))
        found = radial_power(made, np.broadcast_to(valid, made.shape), window, table).mean(axis=0)
        expected = radial_power(true, valid, window, table)
        return cls(table.wavenumber, each @ found, each @ expected, float(each.sum()))

    def merge(self, other: Spectra) -> Spectra:
        """Return the sums of both together.

        Raises
        ------
        ShapeError
            If their maps differ in shape or spacing.
        """
        same = self.wavenumber.shape == other.wavenumber.shape
        if not same or not np.allclose(self.wavenumber, other.wavenumber, rtol=1e-6, atol=0):
            raise ShapeError(
                f"expected spectra of maps of one shape and spacing, received {self.wavenumber.size} and "
                f"{other.wavenumber.size} rings; score other grids apart"
            )
        sums = (self.made + other.made, self.true + other.true, self.weight + other.weight)
        return Spectra(self.wavenumber, *sums)

    @property
    def power(self) -> tuple[Floats, Floats]:
        """Mean spectra of prediction and target; NaN without data."""
        whole = self.weight if self.weight > 0 else np.nan
        return self.made / whole, self.true / whole

    @property
    def distance(self) -> float:
        """Root mean square over rings of the ratio of both spectra in decibels; infinite if one has no power."""
        some = (self.made > 0) | (self.true > 0)
        if not some.any():
            return float("nan")
        with np.errstate(divide="ignore"):
            ratio = 10 * (np.log10(self.made[some]) - np.log10(self.true[some]))
        return float((ratio**2).mean() ** 0.5)
