"""What any up-scaler makes of plane waves: gain, images, harmonics (numpy; calls it, knows nothing of what is inside).

A linear up-scaler makes of a wave itself and its images, as its kernel says; a network makes harmonics too, and its
answer depends on the level and the amplitude of the wave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import ShapeError
from downscale.kernels.imaging import PASS_BAND, decibels
from downscale.metrics.probe import Probe

Floats = NDArray[np.float64]
# Positions of each wave in its cell, in parts of its length: real waves need two, what is nonlinear more.
TURNS = 4


@dataclass(frozen=True, eq=False)
class Response:
    """Powers by coarse frequency, each beside that of the wave that was given; means over waves along rows and columns.

    Attributes
    ----------
    frequency : array, shape (F,)
        Cycles a coarse cell, above zero.
    gain : array, shape (F,)
        Amplitude of the wave that comes out.
    images : array, shape (F,)
        Power of all images of it.
    harmonics : array, shape (F,)
        Power of all else, but for the mean.
    of_constants : float
        Power that is made of a constant field, beside that of the waves.
    band : float
        Highest frequency of the pass band.
    """

    frequency: Floats
    gain: Floats
    images: Floats
    harmonics: Floats
    of_constants: float
    band: float

    @property
    def rejection(self) -> float:
        """Decibels by which images lie below the waves of the pass band."""
        inside = self.frequency <= self.band * (1 + 1e-9)
        return float(-decibels(self.images[inside].sum() / max((self.gain[inside] ** 2).sum(), 1e-300)))

    @property
    def checkerboard_of_constants(self) -> float:
        """Decibels by which what is made of a constant lies below the waves; 300 is none."""
        return float(-decibels(self.of_constants))

    @property
    def pass_band_error(self) -> float:
        """Root mean square of one less the gain over the pass band."""
        inside = self.frequency <= self.band * (1 + 1e-9)
        return float(((1 - self.gain[inside]) ** 2).mean() ** 0.5)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists."""
        return {
            "image_rejection_db": self.rejection,
            "checkerboard_of_constants_db": self.checkerboard_of_constants,
            "pass_band_error": self.pass_band_error,
            "pass_band": self.band,
            "frequency": self.frequency.tolist(),
            "gain": self.gain.tolist(),
            "image_power_db": decibels(self.images).tolist(),
            "harmonic_power_db": decibels(self.harmonics).tolist(),
        }


def measure_response(probe: Probe, level: float = 0.0, amplitude: float = 1.0, band: float = PASS_BAND) -> Response:
    """Feed plane waves along rows and along columns to an up-scaler, and a constant.

    Parameters
    ----------
    probe : Probe
        The up-scaler on a torus.
    level, amplitude : float
        Of the waves, units of the field.
    band : float
        Highest frequency of the pass band, cycles a coarse cell.

    Raises
    ------
    ShapeError
        If no axis is refined.
    """
    if max(probe.factor) < 2:
        raise ShapeError(f"expected a factor of at least 2, received {probe.factor}: there are no images")
    axes = [axis for axis in (0, 1) if probe.factor[axis] > 1]
    found = np.mean([_along(probe, axis, level, amplitude) for axis in axes], axis=0)
    frequency = np.arange(1, (probe.cells + 1) // 2) / probe.cells
    still = probe(np.full((probe.cells, probe.cells), float(level)))
    # A wave of this amplitude has the variance amplitude**2 / 2; far below rounding of the level there is nothing.
    rounding = (16 * np.finfo(np.float32).eps * abs(level)) ** 2 if still.var() < (1e-6 * abs(level)) ** 2 else 0.0
    made = max(float(still.var()) - rounding, 0.0) / (amplitude**2 / 2)
    return Response(frequency, found[0], found[1], found[2], float(made), band)


def _along(probe: Probe, axis: int, level: float, amplitude: float) -> Floats:
    """Return gain, power of images and of harmonics for each wave along an axis, shape (3, F)."""
    cells, factor, rows = probe.cells, probe.factor[axis], []
    place = (np.arange(cells) + 0.5) / cells
    for number in range(1, (cells + 1) // 2):
        turns = np.arange(TURNS) / TURNS
        waves = np.cos(2 * np.pi * (number * place + turns[:, None]))
        maps = np.broadcast_to(waves[:, :, None] if axis == 0 else waves[:, None, :], (TURNS, cells, cells))
        fine = probe(level + amplitude * maps)
        modes = np.fft.fft2(fine - fine.mean((-2, -1), keepdims=True)) / fine[0].size / amplitude
        power = 4 * (np.abs(modes) ** 2).mean(0)
        line = power[:, 0] if axis == 0 else power[0]
        own = np.array([number, -number]) % line.size
        images = np.array([(sign * number + m * cells) % line.size for m in range(1, factor) for sign in (1, -1)])
        wave, image = line[own].mean(), line[np.setdiff1d(images, own)].sum() / 2
        # What lies below rounding of the level is none.
        rest = power.sum() / 2 - wave - image
        rows.append((wave**0.5, image, max(rest, 0.0)))
    return np.array(rows).T
