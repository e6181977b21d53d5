"""Checkerboards in fields from any source: power at image frequencies, means of phases.

A fine field with ``s x s`` fine cells per coarse cell may contain a pattern that repeats with the coarse cells. Its
spectral lines are at multiples of ``1/s`` cycles per fine cell along rows, columns and both; natural fields have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import InputError, ShapeError
from downscale.fields.spectrum import taper
from downscale.kernels.imaging import decibels

Floats = NDArray[np.float64]
Image = tuple[int, int]

# In cycles per coarse cell: half width of an image, and limits of its surroundings.
LINE, RING = 1 / 16, (1 / 8, 3 / 8)
# Along an axis: least number of coarse cells of a field and of a tile of the test, and largest number of tiles.
LEAST_CELLS, TILE, MOST_TILES = 12, 3, 12
DRAWS, SEED = 999, 7
# Departures below this fraction of the largest values are rounding of float32.
ROUNDING = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over maps."""

    power: Floats  # (n_y, n_x): power of the tapered curvature (differences from four neighbours)
    # (tiles_y, tiles_x, s_y, s_x): sums by tile and phase: the curvature, the curvature times the mean of the tile,
    # and the number of cells.
    tables: Floats
    level_products: Floats
    counts: Floats
    moments: Floats  # number, sum and sum of squares of the values minus ``origin``
    origin: float
    largest: float  # largest magnitude of a value
    maps: int  # number of maps

    def __add__(self, other: Sums) -> Sums:
        step = other.origin - self.origin
        level_products = self.level_products + other.level_products + step * other.tables
        moments = self.moments + _move_origin(other.moments, step)
        return Sums(
            self.power + other.power, self.tables + other.tables, level_products, self.counts + other.counts,
            moments, self.origin, max(self.largest, other.largest), self.maps + other.maps,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Checkerboard:
    """Strength of a pattern that repeats with the coarse cells.

    Attributes
    ----------
    factor : (int, int)
        Fine cells per coarse cell, rows and columns.
    images : dict of (int, int) to float
        Power at each image frequency relative to its surroundings, in decibels: zero in fields without a pattern.
    index : float
        Power at all images relative to all their surroundings, in decibels.
    energy : float
        Power at the image frequencies relative to the variance of the field, in decibels.
    pattern : array, shape (f_y, f_x)
        Repeating pattern of constant sign, in units of the field, with mean zero.
    spread : float
        Standard deviation of the field.
    p_value : float
        Fraction of random placements of the tiles with as strong a pattern, of constant sign or proportional to the
        values (twice the smaller fraction). Below 0.01 the pattern is not due to chance.
    power : array, shape (n_y, n_x)
        Mean power by frequency, in the order of ``numpy.fft.fft2``, in units of the field squared.
    maps : int
        Number of maps.
    """

    factor: tuple[int, int]
    images: dict[Image, float]
    index: float
    energy: float
    pattern: Floats
    spread: float
    p_value: float
    power: Floats
    maps: int

    @property
    def amplitude(self) -> float:
        """Root mean square of the pattern, units of the field."""
        return float((self.pattern**2).mean() ** 0.5)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts."""
        return {
            "factor": list(self.factor),
            "checkerboard_index_db": self.index,
            "checkerboard_energy_db": self.energy,
            "pattern_amplitude": self.amplitude,
            "pattern": self.pattern.tolist(),
            "p_value": self.p_value,
            "images_db": {f"{m}/{self.factor[0]},{n}/{self.factor[1]}": value for (m, n), value in self.images.items()},
            "maps": self.maps,
        }


def checkerboard(field: Any, factor: int | tuple[int, int], draws: int = DRAWS, seed: int = SEED) -> Checkerboard:
    """Return the pattern of a fine field that repeats with the coarse cells, with its significance.

    Parameters
    ----------
    field : array, shape (..., n_y, n_x), NumPy or Dask
        Values; non-finite values are gaps. A Dask array is read one block of maps at a time.
    factor : int or (int, int)
        Fine cells per coarse cell.
    draws : int
        Number of random placements in the test of significance.
    seed : int
        Seed of these placements.

    Notes
    -----
    The analysis uses the curvature of fields, in which neither gradients nor gaps leave traces at high frequencies. The
    test shifts the phases of tiles of coarse cells at random, which has no effect without a pattern.

    Raises
    ------
    ShapeError
        If a factor is below two along both axes, or the maps have fewer than twelve coarse cells along an axis.
    InputError
        If there are no values.

    Examples
    --------
    >>> ripple = 0.1 * np.tile([[1.0, -1.0], [-1.0, 1.0]], (32, 32))
    >>> result = checkerboard(np.random.default_rng(0).normal(size=(64, 64)) + ripple, 2)
    >>> round(result.amplitude, 2), result.p_value
    (0.1, 0.002)
    """
    pair = (factor, factor) if isinstance(factor, int) else (int(factor[0]), int(factor[1]))
    _require_size(field.shape, pair)
    sums = _sum_maps(field, pair)
    if not sums.counts.sum():
        raise InputError("expected values with neighbours on all sides, received none; choose another variable")
    return _assess(sums, pair, draws, seed)


def _require_size(shape: tuple[int, ...], factor: tuple[int, int]) -> None:
    if max(factor) < 2 or min(factor) < 1:
        raise ShapeError(f"expected a factor of at least 2 along some axis, received {factor[0]} x {factor[1]}")
    least = [LEAST_CELLS * f for f in factor]
    if len(shape) < 2 or any(n < m for n, m in zip(shape[-2:], least, strict=True)):
        received = " x ".join(map(str, shape[-2:]))
        raise ShapeError(
            f"expected maps of at least {least[0]} x {least[1]} cells for factor {factor[0]} x {factor[1]}, received "
            f"{received}; take a larger region"
        )


def _sum_maps(field: Any, factor: tuple[int, int]) -> Sums:
    """Return the sums over all maps, block by block for a Dask array."""
    if not hasattr(field, "dask"):
        return _sum_block(np.asarray(field), factor)
    import dask

    from downscale.process.computing import compute

    maps = field.rechunk({field.ndim - 2: -1, field.ndim - 1: -1})
    parts = [dask.delayed(_sum_block)(block, factor) for block in maps.to_delayed().ravel()]
    while len(parts) > 1:
        parts = [dask.delayed(reduce)(add, parts[i : i + 8]) for i in range(0, len(parts), 8)]
    return compute(parts[0])[0]


def _sum_block(maps: NDArray[Any], factor: tuple[int, int]) -> Sums:
    """Return the sums over maps, one by one, because their spectra are as large as the maps."""
    maps = maps.reshape(-1, *maps.shape[-2:])
    rows, columns = (n // f * f for n, f in zip(maps.shape[-2:], factor, strict=True))
    finite = maps[np.isfinite(maps)] if maps.dtype.kind in "fc" else maps.ravel()
    origin = float(finite[0]) if finite.size else 0.0
    return reduce(add, (_sum_map(values.astype(np.float64), factor, origin) for values in maps[:, :rows, :columns]))


def _sum_map(values: Floats, factor: tuple[int, int], origin: float) -> Sums:
    valid = np.isfinite(values)
    anomaly = np.where(valid, values - origin, 0.0)
    # Four neighbours minus the cell; border cells lack some of them.
    inner = (slice(1, -1), slice(1, -1))
    curvature, has_neighbours = np.zeros_like(anomaly), np.zeros_like(valid)
    neighbours = [anomaly[:-2, 1:-1], anomaly[2:, 1:-1], anomaly[1:-1, :-2], anomaly[1:-1, 2:]]
    curvature[inner] = sum(neighbours) - 4 * anomaly[inner]
    has_neighbours[inner] = valid[inner] & valid[:-2, 1:-1] & valid[2:, 1:-1] & valid[1:-1, :-2] & valid[1:-1, 2:]
    curvature[~has_neighbours] = 0.0
    window = taper(anomaly.shape) * has_neighbours
    square = (window**2).sum()
    mean = (window * curvature).sum() / window.sum() if square > 0 else 0.0
    power = np.abs(np.fft.fft2(window * (curvature - mean))) ** 2 / square if square > 0 else np.zeros(anomaly.shape)
    moments = np.array([valid.sum(), anomaly.sum(), (anomaly**2).sum()])
    largest = float(np.abs(anomaly + origin)[valid].max(initial=0.0))
    tables, counts = _sum_tiles(curvature, factor), _sum_tiles(has_neighbours.astype(np.float64), factor)
    tile_counts = counts.sum((-2, -1))
    level = _sum_tiles(np.where(has_neighbours, anomaly, 0.0), factor).sum((-2, -1)) / np.maximum(tile_counts, 1)
    return Sums(power, tables, tables * level[..., None, None], counts, moments, origin, largest, 1)


def _sum_tiles(values: Floats, factor: tuple[int, int]) -> Floats:
    """Return sums by tile and phase, shape (tiles_y, tiles_x, f_y, f_x), without values beyond the last tile."""
    cells = [n // f for n, f in zip(values.shape, factor, strict=True)]
    tile = [max(TILE, n // MOST_TILES) for n in cells]
    tiles = [n // size for n, size in zip(cells, tile, strict=True)]
    tiled_values = values[: tiles[0] * tile[0] * factor[0], : tiles[1] * tile[1] * factor[1]]
    parts = tiled_values.reshape(tiles[0], tile[0], factor[0], tiles[1], tile[1], factor[1])
    return parts.sum((1, 4)).transpose(0, 2, 1, 3)


def _move_origin(moments: Floats, step: float) -> Floats:
    """Return number, sum and sum of squares about an origin lower by ``step``."""
    count, total, square = moments
    return np.array([count, total + count * step, square + 2 * step * total + count * step**2])


def _assess(sums: Sums, factor: tuple[int, int], draws: int, seed: int) -> Checkerboard:
    count, total, square = sums.moments
    spread = float(max(square / count - (total / count) ** 2, 0.0) ** 0.5)
    power = sums.power / sums.maps
    floor = (ROUNDING * sums.largest) ** 2
    images, index, energy = _image_indices(power, factor, floor)
    pattern = _integrate(_phase_means(sums.tables.sum((0, 1)), sums.counts.sum((0, 1))))
    p_value = _p_value(sums, draws, seed, floor)
    gain = np.maximum(np.add.outer(*(_curvature_gain(n) for n in power.shape)), 1e-12) ** 2
    energy_db = float(decibels(energy / spread**2)) if spread**2 > floor else float("nan")
    return Checkerboard(factor, images, index, energy_db, pattern, spread, p_value, power / gain, sums.maps)


def _curvature_gain(size: int) -> Floats:
    """Return the response of a second difference to waves along an axis, without its sign."""
    return 2 - 2 * np.cos(2 * np.pi * np.fft.fftfreq(size))


def _image_indices(power: Floats, factor: tuple[int, int], rounding: float) -> tuple[dict[Image, float], float, float]:
    """Return the decibels of each image relative to its surroundings, those of all together, and their total power."""
    images, lines, rings, energy = {}, 0.0, 0.0, 0.0
    y, x = (np.fft.fftfreq(n) for n in power.shape)
    for m, n in product(range(factor[0]), range(factor[1])):
        if not (m or n):
            continue
        # Distances in cycles per coarse cell, on the circle of frequencies.
        distance_y, distance_x = (
            np.abs((f - k / s + 0.5) % 1 - 0.5) * s for f, k, s in zip((y, x), (m, n), factor, strict=True)
        )
        distance = np.maximum(distance_y[:, None], distance_x)
        gain = float(sum(2 - 2 * np.cos(2 * np.pi * k / s) for k, s in zip((m, n), factor, strict=True))) ** 2
        peak = power[distance <= LINE] / gain
        line, ring = (
            peak.mean() + rounding,
            power[(distance > RING[0]) & (distance <= RING[1])].mean() / gain + rounding,
        )
        images[(m, n)] = float(decibels(line / ring)) if ring > 0 else 0.0
        lines, rings, energy = lines + line, rings + ring, energy + peak.sum() / power.size
    return images, float(decibels(lines / rings)) if rings > 0 else 0.0, float(energy)


def _phase_means(tables: Floats, counts: Floats) -> Floats:
    """Return means by phase minus the overall mean."""
    means = tables / np.maximum(counts, 1)
    return np.where(counts > 0, means - tables.sum((-2, -1), keepdims=True) / counts.sum((-2, -1), keepdims=True), 0.0)


def _integrate(curvature: Floats) -> Floats:
    """Return the periodic pattern with this curvature and mean zero, over a coarse cell."""
    gain = -np.add.outer(*(_curvature_gain(n) for n in curvature.shape))
    gain[0, 0] = 1.0
    modes = np.fft.fft2(curvature) / gain
    modes[0, 0] = 0.0
    return np.fft.ifft2(modes).real


def _p_value(sums: Sums, draws: int, seed: int, rounding: float) -> float:
    """Return the fraction of random phase shifts after which tiles agree as well as without shifts."""
    has_cells = sums.counts.sum((-2, -1)) > 0
    counts, tables = sums.counts[has_cells], sums.tables[has_cells]
    level = sums.moments[1] / sums.moments[0]
    rng, (rows, columns) = np.random.default_rng(seed), counts.shape[-2:]
    shifts = rng.integers(rows, size=(draws, len(counts))), rng.integers(columns, size=(draws, len(counts)))
    constant = _fraction_as_strong(_centre(tables, counts), counts.sum() ** 2 * rounding, shifts)
    level_products = _centre(sums.level_products[has_cells] - level * tables, counts)
    return min(1.0, 2 * min(constant, _fraction_as_strong(level_products, (counts.sum() * rounding) ** 2, shifts)))


def _centre(tables: Floats, counts: Floats) -> Floats:
    """Return phases minus the mean of their tile, weighted by numbers of cells."""
    totals = counts.sum((-2, -1), keepdims=True)
    return tables - counts * tables.sum((-2, -1), keepdims=True) / np.where(totals > 0, totals, 1)


def _fraction_as_strong(tables: Floats, rounding: float, shifts: tuple[NDArray[np.int64], NDArray[np.int64]]) -> float:
    """Return the fraction of draws whose summed tables are as strong as the given ones, which count as one draw."""
    (rows, columns), draws = tables.shape[-2:], len(shifts[0])
    modes = np.fft.fft2(tables)
    observed = (np.abs(modes.sum(0)) ** 2).sum()
    if observed <= rows * columns * rounding:
        return 1.0
    strength = np.zeros(draws)
    for m, n in product(range(rows), range(columns)):
        # A shift of the phases rotates each mode.
        shifted_modes = np.exp(2j * np.pi * (m * shifts[0] / rows + n * shifts[1] / columns)) @ modes[:, m, n]
        strength += np.abs(shifted_modes) ** 2
    return float(((strength >= observed * (1 - 1e-12)).sum() + 1) / (draws + 1))
