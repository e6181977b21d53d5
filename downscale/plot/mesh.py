"""Quadrilaterals of a curvilinear grid as polygons, cut at the seam of the map."""

from __future__ import annotations

from typing import Any

import numpy as np

from downscale.grid.sphere import degrees_of, inner_points, unit_vectors
from downscale.plot.cells import Array, Mesh
from downscale.plot.view import View

# Cells that span more degrees of longitude are drawn in parts; parts that still do contain a pole.
WIDE, WIDEST, PARTS = 5.0, 60.0, 8
MOST_CELLS = 900  # along one axis: polygons are more expensive than cells of a product grid


def draw_mesh(panel: Any, view: View, mesh: Mesh, cmap: Any, limits: tuple[float, float], missing: Any) -> Any:
    """Draw the cells with values as polygons on the colour for missing values."""
    from matplotlib.collections import PolyCollection

    lon, lat, values = _polygons(mesh)
    if view.full_circle and not view.polar:
        lon, lat, values = _cut(*_divided(lon, lat, values), view.west, view.east)
    corners = np.stack(view.project(lon, lat), axis=-1)
    panel.set_facecolor(missing)
    # Without anti-aliasing there are no light seams between neighbours.
    style: dict[str, Any] = {"edgecolors": "none", "antialiaseds": False, "rasterized": True}
    cells: Any = PolyCollection(corners, array=values, cmap=cmap, **style)  # type: ignore[arg-type]
    cells.set_clim(*limits)
    panel.add_collection(cells, autolim=False)
    return cells


def _polygons(mesh: Mesh) -> tuple[Array, Array, Array]:
    """Return corners, shapes (n, 4), on one branch per cell, and values of the cells with values, shape (n,).

    If there are more cells than are visible, one value represents several cells.
    """
    rows, columns = (1 + (size - 1) // MOST_CELLS for size in mesh.sizes)
    corners = mesh.grid.all_corners()
    kept = [v[: v.shape[0] // rows * rows, : v.shape[1] // columns * columns] for v in (corners, mesh.values)]
    first, last = slice(None, None, rows), slice(rows - 1, None, rows)
    left, right = slice(None, None, columns), slice(columns - 1, None, columns)
    four = (first, left, 0), (first, right, 1), (last, right, 2), (last, left, 3)
    rings = np.stack([kept[0][at] for at in four], axis=-2)
    values = kept[1][rows // 2 :: rows, columns // 2 :: columns]
    held = np.isfinite(values)
    lon, lat = degrees_of(rings[held], degrees_of(rings[held].sum(axis=-2))[0][:, None])
    return lon, lat, values[held]


def _divided(lon: Array, lat: Array, values: Array) -> tuple[Array, Array, Array]:
    """Cut cells that span many degrees, as around a pole, into parts that follow the curves of the map."""
    wide = np.ptp(lon, axis=-1) > WIDE
    points = inner_points(unit_vectors(lon[wide], lat[wide]), *2 * [np.linspace(0, 1, PARTS + 1)])
    rings = np.stack([points[:, :-1, :-1], points[:, :-1, 1:], points[:, 1:, 1:], points[:, 1:, :-1]], axis=-2)
    rings = rings.reshape(-1, 4, 3)
    east, north = degrees_of(rings, degrees_of(rings.sum(axis=-2))[0][:, None])
    # The part that contains the pole itself is smaller than a pixel.
    narrow = np.ptp(east, axis=-1) < WIDEST
    east, north = east[narrow], north[narrow]
    own = np.repeat(values[wide], PARTS**2)[narrow]
    keep = ~wide
    return np.concatenate([lon[keep], east]), np.concatenate([lat[keep], north]), np.concatenate([values[keep], own])


def _cut(lon: Array, lat: Array, values: Array, west: float, east: float) -> tuple[Array, Array, Array]:
    """Cut cells that cross the seam of a map into one part on either side."""
    lon = lon - 360.0 * np.floor((lon.mean(axis=-1, keepdims=True) - west) / 360.0)
    over, under = lon.max(axis=-1) > east, lon.min(axis=-1) < west
    again = np.concatenate([lon[over] - 360.0, lon[under] + 360.0])
    lon = np.clip(np.concatenate([lon, again]), west, east)
    both = [np.concatenate([v, v[over], v[under]]) for v in (lat, values)]
    return lon, both[0], both[1]
