"""Methods on a torus of equal cells: response to plane waves, and equivariance under shifts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import erf
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from downscale.errors import InputError, ShapeError
from downscale.fields.spectrum import fourier_shift
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.kernels.imaging import PASS_BAND, decibels
from downscale.typing import Place, Upscaler

Floats = NDArray[np.float64]
# Width of a cell in metres.
CELL = 10_000.0
# Continuation of a field for a method without finite reach, as a fraction of the torus.
UNBOUNDED_MARGIN = 0.5
# Phases of each wave, in fractions of its length: real waves need two, nonlinear methods more.
TURNS = 4
SHIFTS = tuple(i / 8 for i in range(9))
# Slope of the power spectrum of the default field, close to that of temperature.
SLOPE = 3.0
# Standard deviation of the blob in coarse cells, close to the sharpest that a coarse grid can resolve.
BLOB = 1.0
SEED = 20


@dataclass(frozen=True)
class Probe:
    """A method that takes maps on a torus of ``cells`` coarse cells."""

    # From (n, cells, cells) to (n, cells * f_y, cells * f_x), float64, periodic in both directions.
    refine: Callable[[Floats], Floats]
    cells: int  # coarse cells along each axis
    factor: tuple[int, int]  # refinement of rows and columns
    # Whether the method has a finite reach that the margin covers; otherwise values beyond the torus are missing.
    exact: bool = True

    def __call__(self, coarse: Floats) -> Floats:
        """Return fine maps of coarse ones, shape (n, cells, cells) or (cells, cells)."""
        maps = coarse.reshape(-1, self.cells, self.cells)
        fine = self.refine(np.ascontiguousarray(maps))
        expected = (len(maps), self.cells * self.factor[0], self.cells * self.factor[1])
        if fine.shape != expected:
            raise ShapeError(f"expected fine maps of shape {expected}, received {fine.shape}; check the factor")
        if not np.isfinite(fine).all():
            raise InputError("expected finite fine values of finite coarse ones, received NaN or infinite ones")
        return fine.reshape(*coarse.shape[:-2], *expected[1:])


def plane(rows: int, columns: int, cell: float = CELL) -> RectilinearGrid:
    """Return a grid of equal cells on a plane."""
    y, x = (CellAxis(cell * np.arange(count + 1.0), "projected") for count in (rows, columns))
    return RectilinearGrid(y, x)


def probe(
    build: Callable[[RectilinearGrid], Upscaler],
    cells: int = 32,
    statics: Mapping[str, float] | None = None,
) -> Probe:
    """Return a method as a function on a torus, with fields continued periodically over the method's reach.

    Parameters
    ----------
    make : callable
        From a grid to the method on it.
    cells : int
        Coarse cells of the torus along each axis.
    statics : mapping of channel to number, optional
        Fine static features, the same everywhere.
    """
    first = build(plane(cells, cells))
    margin = int(np.ceil(cells * UNBOUNDED_MARGIN)) if first.halo is None else max(first.halo)
    # The margin must cover windows that shift inward at an open end.
    margin += margin % first.multiple_of
    size = cells + 2 * margin
    grid = plane(size, size)
    upscaler, factor = build(grid), (int(first.factor[0]), int(first.factor[1]))
    shape = (size * factor[0], size * factor[1])
    constants = {name: np.full(shape, value) for name, value in (statics or {}).items()}
    place = Place(grid, grid.refine(*factor), statics=constants)

    def refine(coarse: Floats) -> Floats:
        import torch

        periodic_map = np.pad(coarse, ((0, 0), (margin, margin), (margin, margin)), mode="wrap")
        with torch.no_grad():
            fine = np.asarray(cast(Any, upscaler)(torch.from_numpy(periodic_map), place), dtype=np.float64)
        rows, columns = (slice(margin * f, (margin + cells) * f) for f in factor)
        return fine[:, rows, columns]

    return Probe(refine, cells, factor, first.halo is not None)


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
        in_band = self.frequency <= self.band * (1 + 1e-9)
        return float(-decibels(self.images[in_band].sum() / max((self.gain[in_band] ** 2).sum(), 1e-300)))

    @property
    def checkerboard_of_constants(self) -> float:
        """Decibels by which the pattern from a constant is below the waves; 300 if there is none."""
        return float(-decibels(self.of_constants))

    @property
    def pass_band_error(self) -> float:
        """Root mean square deviation of the gain from one over the pass band."""
        in_band = self.frequency <= self.band * (1 + 1e-9)
        return float(((1 - self.gain[in_band]) ** 2).mean() ** 0.5)

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
    powers = np.mean([_wave_powers(probe, axis, level, amplitude) for axis in axes], axis=0)
    frequency = np.arange(1, (probe.cells + 1) // 2) / probe.cells
    output = probe(np.full((probe.cells, probe.cells), float(level)))
    # A wave of this amplitude has the variance amplitude**2 / 2; powers far below rounding of the level count as zero.
    rounding = (16 * np.finfo(np.float32).eps * abs(level)) ** 2 if output.var() < (1e-6 * abs(level)) ** 2 else 0.0
    constant_power = max(float(output.var()) - rounding, 0.0) / (amplitude**2 / 2)
    return Response(frequency, powers[0], powers[1], powers[2], float(constant_power), band)


def _wave_powers(probe: Probe, axis: int, level: float, amplitude: float) -> Floats:
    """Return gain, power of images and of harmonics for each wave along an axis, shape (3, F)."""
    cells, factor, rows = probe.cells, probe.factor[axis], []
    place = (np.arange(cells) + 0.5) / cells
    for number in range(1, (cells + 1) // 2):
        phases = np.arange(TURNS) / TURNS
        waves = np.cos(2 * np.pi * (number * place + phases[:, None]))
        maps = np.broadcast_to(waves[:, :, None] if axis == 0 else waves[:, None, :], (TURNS, cells, cells))
        fine = probe(level + amplitude * maps)
        modes = np.fft.fft2(fine - fine.mean((-2, -1), keepdims=True)) / fine[0].size / amplitude
        power = 4 * (np.abs(modes) ** 2).mean(0)
        line = power[:, 0] if axis == 0 else power[0]
        wave_modes = np.array([number, -number]) % line.size
        images = np.array([(sign * number + m * cells) % line.size for m in range(1, factor) for sign in (1, -1)])
        wave, image = line[wave_modes].mean(), line[np.setdiff1d(images, wave_modes)].sum() / 2
        # Powers below rounding of the level count as zero.
        remainder = power.sum() / 2 - wave - image
        rows.append((wave**0.5, image, max(remainder, 0.0)))
    return np.array(rows).T


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
        maps = mirror(np.asarray(field, dtype=np.float64), probe.cells)
    offsets = np.asarray(shifts, dtype=np.float64)
    spread = maps.std(axis=(-2, -1), keepdims=True)
    if not np.isfinite(maps).all() or not spread.all():
        raise InputError("expected finite coarse maps that vary, received NaN or constant ones; choose another region")
    maps = _filter_band(maps, band)
    fine, errors = probe(maps), []
    for offset in offsets:
        squares = []
        for axis in ("rows", "columns"):
            oracle = fourier_shift(fine, **{axis: offset * probe.factor[axis == "columns"]})
            squares.append((((probe(fourier_shift(maps, **{axis: offset})) - oracle) / spread) ** 2).mean())
        errors.append(np.mean(squares) ** 0.5)
    blobs = np.array([_displacement(probe, offset, level, amplitude) for offset in offsets])
    return Equivariance(offsets, np.array(errors), blobs, probe.exact, band)


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


def _filter_band(maps: Floats, band: float) -> Floats:
    """Return maps with only the waves up to a frequency along each axis."""
    number = np.abs(np.fft.fftfreq(maps.shape[-1]))
    in_band = np.maximum(number[:, None], number) <= band * (1 + 1e-9)
    return np.fft.ifft2(np.fft.fft2(maps) * in_band).real


def mirror(maps: Floats, cells: int) -> Floats:
    """Return maps of half as many cells continued by their mirror images, which is periodic without a jump."""
    if maps.shape[-2:] != (cells // 2, cells // 2):
        raise ShapeError(f"expected maps of {cells // 2} x {cells // 2} cells, received {maps.shape[-2:]}; crop them")
    wide = np.concatenate([maps, maps[..., ::-1]], axis=-1)
    return np.concatenate([wide, wide[..., ::-1, :]], axis=-2).reshape(-1, cells, cells)


def _displacement(probe: Probe, move: float, level: float, amplitude: float) -> float:
    """Return the displacement of a blob whose centre is ``move`` cells from that of a coarse cell."""
    middle, displacements = probe.cells // 2 + 0.5, []
    # Across both axes and along each.
    for offset in ((move, 0.0), (0.0, move), (move, move)):
        coarse = np.multiply.outer(*(_blob(probe.cells, middle + shift) for shift in offset))
        fine = probe(level + amplitude * coarse / coarse.max()) - level
        for axis in (0, 1):
            # Only the part above half height, which defines the visible position.
            weight = np.maximum(fine - fine.max() / 2, 0).sum(1 - axis)
            place = (np.arange(weight.size) + 0.5) / probe.factor[axis]
            displacements.append((weight @ place) / weight.sum() - middle - offset[axis])
    return float(np.sqrt(np.mean(np.square(displacements))))


def _blob(cells: int, centre: float) -> Floats:
    """Return a Gaussian averaged over coarse cells."""
    edges = np.array([erf((edge - centre) / (BLOB * 2**0.5)) for edge in range(cells + 1)])
    return np.diff(edges)
