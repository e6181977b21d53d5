"""Latitude and longitude of the values of a field: of grids in any coordinate system, of stations, or none."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.horizontal import Horizontal, horizontal
from downscale.errors import DownscaleError
from downscale.grid.latlon import RectilinearGrid

Positions = tuple[xr.DataArray, xr.DataArray]
NAMES = {"latitude": ("latitude", "lat"), "longitude": ("longitude", "lon")}


def positions_of(ds: xr.Dataset) -> Positions | None:
    """Return latitudes and longitudes in degrees on their own dimensions, or None if they are unknown.

    Examples
    --------
    >>> station = xr.Dataset(coords={"lat": 51.0, "lon": 8.9})
    >>> [float(one) for one in positions_of(station)]
    [51.0, 8.9]
    """
    try:
        return _of_grid(ds, horizontal(ds, guess=True))
    except DownscaleError:
        lat, lon = (_coordinate(ds, standard) for standard in NAMES)
        return None if lat is None or lon is None else (lat, lon)


def _of_grid(ds: xr.Dataset, axes: Horizontal) -> Positions | None:
    if axes.positions is not None and all(name in ds.variables for name in axes.positions):
        lat, lon = (ds[name] for name in axes.positions)
        return _plain(lat.values, lat.dims), _plain(lon.values, lon.dims)
    if not isinstance(axes.grid, RectilinearGrid):
        return None
    y, x = axes.grid.y.centres, axes.grid.x.centres
    if axes.locator is not None:
        # Rows first: each map is as large as one field.
        found = axes.locator(*np.meshgrid(x, y))
        return _plain(found[1], axes.dims), _plain(found[0], axes.dims)
    return (_plain(y, axes.y), _plain(x, axes.x)) if axes.system == "geographic" else None


def _coordinate(ds: xr.Dataset, standard: str) -> xr.DataArray | None:
    for name, coord in ds.coords.items():
        is_known = coord.attrs.get("standard_name") == standard or str(name).lower() in NAMES[standard]
        if is_known and coord.dtype.kind in "fiu":
            return _plain(coord.values, coord.dims)
    return None


def _plain(values: NDArray[np.float64], dims: Any) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, np.float64), dims=dims)
