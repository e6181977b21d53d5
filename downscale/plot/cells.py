"""The cells of a map: values of a field on ascending axes or quadrilaterals, and the domain and projection to draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.coordinates import horizontal_variables
from downscale.cf.horizontal import Horizontal, XarrayObject, horizontal
from downscale.cf.mapping import GridMapping, load_pyproj
from downscale.errors import GridError, InputError, OptionError, listing
from downscale.grid.axis import CellAxis
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sphere import arc

Array = NDArray[np.float64]

MOST_CELLS = 1600  # along one axis of a panel of some 600 pixels
PART_DISTANCE = 0.6  # of a diagonal: maximum distance of the centre of a part from that of its cell
MOST_PARTS = 0.9  # of the cells
LEAST_GAP = 5.0  # degrees of longitude without any cell: the domain is not a full circle


@dataclass(frozen=True, eq=False)
class Cells:
    """A map: values of shape (y, x), missing ones NaN, on ascending axes or quadrilaterals.

    ``field`` is the map on its two dimensions, ``source`` the field with all dimensions.
    """

    values: Array
    grid: RectilinearGrid | CurvilinearGrid
    field: xr.DataArray
    source: xr.DataArray
    axes: Horizontal

    @property
    def is_mesh(self) -> bool:
        """Whether the cells are quadrilaterals."""
        return isinstance(self.grid, CurvilinearGrid)

    @property
    def kind(self) -> str:
        """The kind of the axes, in words."""
        rotated = "rotated " if self.axes.mapping is not None and self.axes.mapping.rotated else ""
        return "two-dimensional positions" if self.is_mesh else f"{rotated}{self.grid.x.kind}"

    def values_at(self, y: CellAxis, x: CellAxis) -> Array:
        """Return the values of the cells that contain the centres of cells on other axes; NaN outside."""
        rows, columns = cell_of(self.grid.y, y.centres), cell_of(self.grid.x, x.centres)
        values = self.values[np.ix_(rows, columns)]
        values[rows < 0] = np.nan
        values[:, columns < 0] = np.nan
        return values

    def values_under(self, fine: Cells) -> Array:
        """Return the values of the cells that contain those of another field."""
        if not isinstance(self.grid, CurvilinearGrid) or not isinstance(fine.grid, CurvilinearGrid):
            return self.values_at(fine.grid.y, fine.grid.x)
        shape = self.values.shape
        rows, columns = (n // m for n, m in zip(fine.values.shape, shape, strict=True))
        if (rows * shape[0], columns * shape[1]) == fine.values.shape:
            corners, centres = self.grid.all_corners(), self.grid.centres
            reach = np.maximum(arc(corners[..., 0, :], corners[..., 2, :]), arc(corners[..., 1, :], corners[..., 3, :]))
            distance = arc(centres.repeat(rows, 0).repeat(columns, 1), fine.grid.centres)
            # Curvilinear grids have a few cells whose centre is outside: on land, along a fold.
            if (distance <= PART_DISTANCE * reach.repeat(rows, 0).repeat(columns, 1)).mean() > MOST_PARTS:
                return self.values.repeat(rows, 0).repeat(columns, 1)
        raise GridError(
            f"expected a fine field whose rows and columns are parts of the {shape[0]} x {shape[1]} coarse "
            f"cells, received {fine.values.shape[0]} x {fine.values.shape[1]} cells; crop both to one domain, or "
            "remap one"
        )


def find_field(obj: XarrayObject) -> tuple[xr.DataArray, Horizontal]:
    """Return the one field of an object and its axes."""
    axes = horizontal(obj, guess=True)
    if isinstance(obj, xr.DataArray):
        return obj, axes
    names = horizontal_variables(obj, axes)
    if len(names) != 1:
        raise InputError(f"expected one field, received a Dataset with {listing(names) or 'none'}; name one")
    return obj[names[0]], axes


def read_cells(source: xr.DataArray, axes: Horizontal, select: Mapping[str, int] | None = None) -> Cells:
    """Return the map of a field at the selected or first index of other dimensions; infinite values are missing."""
    indices = {dim: (select or {}).get(str(dim), 0) for dim in source.dims if dim not in axes.dims}
    field = source.isel(indices).transpose(*axes.dims)
    values, grid = np.asarray(field.values, dtype=np.float64), axes.grid
    values = np.where(np.isfinite(values), values, np.nan)
    if isinstance(grid, RectilinearGrid):
        flips = tuple(slice(None, None, 1 if axis.ascending else -1) for axis in (grid.y, grid.x))
        cell_axes = (axis if axis.ascending else axis.reverse() for axis in (grid.y, grid.x))
        values, grid = values[flips], RectilinearGrid(*cell_axes)
    return Cells(values, grid, field, source, axes)


def read_pair(coarse: XarrayObject, fine: XarrayObject, select: Mapping[str, int]) -> tuple[Cells, Cells]:
    """Return the maps of two comparable fields, the second at the indices nearest to those of the first."""
    (coarse_field, coarse_axes), (fine_field, fine_axes) = find_field(coarse), find_field(fine)
    sizes = {str(dim): size for field in (fine_field, coarse_field) for dim, size in field.sizes.items()}
    for name, index in select.items():
        if name not in sizes:
            raise OptionError(f"expected select to name one of {listing(sorted(sizes))}, received {name!r}")
        if not isinstance(index, (int, np.integer)) or not -sizes[name] <= index < sizes[name]:
            raise OptionError(f"expected an index of {name!r} from 0 to {sizes[name] - 1}, received {index!r}")
    fine_select = dict(select)
    for dim in map(str, fine_field.dims):
        if dim in coarse_field.dims and dim not in fine_axes.dims:
            fine_select[dim] = _nearest_index(fine_field, coarse_field, dim, select.get(dim, 0))
    cells = read_cells(coarse_field, coarse_axes, select), read_cells(fine_field, fine_axes, fine_select)
    units = [map_cells.field.attrs.get("units") for map_cells in cells]
    if None not in units and units[0] != units[1]:
        raise InputError(f"expected fields in one unit, received {units[0]!r} and {units[1]!r}; convert one")
    if cells[0].kind != cells[1].kind:
        raise GridError(f"expected axes of one kind, received {cells[0].kind} and {cells[1].kind}; reproject one field")
    return cells


def _nearest_index(fine: xr.DataArray, coarse: xr.DataArray, dim: str, index: int) -> int:
    """Return the index of the fine coordinate nearest to a coarse one; the same index if they are not numbers."""
    same_index = min(index, fine.sizes[dim] - 1)
    if dim not in fine.indexes or dim not in coarse.coords:
        return same_index
    value, values = coarse[dim].values[index], fine[dim].values
    try:
        # If two are equally near, the later one: midnight belongs to the day that begins.
        return values.size - 1 - int(np.abs(values - value)[::-1].argmin())
    except TypeError:
        return next(iter(np.flatnonzero(values == value).tolist()), same_index)


def cell_of(axis: CellAxis, points: Array) -> NDArray[np.intp]:
    """Return the index of the cell of an ascending axis that contains each point, -1 outside."""
    edges = axis.edges
    if axis.kind == "longitude":
        points = edges[0] + np.mod(points - edges[0], 360.0)
    index = np.searchsorted(edges, points, side="right") - 1
    return np.where(index < axis.size, index, -1)


def crop_axis(axis: CellAxis, low: float, high: float, longest: float = np.inf) -> CellAxis:
    """Crop an ascending axis to two limits and divide cells over ``longest``; gaps become cells as well."""
    edges, tolerance = axis.edges, 1e-7 * (high - low)
    if axis.kind == "longitude":
        edges = low + np.mod(edges - low, 360.0)
    inside = np.sort(edges[(edges > low + tolerance) & (edges < high - tolerance)])
    edges = np.concatenate([[low], inside[np.diff(inside, prepend=low) > tolerance], [high]])
    counts = np.maximum(1, np.ceil(np.diff(edges) / longest - 1e-6)).astype(int)
    steps = np.repeat(np.diff(edges) / counts, counts)
    step_number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    edges = np.repeat(edges[:-1], counts) + step_number * steps
    # Beyond a few cells per pixel, more cells cost time without a visible change.
    return CellAxis(np.append(edges[:: 1 + edges.size // MOST_CELLS], high), axis.kind)


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
        if self.full_circle:
            # Around a pole the two sides of the seam must touch. Elsewhere they stay just inside it, or both would be
            # on one side of the map.
            middle = 0.5 * (self.west + self.east)
            x = middle + (x - middle) * (1 + 1e-7 if self.polar else 1 - 1e-8)
        return _transform(_geodetic(), self.projection, x, y)

    def place(self, lon: Array, lat: Array) -> tuple[Array, Array]:
        """Return map coordinates of longitudes and latitudes for any axes of the view."""
        return _transform(_geodetic(), self.projection, lon, lat) if self.native else self.project(lon, lat)

    def locate(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return longitudes and latitudes of points on the axes of the view."""
        return _transform(self.projection, _geodetic(), *self.project(x, y)) if self.native else (x, y)

    def crop(self, cells: Cells, longest: float = np.inf) -> tuple[CellAxis, CellAxis, Array]:
        """Return the axes of cells within the view, divided into cells of at most ``longest``, and their values."""
        y = crop_axis(cells.grid.y, self.south, self.north, longest)
        x = crop_axis(cells.grid.x, self.west, self.east, longest)
        return y, x, cells.values_at(y, x)

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """West, east, south and north of the view, in degrees."""
        if not self.native:
            return self.west, self.east, self.south, self.north
        x, y = np.meshgrid(np.linspace(self.west, self.east, 41), np.linspace(self.south, self.north, 41))
        lon, lat = self.locate(x, y)
        angles = np.unwrap(np.deg2rad(self.locate(*_ring(self.west, self.east, self.south, self.north))[0]))
        middle, south, north = float(lon[20, 20]), float(np.nanmin(lat)), float(np.nanmax(lat))
        if abs(angles[-1] - angles[0]) > np.pi:
            # The border runs around a pole.
            return (middle - 180, middle + 180, *((south, 90.0) if lat[20, 20] > 0 else (-90.0, north)))
        offsets = np.mod(lon - middle + 180, 360) - 180
        return middle + float(np.nanmin(offsets)), middle + float(np.nanmax(offsets)), south, north

    @cached_property
    def outline(self) -> Array:
        """The border of the domain in map coordinates, shape (n, 2)."""
        if self.polar and self.full_circle:
            x = np.linspace(self.west, self.east, 400)
            return np.stack(self.project(x, np.full_like(x, self.rim)), axis=-1)
        return self.ring(self.west, self.east, self.south, self.north)

    def ring(self, west: float, east: float, south: float, north: float) -> Array:
        """Return the border of a part of the domain in map coordinates, shape (n, 2)."""
        return np.stack(self.project(*_ring(west, east, south, north)), axis=-1)


def _ring(west: float, east: float, south: float, north: float) -> tuple[Array, Array]:
    """Return points along the border of a rectangle."""
    x, y = np.linspace(west, east, 400), np.linspace(south, north, 400)
    return (np.concatenate([x, np.full_like(y, east), x[::-1], np.full_like(y, west)]),
            np.concatenate([np.full_like(x, south), y, np.full_like(x, north), y[::-1]]))  # fmt: skip


def _geodetic() -> Any:
    from cartopy.crs import Geodetic

    return Geodetic()


def _transform(source: Any, target: Any, x: Array, y: Array) -> tuple[Array, Array]:
    points = target.transform_points(source, x, y)
    return points[..., 0], points[..., 1]


def choose_view(coarse: Cells, fine: Cells) -> View:
    """Return the view of the domain of the fine cells, in the projection of their axes if it is known."""
    if isinstance(fine.grid, CurvilinearGrid):
        # The full circle, or the part outside the widest gap.
        lon, lat = fine.grid.corners
        south, north = max(float(lat.min()), -90.0), min(float(lat.max()), 90.0)
        west, gap = _widest_gap(lon.min(axis=-1).ravel(), lon.max(axis=-1).ravel())
        west, east = (-180.0, 180.0) if gap < LEAST_GAP else (west, west + 360.0 - gap)
        return View(west, east, south, north, choose_projection(west, east, south, north))
    west, east, south, north = (float(v) for v in (*fine.grid.x.edges[[0, -1]], *fine.grid.y.edges[[0, -1]]))
    if fine.axes.mapping is not None:
        projection, origin, step = native_projection(fine.axes.mapping, west, east, south, north)
        return View(west, east, south, north, projection, native=True, origin=origin, step=step)
    # Rotated degrees are not geographic ones; without their pole they are drawn as a plane.
    if fine.axes.rotated or fine.grid.x.kind != "longitude":
        return View(west, east, south, north, unit="°" if fine.axes.rotated else "km")
    if fine.grid.x.periodic:
        # Cut the world along the cell edge nearest to the date line, so that no cell is torn.
        from_date_line = np.mod(coarse.grid.x.edges, 360.0) - 180
        west = float(from_date_line[np.abs(from_date_line).argmin()]) - 180
        east = west + 360
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


def native_projection(
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
