"""Two-dimensional latitudes and longitudes of a field, and their agreement with its axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.local import get_sync
from numpy.typing import NDArray

from downscale.cf.evidence import NOTHING, Way, claims_of, compass_of, contradiction
from downscale.cf.mapping import Locator
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sphere import EARTH_RADIUS, arc, unit_vectors

Floats = NDArray[np.float64]

LAT_NAMES = ("lat", "latitude", "nav_lat", "xlat", "tlat", "lat2d", "geolat", "gphit")
LON_NAMES = ("lon", "longitude", "nav_lon", "xlong", "tlong", "lon2d", "geolon", "glamt")
POSITIONS = ("latitude", "longitude")
# Single precision at 180 degrees, in degrees: smaller differences are not a movement of positions.
STILL = 2e-5
# Axes and positions further apart than this fraction of a cell contradict each other: datums differ by less.
MOST_CELLS_OFF = 0.5
SAMPLES = 9


def way_of_position(variable: xr.DataArray, more: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())) -> Way | None:
    """Return "y" for latitudes and "x" for longitudes on the earth, or None for other variables.

    Raises
    ------
    GridError
        If units and standard name contradict each other.
    """
    claims = [claim for claim in claims_of(variable) if claim.natures is not None]
    said = [claim for claim in claims if claim.way in ("y", "x") and "geographic" in (claim.natures or NOTHING)]
    if len({claim.way for claim in said}) > 1:
        raise contradiction(str(variable.name), *said[:2])
    if any("geographic" not in (claim.natures or NOTHING) for claim in claims):
        return None
    if said:
        return said[0].way
    lower = str(variable.name).lower()
    return "y" if lower in (*LAT_NAMES, *more[0]) else "x" if lower in (*LON_NAMES, *more[1]) else None


def seems_position(variable: xr.DataArray) -> bool:
    """Return whether name, standard name or units of a variable indicate latitudes or longitudes, usable or not."""
    attrs = variable.attrs
    named = str(variable.name).lower() in (*LAT_NAMES, *LON_NAMES) or attrs.get("standard_name") in POSITIONS
    return named or compass_of(str(attrs.get("units", ""))) is not None


def planes_of(obj: xr.Dataset | xr.DataArray) -> tuple[str, str] | None:
    """Return the names of latitudes and longitudes on the same two dimensions, after any leading ones.

    If there are several, those named in ``coordinates`` of a field take precedence, then those on the dimensions of
    most fields.
    """
    every = {**dict(obj.coords), **(dict(obj.data_vars) if isinstance(obj, xr.Dataset) else {})}
    ways = {str(name): way_of_position(v) for name, v in every.items() if v.ndim in (2, 3) and v.dtype.kind in "fiu"}
    fields = list(obj.data_vars.values()) if isinstance(obj, xr.Dataset) else [obj]
    named = {word for v in (obj, *fields) for place in (v.attrs, v.encoding)
             for word in str(place.get("coordinates") or "").split()}  # fmt: skip
    found = []
    for lat in (name for name, way in ways.items() if way == "y"):
        for lon in (name for name, way in ways.items() if way == "x"):
            dims = set(every[lat].dims)
            if dims == set(every[lon].dims):
                carried = sum(dims <= set(v.dims) for v in fields)
                found.append((-every[lat].ndim, (lat in named) + (lon in named), carried, lat, lon))
    best = max(found, key=lambda item: item[:3], default=None)
    return None if best is None else best[3:]


def still(variable: xr.DataArray) -> xr.DataArray:
    """Return the first map of positions that are repeated along leading dimensions."""
    return variable.isel(dict.fromkeys(variable.dims[:-2], 0), drop=True) if variable.ndim > 2 else variable


def moving(variable: xr.DataArray) -> str | None:
    """Return the dimension along which positions change, or None if they do not."""
    for dim in variable.dims[:-2]:
        first = variable.isel({dim: 0}, drop=True).variable
        same = abs(variable.variable - first) <= STILL
        same = same | (variable.variable.isnull() & first.isnull())
        data = same.data.compute(scheduler=get_sync) if isinstance(same.data, da.Array) else same.data
        if not np.asarray(data).all():
            return str(dim)
    return None


def misplaced(
    grid: RectilinearGrid, places: Sequence[NDArray[Any]], locator: Locator | None
) -> tuple[float, float] | None:
    """Return the distance of positions from the cells of a product grid in cells and in metres, or None if they agree.

    Parameters
    ----------
    grid : RectilinearGrid
        In degrees or metres.
    places : (array, array), shape (n_y, n_x)
        Latitudes and longitudes in degrees; missing ones are ignored.
    locator : function, optional
        From the axes to longitudes and latitudes; None if the axes are these.
    """
    rows, columns = (np.unique(np.linspace(0, n - 1, SAMPLES).astype(int)) for n in grid.shape)
    y, x = np.meshgrid(grid.y.centres[rows], grid.x.centres[columns], indexing="ij")
    high, wide = (np.abs(np.diff(axis.edges))[each] for axis, each in ((grid.y, rows), (grid.x, columns)))
    lat, lon = (np.asarray(plane, dtype=np.float64)[np.ix_(rows, columns)] for plane in places)
    here = _points(locator, x, y)
    # Half a cell towards either side, from inside the grid.
    across = arc(_points(locator, x - wide / 2, y), _points(locator, x + wide / 2, y))
    along = arc(_points(locator, x, y - high[:, None] / 2), _points(locator, x, y + high[:, None] / 2))
    # For this comparison, rows at a pole are as wide as they are high.
    size = np.maximum(np.minimum(across, along), 0.1 * along)
    gap = arc(here, unit_vectors(lon, lat))
    known = np.isfinite(gap) & np.isfinite(size) & (size > 0)
    share = np.where(known, gap, 0.0) / np.where(known, size, 1.0)
    if not known.any() or share.max() <= MOST_CELLS_OFF:
        return None
    return float(share.max()), float(np.where(known, gap, 0.0).max() * EARTH_RADIUS)


def _points(locator: Locator | None, x: Floats, y: Floats) -> Floats:
    lon, lat = (x, y) if locator is None else locator(x, y)
    reached = np.isfinite(lon) & np.isfinite(lat)
    return unit_vectors(np.where(reached, lon, np.nan), np.where(reached, lat, np.nan))
