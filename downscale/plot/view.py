"""The domain and the projection of a map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.mapping import GridMapping, load_pyproj
from downscale.grid.axis import CellAxis
from downscale.plot.cells import Array, Cells, Drawn, Mesh, window

ROTATED = ("rlon", "grid_longitude")
LEAST_GAP = 5.0  # degrees of longitude without any cell: the domain is not a full circle


@dataclass(frozen=True)
class View:
    """A domain in degrees and its projection, or a plane in metres (``unit`` km) or rotated degrees.

    A ``native`` view has the axes of the field as straight lines in their own projection; its map coordinates are
    theirs, from ``origin`` on and in steps of ``step``.
    """

    west: float
    east: float
    south: float
    north: float
    projection: Any = None
    unit: str = "km"
    native: bool = False
    origin: float = 0.0
    step: float = 1.0

    @property
    def polar(self) -> bool:
        """Whether a pole is the centre of the projection."""
        return type(self.projection).__name__.endswith("PolarStereo")

    @property
    def worldwide(self) -> bool:
        """Whether the frame is the whole world."""
        return type(self.projection).__name__ == "EqualEarth"

    @property
    def full_circle(self) -> bool:
        """Whether all longitudes are shown."""
        return self.curved and self.east - self.west > 359.999

    @property
    def curved(self) -> bool:
        """Whether longitudes and latitudes are projected."""
        return self.projection is not None and not self.native

    @property
    def rim(self) -> float:
        """Latitude of the edge with the labels of the meridians."""
        return self.north if self.polar and abs(self.north) < abs(self.south) else self.south

    def project(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return map coordinates of longitudes and latitudes, or kilometres from metres."""
        if self.projection is None:
            return (x / 1000, y / 1000) if self.unit == "km" else (x, y)
        if self.native:
            return (x - self.origin) / self.step, y / self.step
        from cartopy.crs import Geodetic

        if self.full_circle:
            # Around a pole the two sides of the seam must touch. Elsewhere they stay just inside it, or both would be
            # on one side of the map.
            middle = 0.5 * (self.west + self.east)
            x = middle + (x - middle) * (1 + 1e-7 if self.polar else 1 - 1e-8)
        points = self.projection.transform_points(Geodetic(), x, y)
        return points[..., 0], points[..., 1]

    def place(self, lon: Array, lat: Array) -> tuple[Array, Array]:
        """Return map coordinates of longitudes and latitudes for any axes of the view."""
        if not self.native:
            return self.project(lon, lat)
        from cartopy.crs import Geodetic

        points = self.projection.transform_points(Geodetic(), lon, lat)
        return points[..., 0], points[..., 1]

    def locate(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return longitudes and latitudes of map coordinates of a native view."""
        from cartopy.crs import Geodetic

        points = Geodetic().transform_points(self.projection, x, y)
        return points[..., 0], points[..., 1]

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """West, east, south and north of the view, in degrees."""
        if not self.native:
            return self.west, self.east, self.south, self.north
        ring = self.outline()
        (x0, y0), (x1, y1) = ring.min(axis=0), ring.max(axis=0)
        x, y = np.meshgrid(np.linspace(x0, x1, 41), np.linspace(y0, y1, 41))
        lon, lat = self.locate(x, y)
        angles = np.unwrap(np.deg2rad(self.locate(ring[:, 0], ring[:, 1])[0]))
        middle, south, north = float(lon[20, 20]), float(np.nanmin(lat)), float(np.nanmax(lat))
        if abs(angles[-1] - angles[0]) > np.pi:
            # The border runs around a pole.
            return (middle - 180, middle + 180, *((south, 90.0) if lat[20, 20] > 0 else (-90.0, north)))
        offsets = np.mod(lon - middle + 180, 360) - 180
        return middle + float(np.nanmin(offsets)), middle + float(np.nanmax(offsets)), south, north

    def outline(self) -> Array:
        """Return the border of the domain in map coordinates, shape (n, 2)."""
        if self.polar and self.full_circle:
            x = np.linspace(self.west, self.east, 400)
            return np.stack(self.project(x, np.full_like(x, self.rim)), axis=-1)
        return self.ring(self.west, self.east, self.south, self.north)

    def ring(self, west: float, east: float, south: float, north: float) -> Array:
        """Return the border of a part of the domain in map coordinates, shape (n, 2)."""
        x, y = np.linspace(west, east, 400), np.linspace(south, north, 400)
        ring_x = np.concatenate([x, np.full_like(y, east), x[::-1], np.full_like(y, west)])
        ring_y = np.concatenate([np.full_like(x, south), y, np.full_like(x, north), y[::-1]])
        return np.stack(self.project(ring_x, ring_y), axis=-1)


def choose_view(blocks: Drawn, parts: Drawn, field: xr.DataArray, mapping: GridMapping | None = None) -> View:
    """Return the view of the domain of the fine cells, in the projection of their axes if it is known."""
    if isinstance(parts, Mesh) or isinstance(blocks, Mesh):
        return _mesh_view(parts)  # type: ignore[arg-type]
    # Rotated degrees are not geographic ones; without their pole they are drawn as a plane.
    x = field[field.dims[1]]
    is_rotated = x.attrs.get("standard_name", x.name) in ROTATED
    west, east, south, north = (float(v) for v in (*parts.x.edges[[0, -1]], *parts.y.edges[[0, -1]]))
    if parts.mapped and mapping is not None:
        projection, origin, step = own_projection(mapping, west, east, south, north)
        return View(west, east, south, north, projection, native=True, origin=origin, step=step)
    if is_rotated or parts.x.kind != "longitude":
        return View(west, east, south, north, unit="°" if is_rotated else "km")
    if parts.x.periodic:
        # Cut the world along the cell edge nearest to the date line, so that no cell is torn.
        from_date_line = np.mod(blocks.x.edges, 360.0) - 180
        west = float(from_date_line[np.abs(from_date_line).argmin()]) - 180
        east = west + 360
    return View(west, east, south, north, choose_projection(west, east, south, north))


def _mesh_view(mesh: Mesh) -> View:
    """Return the view of all cells: the full circle, or the part outside its widest gap."""
    lon, lat = mesh.grid.corners
    south, north = max(float(lat.min()), -90.0), min(float(lat.max()), 90.0)
    west, gap = _widest_gap(lon.min(axis=-1).ravel(), lon.max(axis=-1).ravel())
    if gap < LEAST_GAP:
        return View(-180.0, 180.0, south, north, choose_projection(-180.0, 180.0, south, north))
    east = west + 360.0 - gap
    return View(west, east, south, north, choose_projection(west, east, south, north))


def _widest_gap(low: Array, high: Array) -> tuple[float, float]:
    """Return the end of the widest gap of longitude without cells, from -180 to 180, and its width."""
    low, width = np.mod(low, 360.0), high - low
    order = np.argsort(low)
    low, reach = low[order], np.maximum.accumulate((low + width)[order])
    # The first cell again, one circle later; cells across the seam cover the beginning.
    gaps = np.append(low[1:], low[0] + 360.0) - np.maximum(reach, reach[-1] - 360.0)
    widest = int(gaps.argmax())
    west = float(low[(widest + 1) % low.size])
    return west - 360.0 * (west >= 180), float(gaps[widest])


def own_projection(
    mapping: GridMapping, west: float, east: float, south: float, north: float
) -> tuple[Any, float, float]:
    """Return the projection of a grid mapping, the origin of its map along the axis, and its step in axis units."""
    load_pyproj()
    import cartopy.crs as ccrs

    if mapping.rotated:
        middle = 0.5 * (west + east)
        pole = [float(mapping.attrs.get(key, 0.0)) for key in (
            "grid_north_pole_longitude", "grid_north_pole_latitude", "north_pole_grid_longitude")]  # fmt: skip
        # Rotated so that the domain is in the middle, opposite the seam.
        return ccrs.RotatedPole(pole[0], pole[1], pole[2] - middle), middle, 1.0
    crs = mapping.crs
    assert crs is not None, "a grid is mapped only where its projection is known"
    step = float(crs.axis_info[0].unit_conversion_factor) if crs.axis_info else 1.0
    projection: Any = ccrs.Projection(crs)
    margin_x, margin_y = 0.02 * (east - west), 0.02 * (north - south)
    projection.bounds = tuple(v / step for v in (west - margin_x, east + margin_x, south - margin_y, north + margin_y))
    projection.threshold = max(margin_x, margin_y) / step / 10
    return projection, 0.0, step


def choose_projection(west: float, east: float, south: float, north: float) -> Any:
    """Return a map projection for a domain in degrees."""
    load_pyproj()
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
    """Return the axes of a field cropped to the view."""
    y = window(cells.y, view.south, view.north, longest)
    return y, window(cells.x, view.west, view.east, longest)
