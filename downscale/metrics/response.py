"""Response of a method to plane waves: gain, images, harmonics.

A linear method turns a wave into itself and its images, as its kernel prescribes. A network also produces harmonics,
and its response depends on the level and the amplitude of the wave.
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
# Phases of each wave, in fractions of its length: real waves need two, nonlinear methods more.
TURNS = 4


@dataclass(frozen=True, eq=False)
class Response:
    """Powers by coarse frequency relative to the input wave; means over waves along rows and columns.

    Attributes
    ----------
    frequency : array, shape (F,)
        In cycles per coarse cell, above zero.
    gain : array, shape (F,)
        Amplitude of the output wave.
    images : array, shape (F,)
        Power of all its images.
    harmonics : array, shape (F,)
        Power of everything else, except the mean.
    of_constants : float
        Power from a constant field, relative to that of the waves.
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
        """Decibels by which images are below the waves of the pass band."""
        inside = self.frequency <= self.band * (1 + 1e-9)
        return float(-decibels(self.images[inside].sum() / max((self.gain[inside] ** 2).sum(), 1e-300)))

    @property
    def checkerboard_of_constants(self) -> float:
        """Decibels by which the pattern from a constant is below the waves; 300 if there is none."""
        return float(-decibels(self.of_constants))

    @property
    def pass_band_error(self) -> float:
        """Root mean square deviation of the gain from one over the pass band."""
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
    """Return the response of a method to plane waves along rows and columns, and to a constant.

    Parameters
    ----------
    probe : Probe
        The method on a torus.
    level, amplitude : float
        Level and amplitude of the waves, in units of the field.
    band : float
        Highest frequency of the pass band, in cycles per coarse cell.

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
    # A wave of this amplitude has the variance amplitude**2 / 2; powers far below rounding of the level count as zero.
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
        # Powers below rounding of the level count as zero.
        rest = power.sum() / 2 - wave - image
        rows.append((wave**0.5, image, max(rest, 0.0)))
    return np.array(rows).T
