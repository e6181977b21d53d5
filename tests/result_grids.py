"""Results on every kind of grid, as they go to the writer: built by hand, each with all that CF knows of its cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

import downscale
from downscale.cf.mapping import GridMapping

SPHERE = 6_371_000.0
ROTATED = {
    "grid_mapping_name": "rotated_latitude_longitude", "grid_north_pole_latitude": 39.25,
    "grid_north_pole_longitude": -162.0, "earth_radius": SPHERE,
}  # fmt: skip
LAEA = {
    "grid_mapping_name": "lambert_azimuthal_equal_area", "latitude_of_projection_origin": 52.0,
    "longitude_of_projection_origin": 10.0, "false_easting": 4321000.0, "false_northing": 3210000.0,
    "earth_radius": SPHERE,
}  # fmt: skip
LCC = {
    "grid_mapping_name": "lambert_conformal_conic", "standard_parallel": [30.0, 60.0],
    "longitude_of_central_meridian": 10.0, "latitude_of_projection_origin": 45.0, "false_easting": 0.0,
    "false_northing": 0.0, "earth_radius": SPHERE,
}  # fmt: skip
STEREO = {
    "grid_mapping_name": "polar_stereographic", "straight_vertical_longitude_from_pole": 0.0,
    "latitude_of_projection_origin": 90.0, "standard_parallel": 70.0, "false_easting": 0.0, "false_northing": 0.0,
    "earth_radius": SPHERE,
}  # fmt: skip
LINE = {
    "lat": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "lon": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
    "rlat": {"standard_name": "grid_latitude", "long_name": "rotated latitude", "units": "degrees", "axis": "Y"},
    "rlon": {"standard_name": "grid_longitude", "long_name": "rotated longitude", "units": "degrees", "axis": "X"},
    "y": {"standard_name": "projection_y_coordinate", "long_name": "y", "units": "m", "axis": "Y"},
    "x": {"standard_name": "projection_x_coordinate", "long_name": "x", "units": "m", "axis": "X"},
}
PLANE = {name: {key: value for key, value in LINE[name].items() if key != "axis"} for name in ("lat", "lon")}
ROWS, COLUMNS = 6, 8


def _edges(name: str, count: int) -> np.ndarray[Any, Any]:
    first, step = {"lat": (40.0, 0.5), "lon": (4.0, 0.5), "rlat": (-3.0, 0.5), "rlon": (-4.0, 0.5)}.get(
        name, (3e6 if name == "y" else 4e6, 25e3)
    )
    return first + step * np.arange(count + 1)


def _line(name: str, edges: np.ndarray[Any, Any]) -> dict[str, xr.Variable]:
    bounds = np.stack([edges[:-1], edges[1:]], axis=1)
    centres = xr.Variable(name, bounds.mean(axis=1), {**LINE[name], "bounds": f"{name}_bnds"})
    return {name: centres, f"{name}_bnds": xr.Variable((name, "bnds"), bounds)}


def _corners(lat: np.ndarray[Any, Any], lon: np.ndarray[Any, Any], dims: tuple[str, str]) -> dict[str, xr.Variable]:
    """Two-dimensional latitudes and longitudes from those of the (rows + 1, columns + 1) nodes."""
    made = {}
    for name, nodes in (("lat", lat), ("lon", lon)):
        around = np.stack([nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, 1:], nodes[1:, :-1]], axis=-1)
        made[name] = xr.Variable(dims, around.mean(axis=-1), {**PLANE[name], "bounds": f"{name}_bnds"})
        made[f"{name}_bnds"] = xr.Variable((*dims, "corners"), around)
    return made


def _nodes() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Nodes of a gently bent mesh."""
    j, i = np.meshgrid(np.arange(ROWS + 1.0), np.arange(COLUMNS + 1.0), indexing="ij")
    return 45 + 0.4 * j + 0.05 * i, 5 + 0.5 * i - 0.05 * j


def times(calendar: str = "noleap", count: int = 3) -> dict[str, xr.Variable]:
    """Days with bounds, at noon."""
    cftime = calendar not in ("proleptic_gregorian", "standard")
    begin = xr.date_range("2000-02-01", periods=count, freq="D", calendar=calendar, use_cftime=cftime)
    edges = np.stack([begin, begin.shift(1, "D")], axis=1)
    attrs = {"standard_name": "time", "long_name": "time", "axis": "T", "bounds": "time_bnds"}
    time = xr.Variable("time", begin.shift(12, "h"), attrs)
    time.encoding = {"units": "days since 1950-01-01", "calendar": calendar, "dtype": np.dtype("f8")}
    return {"time": time, "time_bnds": xr.Variable(("time", "bnds"), edges)}


def _height() -> xr.Variable:
    attrs = {"units": "m", "positive": "up", "axis": "Z", "standard_name": "height", "long_name": "height"}
    return xr.Variable((), 2.0, attrs)


def assembled(dims: tuple[str, str], coords: dict[str, Any], mapping: dict[str, Any] | None) -> xr.Dataset:
    """A field of temperature on these cells with times, a height, areas and a grid mapping."""
    shape = (3, ROWS, COLUMNS)
    attrs = {
        "standard_name": "air_temperature", "long_name": "Near-Surface Air Temperature", "units": "K",
        "cell_methods": "area: time: mean", "cell_measures": "area: areacella", "comment": "daily mean",
    }  # fmt: skip
    values = np.random.default_rng(0).normal(280, 5, shape).astype("f4")
    area = {"standard_name": "cell_area", "long_name": "area of grid cells", "units": "m2"}
    coords = {**coords, **times(), "height": _height()}
    coords["areacella"] = xr.Variable(dims, np.ones(shape[1:]), area)
    if mapping is not None:
        attrs["grid_mapping"] = "crs"
        coords["crs"] = xr.Variable((), np.int32(0), mapping)
    start = {"title": "a result", "institution": "here", "source": "model", "history": "made"}
    ds = xr.Dataset({"tas": (("time", *dims), values, attrs)}, coords, start)
    return ds.assign_coords(areacella=(dims, downscale.cell_area(ds).values, area))


def latlon() -> xr.Dataset:
    """Equal degrees."""
    coords = {**_line("lat", _edges("lat", ROWS)), **_line("lon", _edges("lon", COLUMNS))}
    return assembled(("lat", "lon"), coords, {"grid_mapping_name": "latitude_longitude", "earth_radius": SPHERE})


def gaussian() -> xr.Dataset:
    """Latitudes of no equal steps over the globe."""
    sines = np.polynomial.legendre.leggauss(ROWS)[0]
    lat = np.rad2deg(np.arcsin(sines))
    edges = np.concatenate([[-90.0], (lat[1:] + lat[:-1]) / 2, [90.0]])
    coords = {**_line("lat", edges), **_line("lon", np.linspace(0, 360, COLUMNS + 1))}
    ds = assembled(("lat", "lon"), coords, {"grid_mapping_name": "latitude_longitude", "earth_radius": SPHERE})
    return ds.assign_coords(lat=ds.lat.copy(data=lat))


def mapped(y: str, x: str, mapping: dict[str, Any]) -> xr.Dataset:
    """Axes of a grid mapping with the true positions that it gives."""
    locate = GridMapping("crs", mapping).locator()
    assert locate is not None
    lon, lat = locate(*np.meshgrid(_edges(x, COLUMNS), _edges(y, ROWS)))
    coords = {**_line(y, _edges(y, ROWS)), **_line(x, _edges(x, COLUMNS)), **_corners(lat, lon, (y, x))}
    return assembled((y, x), coords, mapping)


def rotated() -> xr.Dataset:
    """A rotated pole with true latitudes and longitudes beside its own."""
    return mapped("rlat", "rlon", ROTATED)


def equal_area() -> xr.Dataset:
    """Lambert azimuthal equal area."""
    return mapped("y", "x", LAEA)


def conic() -> xr.Dataset:
    """Lambert conformal conic."""
    return mapped("y", "x", LCC)


def stereographic() -> xr.Dataset:
    """Polar stereographic."""
    return mapped("y", "x", STEREO)


def curvilinear() -> xr.Dataset:
    """Two-dimensional latitudes and longitudes alone, with the corners of each cell."""
    return assembled(("j", "i"), _corners(*_nodes(), ("j", "i")), None)


def members() -> xr.Dataset:
    """An ensemble, with flags and the land share beside it."""
    ds = latlon()
    codes = {"flag_values": [0, 1], "flag_meanings": "sea land", "standard_name": "land_binary_mask"}
    share = {"standard_name": "land_area_fraction", "long_name": "land share", "units": "%"}
    number = xr.Variable("realization", np.arange(2, dtype="i4"), {"standard_name": "realization"})
    plane = ds.tas.isel(time=0, drop=True).drop_vars("height").variable
    return ds.assign(
        tas=ds.tas.expand_dims(realization=2), realization=number, mask=(plane.dims, np.ones(plane.shape, bool), codes),
        sftlf=(plane.dims, np.full(plane.shape, 50.0, "f4"), share),
    )  # fmt: skip


GRIDS: dict[str, Callable[[], xr.Dataset]] = {
    made.__name__: made
    for made in (latlon, gaussian, rotated, equal_area, conic, stereographic, curvilinear, members)
}
