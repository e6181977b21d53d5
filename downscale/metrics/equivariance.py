"""Whether a shifted input makes a shifted output: errors of up-scalers under shifts by parts of a cell (numpy).

The oracle shifts through the Fourier series, which is exact on a torus. Of a linear up-scaler only images break it: the
image m of a wave turns by m cycles a coarse cell too much. Waves of hardly more than two coarse cells have images as
strong as themselves in any up-scaler that does not damp them, so errors are told for the waves of the pass band;
``band=0.5`` takes them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import InputError, ShapeError
from downscale.fields.shift import fourier_shift
from downscale.kernels.imaging import PASS_BAND
from downscale.metrics.probe import Probe

Floats = NDArray[np.float64]
SHIFTS = tuple(i / 8 for i in range(9))
# Slope of the power spectrum of the field that stands in where none is given: that of temperature, about.
SLOPE = 3.0
# Width (standard deviation) of the blob, coarse cells: about as sharp as a coarse grid can place.
BLOB = 1.0
SEED = 20


@dataclass(frozen=True, eq=False)
class Equivariance:
    """Errors of an up-scaler under shifts.

    Attributes
    ----------
    shifts : array, shape (S,)
        Shifts along rows and along columns, coarse cells.
    error : array, shape (S,)
        Root mean square of ``U(shift x) - shift(U x)`` over the standard deviation of x.
    displacement : array, shape (S,)
        How far the centre of a blob comes out beside where it is, root mean square over both axes, coarse cells.
    exact : bool
        Whether the up-scaler has a finite reach; else the field ends where the torus is cut open.
    band : float
        Highest frequency of the field, cycles a coarse cell.
    """

    shifts: Floats
    error: Floats
    displacement: Floats
    exact: bool
    band: float

    @property
    def worst(self) -> float:
        """The largest error over all shifts."""
        return float(self.error.max())

    @property
    def mean(self) -> float:
        """Root mean square error over all shifts."""
        return float((self.error**2).mean() ** 0.5)

    @property
    def mean_displacement(self) -> float:
        """Root mean square displacement of the blob, coarse cells."""
        return float((self.displacement**2).mean() ** 0.5)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists."""
        return {
            "equivariance_error": self.mean,
            "worst_equivariance_error": self.worst,
            "displacement_cells": self.mean_displacement,
            "band": self.band,
            "shifts": self.shifts.tolist(),
            "error": self.error.tolist(),
            "displacement": self.displacement.tolist(),
        }


def equivariance(
    probe: Probe,
    field: NDArray[Any] | None = None,
    *,
    level: float = 0.0,
    amplitude: float = 1.0,
    shifts: Sequence[float] = SHIFTS,
    band: float = PASS_BAND,
) -> Equivariance:
    """Measure how shifts of the coarse field by parts of a cell come through an up-scaler.

    Parameters
    ----------
    probe : Probe
        The up-scaler on a torus.
    field : array, shape (n, n) or (N, n, n), optional
        Coarse maps of ``probe.cells / 2`` cells an axis, mirrored into periodic ones, in the units of the up-scaler.
        Without any, noise with the spectrum of temperature, of this ``level`` and standard deviation ``amplitude``.
    level, amplitude : float
        Of the field that stands in, and of the blob.
    shifts : sequence of float
        Coarse cells; a whole cell costs nothing where an up-scaler treats all cells alike.
    band : float
        Highest frequency that is left in the field, cycles a coarse cell along an axis; 0.5 leaves all.

    Raises
    ------
    ShapeError
        If the maps have not half as many cells as the torus.
    InputError
        If they are not finite, or constant.

    References
    ----------
    Karras et al. (2021), Alias-free generative adversarial networks, NeurIPS; Zhang (2019), Making convolutional
    networks shift-invariant again, ICML.
    """
    if field is None:
        maps = level + amplitude * red_noise(probe.cells)
    else:
        maps = mirrored(np.asarray(field, dtype=np.float64), probe.cells)
    moves = np.asarray(shifts, dtype=np.float64)
    spread = maps.std(axis=(-2, -1), keepdims=True)
    if not np.isfinite(maps).all() or not spread.all():
        raise InputError("expected finite coarse maps that vary, received NaN or constant ones; choose another region")
    maps = _passed(maps, band)
    fine, errors = probe(maps), []
    for move in moves:
        each = []
        for axis in ("rows", "columns"):
            oracle = fourier_shift(fine, **{axis: move * probe.factor[axis == "columns"]})
            each.append((((probe(fourier_shift(maps, **{axis: move})) - oracle) / spread) ** 2).mean())
        errors.append(np.mean(each) ** 0.5)
    blobs = np.array([_displacement(probe, move, level, amplitude) for move in moves])
    return Equivariance(moves, np.array(errors), blobs, probe.exact, band)


def red_noise(cells: int, slope: float = SLOPE, count: int = 4, seed: int = SEED) -> Floats:
    """Return periodic maps with a power spectrum ``k**-slope``, mean zero, variance one, the same at every call.

    The waves of two cells are left out: they cannot be shifted. Shape (count, cells, cells).
    """
    rng = np.random.default_rng(seed)
    modes = np.fft.fft2(rng.normal(size=(count, cells, cells)))
    number = np.fft.fftfreq(cells)
    size = np.hypot(number[:, None], number)
    gain = np.where(size > 0, np.maximum(size, 1 / cells) ** (-slope / 2), 0.0)
    gain[np.abs(number) == 0.5, :] = 0
    gain[:, np.abs(number) == 0.5] = 0
    maps = np.fft.ifft2(modes * gain).real
    return maps / maps.std(axis=(-2, -1), keepdims=True)


def _passed(maps: Floats, band: float) -> Floats:
    """Leave the waves up to a frequency along each axis."""
    number = np.abs(np.fft.fftfreq(maps.shape[-1]))
    kept = np.maximum(number[:, None], number) <= band * (1 + 1e-9)
    return np.fft.ifft2(np.fft.fft2(maps) * kept).real


def mirrored(maps: Floats, cells: int) -> Floats:
    """Continue maps of half as many cells by their mirror images, which is periodic without a jump.

    Raises
    ------
    ShapeError
        If they have another size.
    """
    if maps.shape[-2:] != (cells // 2, cells // 2):
        raise ShapeError(f"expected maps of {cells // 2} x {cells // 2} cells, received {maps.shape[-2:]}; crop them")
    wide = np.concatenate([maps, maps[..., ::-1]], axis=-1)
    return np.concatenate([wide, wide[..., ::-1, :]], axis=-2).reshape(-1, cells, cells)


def _displacement(probe: Probe, move: float, level: float, amplitude: float) -> float:
    """Return how far the blob is displaced where its centre lies ``move`` cells beside that of a coarse cell."""
    middle, found = probe.cells // 2 + 0.5, []
    # Across both axes and along each.
    for offset in ((move, 0.0), (0.0, move), (move, move)):
        coarse = np.multiply.outer(*(_blob(probe.cells, middle + each) for each in offset))
        fine = probe(level + amplitude * coarse / coarse.max()) - level
        for axis in (0, 1):
            # The part above half of the height is what the eye follows.
            weight = np.maximum(fine - fine.max() / 2, 0).sum(1 - axis)
            place = (np.arange(weight.size) + 0.5) / probe.factor[axis]
            found.append((weight @ place) / weight.sum() - middle - offset[axis])
    return float(np.sqrt(np.mean(np.square(found))))


def _blob(cells: int, centre: float) -> Floats:
    """Return averages of a Gaussian over coarse cells."""
    edges = np.array([erf((edge - centre) / (BLOB * 2**0.5)) for edge in range(cells + 1)])
    return np.diff(edges)
