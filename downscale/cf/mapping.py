"""Georeference of grids: CF grid mappings, longitudes, latitudes and corners.

A rotated pole uses two formulas; projections use PROJ, which is imported only if needed. ecCodes contains its own PROJ
library and exports its functions to all libraries loaded later. pyproj would call them with the wrong database:
coordinate systems could not be read, and the interpreter would abort at exit. pyproj is therefore loaded before
ecCodes, or else in a way that it finds its own functions first.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.errors import GridError, InputError, listing
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import Density, Embedding, RectilinearGrid
from downscale.grid.sphere import degrees_of, polygon_area, unit_vectors

if TYPE_CHECKING:
    from pyproj import CRS

# Packages that load ecCodes, and the one that reads GRIB files for xarray.
ECCODES, READER = ("gribapi", "eccodes", "eccodeslib"), "cfgrib"


def load_pyproj() -> None:
    """Import pyproj so that it finds its own functions first; does nothing if it is already loaded."""
    has_eccodes = any(name in sys.modules for name in ECCODES)
    if "pyproj" not in sys.modules:
        flags = sys.getdlopenflags()
        sys.setdlopenflags(flags | (getattr(os, "RTLD_DEEPBIND", 0) if has_eccodes else 0))
        try:
            import_module("pyproj")
        finally:
            sys.setdlopenflags(flags)
    elif has_eccodes:
        from pyproj import CRS
        from pyproj.exceptions import CRSError

        try:
            CRS.from_epsg(4326)  # the simplest coordinate system
        except CRSError as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(
                f"expected pyproj to read coordinate systems, received an error ({reason}); import downscale or pyproj "
                "before xarray, cfgrib or eccodes"
            ) from None


def load_pyproj_before_eccodes() -> None:
    """Import pyproj if xarray could load ecCodes, which it does for any file if cfgrib is installed."""
    if find_spec(READER) is not None:
        load_pyproj()


Floats = NDArray[np.float64]
CoordinateSystem = Literal["geographic", "rotated", "plane", "scan"]
# From coordinates of a grid (x, y) to longitudes and latitudes in degrees, arrays of one shape.
Locator = Callable[[Floats, Floats], tuple[Floats, Floats]]

ROTATED, GEOGRAPHIC, GEOSTATIONARY = "rotated_latitude_longitude", "latitude_longitude", "geostationary"
# Attributes with PROJ strings in files that CF cannot describe.
PROJ_ATTRS = ("crs_wkt", "spatial_ref", "proj4", "proj4_params", "proj4_string", "proj4text", "proj", "proj_params",
              "epsg_code", "EPSG_code", "epsg", "EPSG", "esri_pe_string")  # fmt: skip
# Attributes of a field or file, rather than of a grid mapping, that name a coordinate system.
TEXT_ATTRS = ("crs", "crs_wkt", "spatial_ref", "proj4")
# Attributes of the figure of the earth, and the spheres of models whose files have none.
FIGURES = ("earth_radius", "semi_major_axis", "semi_minor_axis", "inverse_flattening", "reference_ellipsoid_name",
           "horizontal_datum_name", "geographic_crs_name", *PROJ_ATTRS)  # fmt: skip
SPHERES = (6_371_229.0, 6_370_000.0, 6_371_000.0, 6_371_200.0, 6_367_470.0)
# Larger grids have lazy positions, and very large ones no corners: 64 bytes per cell would outweigh the fields.
EAGER_CELLS, MOST_CORNERS = 1_000_000, 20_000_000


def _hashable(value: Any) -> Any:
    """Return an attribute as a hashable value: arrays become tuples of numbers."""
    if isinstance(value, (np.ndarray, list, tuple)):
        return tuple(np.asarray(value).tolist())
    return value.item() if isinstance(value, np.generic) else value


@lru_cache(maxsize=64)
def _crs(attrs: tuple[tuple[str, Any], ...]) -> CRS | None:
    load_pyproj()
    import pyproj
    from pyproj.exceptions import CRSError

    cf_attrs = {key: list(value) if isinstance(value, tuple) else value for key, value in attrs}
    texts = {key: _proj_text(cf_attrs[key]) for key in PROJ_ATTRS if key in cf_attrs}
    cf_attrs |= texts
    # Well-known text is complete; CF attributes come next, other strings last.
    for text in dict.fromkeys((texts.pop("crs_wkt", None), None, *texts.values())):
        try:
            crs = pyproj.CRS.from_cf(cf_attrs) if text is None else pyproj.CRS.from_user_input(text)
        except (CRSError, KeyError, ValueError, TypeError, AttributeError):
            continue
        if crs.is_projected or crs.is_geographic:
            return crs
    return None


def _proj_text(text: Any) -> str:
    """Return a coordinate system in the syntax of PROJ: a bare number is an EPSG code.

    Examples
    --------
    >>> _proj_text(3035), _proj_text("+init=epsg:3035"), _proj_text("EPSG:3035")
    ('EPSG:3035', 'epsg:3035', 'EPSG:3035')
    """
    words = str(text).strip()
    return f"EPSG:{words}" if words.isdigit() else words.removeprefix("+init=")


@dataclass(frozen=True, eq=False)
class GridMapping:
    """A CF grid mapping: its variable's name and attributes."""

    name: str
    attrs: Mapping[str, Any]

    @property
    def rotated(self) -> bool:
        """Whether the axes are latitude and longitude of a rotated pole."""
        return self.cf.get("grid_mapping_name") == ROTATED and "grid_north_pole_latitude" in self.cf

    @property
    def crs(self) -> CRS | None:
        """The coordinate system as read by PROJ, or None if it cannot be read."""
        # Looking up a datum without a name takes PROJ a third of a second.
        return _crs(tuple(sorted((str(key), _hashable(value)) for key, value in self.attrs.items())))

    @property
    def projection(self) -> CRS | None:
        """The coordinate system if its axes are on a plane, else None."""
        return None if self.rotated or self.crs is None or not self.crs.is_projected else self.crs

    @cached_property
    def cf(self) -> Mapping[str, Any]:
        """Attributes in CF form: the given ones, or PROJ's conversion of a coordinate system in another form."""
        name = str(self.attrs.get("grid_mapping_name") or "").strip().lower()
        if name and (name != ROTATED or "grid_north_pole_latitude" in self.attrs):
            return {**self.attrs, "grid_mapping_name": name}
        proj_attrs = {} if self.crs is None else self.crs.to_cf()
        return {**proj_attrs, **{key: value for key, value in self.attrs.items() if key != "grid_mapping_name"}}

    @cached_property
    def kind(self) -> CoordinateSystem | None:
        """System of the axes: "geographic", "rotated", "plane", "scan" (geostationary) or, if unreadable, None."""
        name = self.cf.get("grid_mapping_name")
        if name == GEOGRAPHIC or self.rotated:
            return "rotated" if self.rotated else "geographic"
        crs = self.crs
        if name == ROTATED or crs is None:
            return None
        if not crs.is_projected:
            return "rotated" if crs.is_derived else "geographic"
        return "scan" if name == GEOSTATIONARY or "geostationary" in _method(crs) else "plane"

    @property
    def words(self) -> str:
        """Name of the projection or of the coordinate system, for messages."""
        name = self.attrs.get("grid_mapping_name")
        return str(name or (self.crs.name if self.crs is not None else listing(self.attrs) or "no attributes"))

    @property
    def axis_metres(self) -> float:
        """Metres in one unit of the axes of a projection, the unit of axes without units of their own."""
        units = [] if self.crs is None else [axis.unit_conversion_factor for axis in self.crs.axis_info[:1]]
        return float(units[0]) if units and units[0] else 1.0

    @property
    def height(self) -> float | None:
        """Height of the satellite in metres, the factor of scan angles."""
        cf_attrs = self.cf if "perspective_point_height" in self.cf or self.crs is None else self.crs.to_cf()
        return float(cf_attrs["perspective_point_height"]) if "perspective_point_height" in cf_attrs else None

    def unreadable_error(self) -> GridError:
        """Return the error for a mapping that cannot be used."""
        detail = " without grid_north_pole_latitude" if self.attrs.get("grid_mapping_name") == ROTATED else ""
        return GridError(
            f"grid mapping {self.name!r}: expected a coordinate system that PROJ reads, received {self.words}"
            f"{detail}; add crs_wkt to it, or drop it to take areas of the plane"
        )

    def on_spheres(self) -> list[GridMapping]:
        """Return the mapping on the spheres of common models, if it has no figure of the earth."""
        if any(key in self.attrs for key in FIGURES):
            return []
        return [replace(self, attrs={**self.attrs, "earth_radius": radius}) for radius in SPHERES]

    def locator(self) -> Locator | None:
        """Return the function from axes in degrees (rotated) or metres to longitudes and latitudes, if there is one."""
        if self.rotated:
            pole = [float(self.cf.get(key, 0.0)) for key in (
                "grid_north_pole_longitude", "grid_north_pole_latitude", "north_pole_grid_longitude")]  # fmt: skip
            return lambda x, y: unrotate(x, y, *pole)
        return None if self.projection is None else _inverse(self.projection, "EPSG:4326")

    def embedding(self) -> Embedding | None:
        """Return the function from the plane to points in space, on the ellipsoid of the projection."""
        crs = self.projection
        if crs is None or crs.ellipsoid is None or crs.geodetic_crs is None:
            return None
        locate, major = _inverse(crs, crs.geodetic_crs), float(crs.ellipsoid.semi_major_metre)
        ratio = (float(crs.ellipsoid.semi_minor_metre) / major) ** 2

        def embed(x: Floats, y: Floats) -> Floats:
            up = finite_vectors(*locate(x, y))
            normal = major / np.sqrt(1 - (1 - ratio) * up[..., 2] ** 2)
            return up * normal[..., None] * np.array([1.0, 1.0, ratio])

        return embed

    def density(self) -> Density | None:
        """Return the function from the plane to the area on the ellipsoid per unit of area, NaN near the poles."""
        crs = self.projection
        # PROJ's factors of the web Mercator are those of a sphere, whereas its latitudes are of an ellipsoid.
        if crs is None or crs.geodetic_crs is None or "pseudo" in _method(crs):
            return None
        import pyproj

        # A projection bound to another datum contains its own formulas.
        plane = crs.source_crs if crs.is_bound and crs.source_crs is not None else crs
        locate, project = _inverse(crs, crs.geodetic_crs), pyproj.Proj(plane)

        def density(x: Floats, y: Floats) -> Floats:
            lon, lat = locate(x, y)
            # PROJ's finite differences cross a pole that is nearer than this.
            is_valid = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) < 89.9)
            scale = project.get_factors(np.where(is_valid, lon, 0.0), np.where(is_valid, lat, 0.0)).areal_scale
            return np.where(is_valid, 1 / np.asarray(scale), np.nan)

        return density


def finite_vectors(lon: Floats, lat: Floats) -> Floats:
    """Return unit vectors, NaN beyond the edge of the earth, where PROJ returns infinite values."""
    is_finite = np.isfinite(lon) & np.isfinite(lat)
    return unit_vectors(np.where(is_finite, lon, np.nan), np.where(is_finite, lat, np.nan))


def unrotate(
    lon: Floats, lat: Floats, pole_lon: float, pole_lat: float, pole_grid_lon: float = 0.0
) -> tuple[Floats, Floats]:
    """Return true longitudes and latitudes of coordinates about a rotated pole, all in degrees.

    Examples
    --------
    >>> [float(round(v, 9)) for v in unrotate(0.0, 0.0, -170.0, 40.0)]
    [10.0, 50.0]
    """
    x, y, z = np.moveaxis(unit_vectors(np.asarray(lon) - pole_grid_lon, lat), -1, 0)
    sine, cosine = np.sin(np.deg2rad(pole_lat)), np.cos(np.deg2rad(pole_lat))
    vectors = np.stack([x * sine - z * cosine, y, x * cosine + z * sine], axis=-1)
    east, north = degrees_of(vectors)
    return _wrap_longitudes(east + pole_lon + 180.0), north


def _wrap_longitudes(lon: Floats, west: float = -180.0) -> Floats:
    """Return longitudes from ``west`` over one circle; those already within are bit-identical."""
    return lon - 360.0 * np.floor((lon - west) / 360.0)


def _inverse(crs: CRS, target: Any) -> Locator:
    def locate(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        import pyproj

        units = [float(axis.unit_conversion_factor) or 1.0 for axis in crs.axis_info[:2]] or [1.0, 1.0]
        # A transformer belongs to the thread that created it.
        transformer = pyproj.Transformer.from_crs(crs, target, always_xy=True)
        lon, lat = transformer.transform(np.asarray(x) / units[0], np.asarray(y) / units[-1])
        return np.asarray(lon), np.asarray(lat)

    return locate


def _method(crs: CRS) -> str:
    operation = crs.coordinate_operation
    return "" if operation is None else str(operation.method_name).lower()


def is_mapping(variable: Any) -> bool:
    """Return whether a variable is a grid mapping: a single value with attributes of one."""
    return variable.size == 1 and bool({"grid_mapping_name", *PROJ_ATTRS} & set(variable.attrs))


def mapping_among(coords: Mapping[Any, xr.DataArray]) -> str | None:
    """Return the name of the first grid mapping among coordinates."""
    return next((str(name) for name, coordinate in coords.items() if is_mapping(coordinate)), None)


def mapping_name(variable: xr.DataArray) -> str | None:
    """Return the name of the grid mapping of a variable, if it has one.

    Arithmetic drops encodings, and with them that name: the only mapping among the coordinates is used then.
    """
    name = variable.encoding.get("grid_mapping") or variable.attrs.get("grid_mapping")
    return str(name) if name else mapping_among(variable.coords)


def _fields_on(obj: xr.Dataset | xr.DataArray, dims: tuple[str, str]) -> list[xr.DataArray]:
    fields = obj.data_vars.values() if isinstance(obj, xr.Dataset) else (obj,)
    return [field for field in fields if set(dims) <= set(field.dims)]


def mapping_of(obj: xr.Dataset | xr.DataArray, dims: tuple[str, str], text: bool = False) -> GridMapping | None:
    """Return the grid mapping named by a field on the horizontal dimensions, else the only one.

    With ``text``, a coordinate system in an attribute of a field or of the file counts if there is no other.
    """
    variables = obj.variables if isinstance(obj, xr.Dataset) else obj.coords
    names = [word for word in grid_mapping_names(obj, dims) if word in variables]
    if not names:
        names = [str(name) for name, variable in variables.items() if is_mapping(variable)]
        names = names if len(names) == 1 else []
    if names:
        return GridMapping(names[0], dict(variables[names[0]].attrs))
    items = (*_fields_on(obj, dims), obj) if text else ()
    texts = (GridMapping(key, {"spatial_ref": item.attrs[key]}) for item in items for key in TEXT_ATTRS
             if key in item.attrs)  # fmt: skip
    return next((mapping for mapping in texts if mapping.crs is not None), None)


def grid_mapping_names(obj: xr.Dataset | xr.DataArray, dims: tuple[str, str]) -> list[str]:
    """Return the names of grid mappings in the attributes of fields on two dimensions.

    For the long form, ``crsOSGB: x y crsWGS84: lat lon``, return the one whose coordinates are the dimensions.
    """
    names = []
    for field in _fields_on(obj, dims):
        text = str(field.attrs.get("grid_mapping") or field.encoding.get("grid_mapping") or "")
        groups = re.findall(r"(\S+):((?:\s+[^\s:]+(?!\S))*)", text)
        matching = [name for name, axes in groups if set(dims) & set(axes.split())]
        names += matching or [word.rstrip(":") for word in text.split()[:1]]
    return names


class Positions(NamedTuple):
    """Longitudes and latitudes of cells in degrees, shape (n_y, n_x), and of their corners, (n_y, n_x, 4), if any.

    Corners are counter-clockwise seen from above, as CF requires; arrays of large grids are lazy.
    """

    lon: Any
    lat: Any
    corners: tuple[Any, Any] | None


def positions(grid: RectilinearGrid | CurvilinearGrid, locator: Locator | None, west: float = -180.0) -> Positions:
    """Return the positions of the cells of a grid on the earth; longitudes of a product grid begin at ``west``."""
    n_y, n_x = grid.shape
    rows_of = partial(_rows_of_positions, grid, locator, west)
    if n_y * n_x <= EAGER_CELLS:
        centres, corners = rows_of(slice(0, n_y))
        return Positions(centres[0], centres[1], (corners[0], corners[1]))
    step = n_y if isinstance(grid, CurvilinearGrid) else max(EAGER_CELLS // n_x, 1)
    parts: tuple[list[Any], list[Any]] = ([], [])
    for start in range(0, n_y, step):
        rows = slice(start, min(start + step, n_y))
        arrays, shape = dask.delayed(rows_of, nout=2)(rows), (2, rows.stop - rows.start, n_x)
        parts[0].append(da.from_delayed(arrays[0], shape, np.float64))
        parts[1].append(da.from_delayed(arrays[1], (*shape, 4), np.float64))
    lon, lat = da.concatenate(parts[0], axis=1)
    return Positions(lon, lat, None if n_y * n_x > MOST_CORNERS else tuple(da.concatenate(parts[1], axis=1)))


def _rows_of_positions(
    grid: RectilinearGrid | CurvilinearGrid, locator: Locator | None, west: float, rows: slice
) -> tuple[Floats, Floats]:
    """Return centres, shape (2, rows, n_x), and corners, shape (2, rows, n_x, 4), of some rows, all of a mesh."""
    if isinstance(grid, CurvilinearGrid):
        return np.stack([grid.lon, grid.lat]), np.stack(grid.corners)
    y, x, place = grid.y, grid.x, locator or (lambda lon, lat: (lon, lat))
    # The corners of a cell in the middle, in the order of the axes, show whether that is counter-clockwise.
    (south, north), (left, right) = y.edges[y.size // 2 :][:2], x.edges[x.size // 2 :][:2]
    ring = place(np.array([left, right, right, left]), np.array([south, south, north, north]))
    order = [0, 1, 2, 3] if polygon_area(unit_vectors(*ring)) > 0 else [3, 2, 1, 0]
    lon, lat = place(*np.meshgrid(x.centres, y.centres[rows]))
    edges = place(*np.meshgrid(x.edges, y.edges[rows.start : rows.stop + 1]))
    rings = [np.stack([v[:-1, :-1], v[:-1, 1:], v[1:, 1:], v[1:, :-1]], axis=-1)[..., order] for v in edges]
    if locator is not None:
        lon = _wrap_longitudes(lon, west)
        # Corners of a cell at the seam are on the side of its centre.
        rings[0] = rings[0] + 360.0 * np.round((lon[..., None] - rings[0]) / 360.0)
    return np.stack([lon, lat]), np.stack(rings)
