"""Static fine features of networks, from orography, land fraction and positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import GridError, InputError, spell
from downscale.fields.aggregate import Aggregation
from downscale.fields.climatology import MOST
from downscale.fields.gradient import Spacing, sobel
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.nn.spec import STATICS

Floats = NDArray[np.float64]
Locate = Callable[[Floats, Floats], tuple[Floats, Floats]]
# Input field of each static.
NEEDS = dict.fromkeys(("orog", "relief", "slope", "aspect"), "orog") | {"sftlf": "sftlf", "climatology": "climatology"}


def static_features(
    names: Sequence[str],
    grid: Any,
    cells: Aggregation,
    inputs: Mapping[str, Floats],
    locate: Locate | None = None,
    in_proportion: bool = False,
) -> dict[str, Floats]:
    """Return the fine fields of the statics ``names`` by channel, each of shape (n_fine_y, n_fine_x).

    ``relief`` is the height above the coarse cell's mean in metres, ``slope`` is in m per m, and ``aspect_sin`` and
    ``aspect_cos`` are the eastward and northward parts of the uphill direction along the axes. ``inputs`` holds
    "orog" in metres, "sftlf" as a fraction and "climatology" in the units of the first output; ``locate`` returns
    longitudes and latitudes in degrees from other axes. The detail of a climatology is its difference from the mean of
    the coarse cell, or with ``in_proportion`` its ratio to this mean minus one; NaN where it is missing.
    """
    for name in names:
        need = NEEDS.get(name)
        if need is not None and need not in inputs:
            raise InputError(f"expected {need} for the static {name!r}, received none; pass {spell(need)}")
    fields: dict[str, Floats] = {}
    for name in names:
        if name == "climatology":
            fields[name] = _detail(inputs[name], cells, in_proportion)
        else:
            fields.update(_compute_feature(name, grid, cells, inputs, locate))
    return {channel: fields[channel] for name in names for channel in STATICS[name]}


def _detail(climatology: Floats, cells: Aggregation, in_proportion: bool) -> Floats:
    """Return the detail of a climatology below the coarse cells."""
    mean = cells.broadcast_to_fine(cells.mean_of_finite(climatology))
    if not in_proportion:
        return np.asarray(climatology - mean)
    is_positive = mean > 0
    ratio = np.where(is_positive, climatology, 1.0) / np.where(is_positive, mean, 1.0)
    return np.clip(ratio, 0.0, MOST) - 1.0


def _compute_feature(
    name: str, grid: Any, cells: Aggregation, inputs: Mapping[str, Floats], locate: Locate | None
) -> dict[str, Floats]:
    if name in ("orog", "sftlf"):
        return {name: inputs[name]}
    if name == "relief":
        return {name: inputs["orog"] - cells.broadcast_to_fine(cells.mean(inputs["orog"]))}
    if name in ("lat", "lon"):
        angle = np.deg2rad(_positions(grid, locate)[name == "lat"])
        return {f"{name}_sin": np.sin(angle), f"{name}_cos": np.cos(angle)}
    east, north = sobel(inputs["orog"], Spacing.of(grid))
    slope = np.hypot(east, north)
    if name == "slope":
        return {name: slope}
    divisor = np.where(slope > 0, slope, 1.0)
    return {"aspect_sin": east / divisor, "aspect_cos": north / divisor}


def _positions(grid: Any, locate: Locate | None) -> tuple[Floats, Floats]:
    """Return longitudes and latitudes of the fine cells in degrees."""
    if isinstance(grid, CurvilinearGrid):
        x, y, z = np.moveaxis(grid.centres, -1, 0)
        return np.rad2deg(np.arctan2(y, x)), np.rad2deg(np.arcsin(np.clip(z, -1, 1)))
    x, y = np.meshgrid(grid.x.centres, grid.y.centres)
    if locate is not None:
        lon, lat = locate(x, y)
        return np.asarray(lon), np.asarray(lat)
    if not grid.spherical:
        raise GridError(
            "expected a grid_mapping for the statics 'lat' and 'lon', received metres of an unknown projection; "
            "leave these statics out"
        )
    return x, y
