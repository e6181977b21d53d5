"""Tiles of real terrain for training, and statistics of generated terrain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.coordinates import horizontal_variables
from downscale.cf.horizontal import as_dataset
from downscale.errors import InputError
from downscale.fields.aggregate import Aggregation
from downscale.fields.gradient import Spacing, slope
from downscale.fields.spectrum import radial_power, rings, taper
from downscale.training.pairs import crop_to_cells

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tiles:
    """Square tiles of terrain without missing cells."""

    heights: Floats  # (n, size, size): heights in metres relative to the mean of each tile
    step: tuple[float, float]  # mean distance of rows and of columns in metres
    scale: float  # standard deviation of all heights about the means of their tiles, in metres

    @property
    def spacing(self) -> Spacing:
        """Distances in metres, the same everywhere."""
        return uniform_spacing(self.heights.shape[-1], self.step)


def uniform_spacing(size: int, step: tuple[float, float]) -> Spacing:
    """Return the distances of a square map of even steps in metres."""
    dx, area = np.full((size, size), 2 * step[1]), np.full((size, size), step[0] * step[1])
    return Spacing(np.full(size, 2 * step[0]), dx, area, periodic=False)


def read_tiles(
    relief: xr.Dataset | xr.DataArray, size: int, stride: int | None = None, least: float = 0.0, average: int = 1
) -> Tiles:
    """Return terrain cut into tiles of ``size`` cells per side, without those that are flat or contain sea.

    ``relief`` has heights in metres, of which the mean over ``average`` cells along each axis is taken first. Tiles
    begin every ``stride`` cells, a quarter of the size by default, and all their cells exceed the height ``least`` in
    metres.
    """
    ds, axes = crop_to_cells(as_dataset(relief)[0], [average, average])
    field = ds[horizontal_variables(ds, axes)[0]].transpose(..., *axes.dims)
    values = np.asarray(field.values, np.float64).reshape(-1, *field.shape[-2:])[0]
    grid = axes.grid
    if average > 1:
        grid = axes.grid.coarsen(average, average)
        values = Aggregation.between(grid, axes.grid).mean(values)
    steps = Spacing.of(grid)
    distances = np.abs(np.broadcast_to(steps.dy_cells, steps.shape)) / 2, np.abs(steps.dx) / 2
    tiles, widths = [], []
    interval = stride or max(size // 4, 1)
    for row in range(0, values.shape[0] - size + 1, interval):
        for column in range(0, values.shape[1] - size + 1, interval):
            window = np.s_[row : row + size, column : column + size]
            tile = values[window]
            if np.isfinite(tile).all() and tile.min() > least and np.ptp(tile) > 0:
                tiles.append(tile - tile.mean())
                widths.append([distance[window].mean() for distance in distances])
    if len(tiles) < 4:
        raise InputError(
            f"expected at least 4 tiles of {size} x {size} cells above {least:g} m, received {len(tiles)} of a field "
            f"of {values.shape[0]} x {values.shape[1]}; choose a smaller size or stride"
        )
    heights, step = np.array(tiles), np.mean(widths, axis=0)
    return Tiles(heights, (float(step[0]), float(step[1])), float(heights.std()))


def reorient_tiles(tiles: Floats, rng: np.random.Generator) -> Floats:
    """Return tiles mirrored and turned at random, on the assumption that terrain has no preferred direction."""
    result = []
    for tile in tiles:
        tile = np.rot90(tile, int(rng.integers(4)))
        result.append(tile[:, ::-1] if rng.integers(2) else tile)
    return np.array(result)


def fraction_below(heights: Floats, spacing: Spacing, cap: float) -> float:
    """Return the fraction of cells whose slope is at most the cap."""
    return float((slope(heights, spacing) <= cap).mean())


def slope_quantiles(heights: Floats, spacing: Spacing, levels: tuple[float, ...]) -> Floats:
    """Return quantiles of slopes, in m per m."""
    return np.quantile(slope(heights, spacing), levels)


def relative_decibels(generated: Floats, real: Floats) -> tuple[Floats, Floats]:
    """Return wavelengths in cells, and the ratio of the mean power of generated and real maps in decibels."""
    size = generated.shape[-1]
    table, window = rings((size, size)), taper((size, size))
    generated_power, real_power = (
        radial_power(maps, np.ones(maps.shape, bool), window, table).mean(axis=0) for maps in (generated, real)
    )
    return 1 / table.wavenumber, 10 * np.log10(generated_power / real_power)


def phase_imbalance(maps: Floats) -> float:
    """Return the imbalance between the four phases of stride-two stages: 0 without any checkerboard.

    The residual from means of 3 x 3 cells has a mean and a mean square in each phase (even or odd row and column). The
    imbalance is the difference between phases, relative to the whole residual.
    """
    extended = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    size = maps.shape[-1]
    smooth = sum(extended[:, i : i + size, j : j + size] for i in range(3) for j in range(3)) / 9
    # Edges are excluded, because padding affects them.
    residual = (maps - smooth)[:, 2:-2, 2:-2]
    total = float((residual**2).mean())
    if total == 0:
        return 0.0
    phases = [residual[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    energy = np.array([(phase**2).mean() for phase in phases]) / total
    means = np.ptp([phase.mean() for phase in phases]) ** 2 / total
    return float(np.ptp(energy) + means)


def maps_dataset(maps: Floats, path: Floats, step: tuple[float, float]) -> xr.Dataset:
    """Return generated maps and an interpolation between two of them as a Dataset with coordinates in metres."""
    size = maps.shape[-1]
    coords: dict[str, Any] = {}
    for name, distance in zip(("y", "x"), step, strict=True):
        centres = (np.arange(size) + 0.5) * distance
        attrs = {"units": "m", "standard_name": f"projection_{name}_coordinate", "axis": name.upper(),
                 "bounds": f"{name}_bnds"}  # fmt: skip
        coords[name] = (name, centres, attrs)
        edges = np.arange(size + 1) * distance
        coords[f"{name}_bnds"] = ((name, "bnds"), np.stack([edges[:-1], edges[1:]], axis=1))
    height_attrs = {"units": "m", "long_name": "generated height about the mean of the map"}
    coords["realization"] = ("realization", np.arange(len(maps)), {"standard_name": "realization", "units": "1"})
    walk_attrs = {"long_name": "way between two latent vectors", "units": "1"}
    coords["walk"] = ("walk", np.linspace(0, 1, len(path)), walk_attrs)
    fields = {
        "height": (("realization", "y", "x"), maps.astype("f4"), height_attrs),
        "height_between": (("walk", "y", "x"), path.astype("f4"), height_attrs),
    }
    return xr.Dataset(fields, coords)
