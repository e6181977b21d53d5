"""What part of the world a map shows, and in which projection; knows cartopy's projections, draws nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from downscale.grid.axis import CellAxis
from downscale.maps.cells import Array, Cells, window

ROTATED = ("rlon", "grid_longitude")


@dataclass(frozen=True)
class View:
    """A domain in degrees and its projection, or a plane in metres (``unit`` km) or rotated degrees."""

    west: float
    east: float
    south: float
    north: float
    projection: Any = None
    unit: str = "km"

    @property
    def polar(self) -> bool:
        """Whether a pole is the centre of the projection."""
        return type(self.projection).__name__.endswith("PolarStereo")

    @property
    def worldwide(self) -> bool:
        """Whether the frame is that of the whole world."""
        return type(self.projection).__name__ == "EqualEarth"

    @property
    def full_circle(self) -> bool:
        """Whether all longitudes are shown."""
        return self.projection is not None and self.east - self.west > 359.999

    @property
    def rim(self) -> float:
        """Latitude of the edge that carries the labels of the meridians."""
        return self.north if self.polar and abs(self.north) < abs(self.south) else self.south

    def project(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return map coordinates of longitudes and latitudes, or kilometres of metres."""
        if self.projection is None:
            return (x / 1000, y / 1000) if self.unit == "km" else (x, y)
        from cartopy.crs import Geodetic

        if self.full_circle:
            # Around a pole the two sides of the seam must touch; elsewhere they stay a hair inside it, or
            # both would land on one side of the map.
            middle = 0.5 * (self.west + self.east)
            x = middle + (x - middle) * (1 + 1e-7 if self.polar else 1 - 1e-8)
        points = self.projection.transform_points(Geodetic(), x, y)
        return points[..., 0], points[..., 1]

    def outline(self) -> Array:
        """Return the border of the shown domain in map coordinates, shape (n, 2)."""
        x, y = np.linspace(self.west, self.east, 400), np.linspace(self.south, self.north, 400)
        if self.polar and self.full_circle:
            return np.stack(self.project(x, np.full_like(x, self.rim)), axis=-1)
        ring_x = np.concatenate([x, np.full_like(y, self.east), x[::-1], np.full_like(y, self.west)])
        ring_y = np.concatenate([np.full_like(x, self.south), y, np.full_like(x, self.north), y[::-1]])
        return np.stack(self.project(ring_x, ring_y), axis=-1)


def choose_view(blocks: Cells, parts: Cells, field: xr.DataArray) -> View:
    """Show the domain of the fine cells."""
    # Rotated degrees are no geographic ones; without their pole they are drawn as a plane.
    x = field[field.dims[1]]
    rotated = x.attrs.get("standard_name", x.name) in ROTATED
    west, east, south, north = (float(v) for v in (*parts.x.edges[[0, -1]], *parts.y.edges[[0, -1]]))
    if rotated or parts.x.kind != "longitude":
        return View(west, east, south, north, unit="°" if rotated else "km")
    if parts.x.periodic:
        # Cut the world along the cell edge nearest to the date line, so that no cell is torn.
        from_date_line = np.mod(blocks.x.edges, 360.0) - 180
        west = float(from_date_line[np.abs(from_date_line).argmin()]) - 180
        east = west + 360
    return View(west, east, south, north, choose_projection(west, east, south, north))


def choose_projection(west: float, east: float, south: float, north: float) -> Any:
    """Choose a map projection for a domain in degrees."""
    import cartopy.crs as ccrs

    lon, lat, width = 0.5 * (west + east), 0.5 * (south + north), east - west
    nearest = 0.0 if south * north <= 0 else min(abs(south), abs(north))
    if nearest >= 10 and (width > 180 or abs(lat) >= 65):
        return ccrs.NorthPolarStereo(lon) if lat > 0 else ccrs.SouthPolarStereo(lon)
    if width > 180 and north - south >= 90:
        return ccrs.EqualEarth(lon)
    if width > 180 or abs(lat) < 15:
        return ccrs.PlateCarree(lon)
    if nearest == 0:
        return ccrs.LambertAzimuthalEqualArea(lon, lat)
    sixth, cutoff = (north - south) / 6, -30 if lat > 0 else 30
    return ccrs.LambertConformal(lon, lat, standard_parallels=(south + sixth, north - sixth), cutoff=cutoff)


def windows(cells: Cells, view: View, longest: float = np.inf) -> tuple[CellAxis, CellAxis]:
    """Cut the axes of a field to what is shown."""
    y = window(cells.y, view.south, view.north, longest)
    return y, window(cells.x, view.west, view.east, longest)
