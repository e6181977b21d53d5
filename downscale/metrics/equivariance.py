"""Equivariance of a method under shifts of the coarse field by fractions of a cell.

The reference shift uses the Fourier series, which is exact on a torus. In a linear method only images break
equivariance: image m of a wave turns by m cycles per coarse cell too much. Waves of little more than two coarse cells
have images as strong as themselves in any method that does not damp them. Errors therefore refer to waves of the pass
band; ``band=0.5`` includes all waves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import InputError, ShapeError
from downscale.fields.spectrum import fourier_shift
from downscale.kernels.imaging import PASS_BAND
from downscale.metrics.probe import Probe

Floats = NDArray[np.float64]
SHIFTS = tuple(i / 8 for i in range(9))
# Slope of the power spectrum of the default field, close to that of temperature.
SLOPE = 3.0
# Standard deviation of the blob in coarse cells, close to the sharpest that a coarse grid can resolve.
BLOB = 1.0
SEED = 20


@dataclass(frozen=True, eq=False)
class Equivariance:
    """Errors of a method under shifts.

    Attributes
    ----------
    shifts : array, shape (S,)
        Shifts along rows and along columns, coarse cells.
    error : array, shape (S,)
        Root mean square of ``U(shift x) - shift(U x)`` over the standard deviation of x.
    displacement : array, shape (S,)
        Distance of the blob's centre from its correct position, root mean square over both axes, in coarse cells.
    exact : bool
        Whether the method has a finite reach; otherwise the field ends where the torus is cut.
    band : float
        Highest frequency of the field, in cycles per coarse cell.
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
        """Root mean square displacement of the blob, in coarse cells."""
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
    """Return the errors of a method under shifts of the coarse field by fractions of a cell.

    Parameters
    ----------
    probe : Probe
        The method on a torus.
    field : array, shape (n, n) or (N, n, n), optional
        Coarse maps of ``probe.cells / 2`` cells per axis, in the units of the method, mirrored into periodic ones. The
        default is noise with the spectrum of temperature, with this ``level`` and standard deviation ``amplitude``.
    level, amplitude : float
        Level and amplitude of the default field and of the blob.
    shifts : sequence of float
        Shifts in coarse cells; whole cells give no error if a method treats all cells alike.
    band : float
        Highest frequency of the field along an axis, in cycles per coarse cell; 0.5 includes all.

    Raises
    ------
    ShapeError
        If the maps do not have half as many cells as the torus.
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

    Waves of two cells are excluded, because they cannot be shifted. Shape (count, cells, cells).
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
    """Return maps with only the waves up to a frequency along each axis."""
    number = np.abs(np.fft.fftfreq(maps.shape[-1]))
    kept = np.maximum(number[:, None], number) <= band * (1 + 1e-9)
    return np.fft.ifft2(np.fft.fft2(maps) * kept).real


def mirrored(maps: Floats, cells: int) -> Floats:
    """Return maps of half as many cells continued by their mirror images, which is periodic without a jump.

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
    """Return the displacement of a blob whose centre is ``move`` cells from that of a coarse cell."""
    middle, found = probe.cells // 2 + 0.5, []
    # Across both axes and along each.
    for offset in ((move, 0.0), (0.0, move), (move, move)):
        coarse = np.multiply.outer(*(_blob(probe.cells, middle + each) for each in offset))
        fine = probe(level + amplitude * coarse / coarse.max()) - level
        for axis in (0, 1):
            # Only the part above half height, which defines the visible position.
            weight = np.maximum(fine - fine.max() / 2, 0).sum(1 - axis)
            place = (np.arange(weight.size) + 0.5) / probe.factor[axis]
            found.append((weight @ place) / weight.sum() - middle - offset[axis])
    return float(np.sqrt(np.mean(np.square(found))))


def _blob(cells: int, centre: float) -> Floats:
    """Return a Gaussian averaged over coarse cells."""
    edges = np.array([erf((edge - centre) / (BLOB * 2**0.5)) for edge in range(cells + 1)])
    return np.diff(edges)
