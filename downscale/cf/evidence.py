"""Metadata evidence for the direction and the quantity of coordinates, one- and two-dimensional.

The order of precedence is units, standard name, ``axis`` attribute, grid mapping, name. Contradictions raise a one-line
error with both pieces of evidence. Only a standard name that contradicts units and grid mapping is ignored, since CDO
writes ``projection_x_coordinate`` for every axis with a grid mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.local import get_sync
from numpy.typing import NDArray

from downscale.cf.mapping import Floats, GridMapping, Locator, Nature
from downscale.cf.units import COMPASS_AXES, MUTE, compass_letter, degrees_in, metres_in
from downscale.errors import GridError
from downscale.grid.axis import FULL_CIRCLE, LONGEST_STEP
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sphere import EARTH_RADIUS, arc, unit_vectors

Way = Literal["y", "x", "other"]

# Fallback names, for files whose axes have no attributes.
Y_NAMES = ("lat", "latitude", "nav_lat", "rlat", "grid_latitude", "y", "yc", "projection_y_coordinate", "northing")
X_NAMES = ("lon", "longitude", "long", "nav_lon", "rlon", "grid_longitude", "x", "xc", "projection_x_coordinate",
           "easting")  # fmt: skip
PLANE_NAMES = ("y", "x", "yc", "xc", "projection_y_coordinate", "projection_x_coordinate", "northing", "easting")
ROTATED_NAMES = ("rlat", "rlon", "grid_latitude", "grid_longitude")

ANGLES: frozenset[Nature] = frozenset(("geographic", "rotated", "scan"))
COMPASS: frozenset[Nature] = frozenset(("geographic", "rotated"))
LENGTHS: frozenset[Nature] = frozenset(("plane",))
PROJECTED: frozenset[Nature] = frozenset(("plane", "scan"))
NOTHING: frozenset[Nature] = frozenset()
STANDARD: dict[str, tuple[Way, frozenset[Nature]]] = {
    "latitude": ("y", frozenset(("geographic",))),
    "longitude": ("x", frozenset(("geographic",))),
    "grid_latitude": ("y", frozenset(("rotated",))),
    "grid_longitude": ("x", frozenset(("rotated",))),
    "projection_y_coordinate": ("y", PROJECTED),
    "projection_x_coordinate": ("x", PROJECTED),
    "projection_y_angular_coordinate": ("y", frozenset(("scan",))),
    "projection_x_angular_coordinate": ("x", frozenset(("scan",))),
}
AXIS_ATTRS = ("axis", "cartesian_axis", "_CoordinateAxisType")
AXES: dict[str, Way] = {
    "y": "y", "x": "x", "z": "other", "t": "other", "lat": "y", "lon": "x", "geoy": "y", "geox": "x",
    "height": "other", "pressure": "other", "time": "other", "geoz": "other", "ensemble": "other",
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """The evidence of one piece of metadata about a coordinate."""

    words: str  # the piece of metadata, for messages
    way: Way | None = None  # direction of the coordinate; None if this piece does not determine it
    natures: frozenset[Nature] | None = None  # possible quantities; None if this piece does not restrict them


@dataclass(frozen=True)
class Axis:
    """One northward or eastward coordinate, and the rank of its evidence (0 is best)."""

    name: str
    way: Way
    rank: int


def claims_of(coordinate: xr.DataArray) -> list[Claim]:
    """Return the evidence of the attributes of a coordinate, by precedence: units, standard name, axis."""
    attrs = coordinate.attrs
    standard = str(attrs.get("standard_name") or "").strip().lower()
    claims = []
    if standard in STANDARD:
        claims.append(Claim(f"standard_name {standard!r}", *STANDARD[standard]))
    for key in AXIS_ATTRS:
        way = AXES.get(str(attrs.get(key) or "").strip().lower())
        if way is not None:
            claims.append(Claim(f"{key} {str(attrs[key])!r}", way))
    # Rare units are looked up only if all other evidence suggests an axis.
    has_axis_name = str(coordinate.name).lower() in (*Y_NAMES, *X_NAMES)
    units = _units_claim(attrs, has_axis_name or any(claim.way in ("y", "x") for claim in claims))
    return [units, *claims] if units is not None else claims


def _units_claim(attrs: dict[str, object], rare: bool) -> Claim | None:
    units = str(attrs.get("units") or "")
    words = f"units {units!r}"
    compass = compass_letter(units)
    if compass is not None:
        # South and west are counted the other way; the sign is not changed here.
        way = COMPASS_AXES.get(compass)
        return Claim(words, way, COMPASS if way else NOTHING)
    if degrees_in(units, rare=False) is not None:
        return Claim(words, None, ANGLES)
    if units.strip().lower() in MUTE:
        return None
    if metres_in(units, rare=False) is not None:
        return Claim(words, None, LENGTHS)
    if not rare:
        return None
    return Claim(words, None, ANGLES if degrees_in(units) else LENGTHS if metres_in(units) else NOTHING)


def axis_of(coordinate: xr.DataArray) -> Axis | None:
    """Return the direction of a one-dimensional coordinate, or None if it is not a horizontal axis."""
    name, claims = str(coordinate.name), claims_of(coordinate)
    ways = [claim for claim in claims if claim.way is not None]
    for claim in ways[1:]:
        if claim.way != ways[0].way:
            raise contradiction(name, ways[0], claim)
    if ways:
        rank = 0 if ways[0].words.startswith("units") else 1 if ways[0].words.startswith("standard") else 2
        return None if ways[0].way == "other" else Axis(name, ways[0].way, rank)  # type: ignore[arg-type]
    if coordinate.dtype.kind in "mM" or any(claim.natures == NOTHING for claim in claims):
        return None
    if name.lower() in Y_NAMES:
        return Axis(name, "y", 3)
    return Axis(name, "x", 3) if name.lower() in X_NAMES else None


def counts_only(coordinate: xr.DataArray) -> bool:
    """Return whether no attribute defines the quantity of a coordinate: it may only count cells."""
    has_quantity = any(claim.natures is not None for claim in claims_of(coordinate))
    name = str(coordinate.name).lower()
    return not has_quantity and (name in PLANE_NAMES or name not in (*Y_NAMES, *X_NAMES))


def nature_of(coordinate: xr.DataArray, mapping: Claim | None) -> Nature:
    """Return the quantity of a horizontal coordinate by its units, standard name, grid mapping and, last, its name."""
    name = str(coordinate.name)
    claims = [claim for claim in claims_of(coordinate) if claim.natures is not None]
    units = next((claim for claim in claims if claim.words.startswith("units")), None)
    standard = next((claim for claim in claims if claim is not units), None)
    is_overruled = (
        standard is not None and units is not None and mapping is not None and _meet(units, mapping)
        and not _meet(standard, units, mapping)
    )  # fmt: skip
    evidence = [claim for claim in (units, None if is_overruled else standard, mapping) if claim is not None]
    possible: frozenset[Nature] = frozenset(("geographic", "rotated", "plane", "scan"))
    for index, claim in enumerate(evidence):
        if not possible & (claim.natures or NOTHING):
            rival = next((prior for prior in evidence[:index] if not _meet(prior, claim)), evidence[index - 1])
            raise contradiction(name, rival, claim) if index else _unusable(name, claim)
        possible &= claim.natures or NOTHING
    lower_name = name.lower()
    by_name: Nature = "rotated" if lower_name in ROTATED_NAMES else "geographic"
    if not evidence:
        return by_name if lower_name in (*Y_NAMES, *X_NAMES) and lower_name not in PLANE_NAMES else "plane"
    order: tuple[Nature, ...] = (by_name, "geographic", "plane", "rotated", "scan")
    return next(nature for nature in order if nature in possible)


def claim_of_mapping(mapping: GridMapping | None) -> Claim | None:
    """Return the evidence of a grid mapping about a coordinate, or None if it cannot be read."""
    natures: dict[str, frozenset[Nature]] = {"plane": LENGTHS, "scan": PROJECTED}
    if mapping is None or mapping.kind is None:
        return None
    return Claim(
        f"grid mapping {mapping.name!r} ({mapping.words})", None, natures.get(mapping.kind, frozenset([mapping.kind]))
    )


def _meet(*claims: Claim) -> bool:
    common = claims[0].natures or NOTHING
    for claim in claims[1:]:
        common &= claim.natures or NOTHING
    return bool(common)


def _unusable(name: str, claim: Claim) -> GridError:
    return GridError(
        f"coordinate {name!r}: expected units of angle (degrees, radians) or length (m, km), received {claim.words}; "
        "convert it"
    )


def contradiction(name: str, one: Claim, other: Claim) -> GridError:
    """Return the error for two contradictory pieces of evidence."""
    return GridError(
        f"coordinate {name!r}: expected metadata that agree, received {one.words} and {other.words}, which contradict "
        "each other; correct or drop the wrong one"
    )


LAT_NAMES = ("lat", "latitude", "nav_lat", "xlat", "tlat", "lat2d", "geolat", "gphit")
LON_NAMES = ("lon", "longitude", "nav_lon", "xlong", "tlong", "lon2d", "geolon", "glamt")
POSITIONS = ("latitude", "longitude")
# Single precision at 180 degrees, in degrees: smaller differences are not a movement of positions.
STILL = 2e-5
# Axes and positions further apart than this fraction of a cell contradict each other: datums differ by less.
MOST_CELLS_OFF = 0.5
SAMPLES = 9


def way_of_position(variable: xr.DataArray, more: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())) -> Way | None:
    """Return "y" for latitudes and "x" for longitudes on the earth, or None for other variables."""
    claims = [claim for claim in claims_of(variable) if claim.natures is not None]
    positions = [claim for claim in claims if claim.way in ("y", "x") and "geographic" in (claim.natures or NOTHING)]
    if len({claim.way for claim in positions}) > 1:
        raise contradiction(str(variable.name), *positions[:2])
    if any("geographic" not in (claim.natures or NOTHING) for claim in claims):
        return None
    if positions:
        return positions[0].way
    lower_name = str(variable.name).lower()
    return "y" if lower_name in (*LAT_NAMES, *more[0]) else "x" if lower_name in (*LON_NAMES, *more[1]) else None


def seems_position(variable: xr.DataArray) -> bool:
    """Return whether name, standard name or units of a variable indicate latitudes or longitudes, usable or not."""
    attrs = variable.attrs
    has_name = str(variable.name).lower() in (*LAT_NAMES, *LON_NAMES) or attrs.get("standard_name") in POSITIONS
    return has_name or compass_letter(str(attrs.get("units", ""))) is not None


def planes_of(obj: xr.Dataset | xr.DataArray) -> tuple[str, str] | None:
    """Return the names of latitudes and longitudes on the same two dimensions, after any leading ones.

    Those named in ``coordinates`` of a field take precedence, then those on the dimensions of most fields.
    """
    arrays = {**dict(obj.coords), **(dict(obj.data_vars) if isinstance(obj, xr.Dataset) else {})}
    ways = {str(name): way_of_position(v) for name, v in arrays.items() if v.ndim in (2, 3) and v.dtype.kind in "fiu"}
    fields = list(obj.data_vars.values()) if isinstance(obj, xr.Dataset) else [obj]
    names = {word for v in (obj, *fields) for attrs in (v.attrs, v.encoding)
             for word in str(attrs.get("coordinates") or "").split()}  # fmt: skip
    candidates = []
    for lat in (name for name, way in ways.items() if way == "y"):
        for lon in (name for name, way in ways.items() if way == "x"):
            dims = set(arrays[lat].dims)
            if dims == set(arrays[lon].dims):
                count = sum(dims <= set(v.dims) for v in fields)
                candidates.append((-arrays[lat].ndim, (lat in names) + (lon in names), count, lat, lon))
    best = max(candidates, key=lambda item: item[:3], default=None)
    return None if best is None else best[3:]


def first_map(variable: xr.DataArray) -> xr.DataArray:
    """Return the first map of positions that are repeated along leading dimensions."""
    return variable.isel(dict.fromkeys(variable.dims[:-2], 0), drop=True) if variable.ndim > 2 else variable


def moving_dimension(variable: xr.DataArray) -> str | None:
    """Return the dimension along which positions change, or None if they do not."""
    for dim in variable.dims[:-2]:
        first_values = variable.isel({dim: 0}, drop=True).variable
        is_still = abs(variable.variable - first_values) <= STILL
        is_still = is_still | (variable.variable.isnull() & first_values.isnull())
        data = is_still.data.compute(scheduler=get_sync) if isinstance(is_still.data, da.Array) else is_still.data
        if not np.asarray(data).all():
            return str(dim)
    return None


def position_error(
    grid: RectilinearGrid, places: Sequence[NDArray[Any]], locator: Locator | None
) -> tuple[float, float] | None:
    """Return how far positions are from the cells of a product grid, in cells and metres, or None if they agree.

    Positions ``places`` are latitudes and longitudes in degrees, shape (n_y, n_x); missing ones are ignored.
    """
    rows, columns = (np.unique(np.linspace(0, n - 1, SAMPLES).astype(int)) for n in grid.shape)
    y, x = np.meshgrid(grid.y.centres[rows], grid.x.centres[columns], indexing="ij")
    heights, widths = (np.abs(np.diff(axis.edges))[indices] for axis, indices in ((grid.y, rows), (grid.x, columns)))
    lat, lon = (np.asarray(plane, dtype=np.float64)[np.ix_(rows, columns)] for plane in places)
    centres = _points(locator, x, y)
    # Half a cell towards either side, from inside the grid.
    across = arc(_points(locator, x - widths / 2, y), _points(locator, x + widths / 2, y))
    along = arc(_points(locator, x, y - heights[:, None] / 2), _points(locator, x, y + heights[:, None] / 2))
    # For this comparison, rows at a pole are as wide as they are high.
    size = np.maximum(np.minimum(across, along), 0.1 * along)
    distance = arc(centres, unit_vectors(lon, lat))
    is_known = np.isfinite(distance) & np.isfinite(size) & (size > 0)
    cells_off = np.where(is_known, distance, 0.0) / np.where(is_known, size, 1.0)
    if not is_known.any() or cells_off.max() <= MOST_CELLS_OFF:
        return None
    return float(cells_off.max()), float(np.where(is_known, distance, 0.0).max() * EARTH_RADIUS)


def _points(locator: Locator | None, x: Floats, y: Floats) -> Floats:
    lon, lat = (x, y) if locator is None else locator(x, y)
    is_finite = np.isfinite(lon) & np.isfinite(lat)
    return unit_vectors(np.where(is_finite, lon, np.nan), np.where(is_finite, lat, np.nan))


def arrange(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with two-dimensional positions if they do not move, and with contiguous longitudes.

    A region across Greenwich that was sorted on 0 to 360, [0, 18, 342, 358], then starts in the west: [-18, -2, 0, 18].
    """
    try:
        return join_longitudes(_drop_repeated_positions(ds))
    except GridError:
        return ds


def _drop_repeated_positions(ds: xr.Dataset) -> xr.Dataset:
    planes = planes_of(ds)
    if planes is None or ds[planes[0]].ndim < 3 or any(moving_dimension(ds[name]) for name in planes):
        return ds
    return ds.assign_coords({name: first_map(ds[name]).variable for name in planes})


def join_longitudes(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose longitudes are contiguous; contradictory metadata are returned unchanged."""
    for name in map(str, ds.dims):
        try:
            seam = find_seam(ds[name]) if name in ds.coords and ds[name].ndim == 1 else None
        except GridError:
            continue
        if seam is not None:
            count, circle = seam
            size = ds.sizes[name]
            rolled = ds.isel({name: np.roll(np.arange(size), count)})
            longitudes = rolled[name].values
            values = np.where(longitudes > 0.5 * (longitudes.min() + longitudes.max()), longitudes - circle, longitudes)
            # Bounds may be on either side of the seam: they are moved to their centres.
            line = rolled[name].variable.copy(deep=False)
            line = xr.Variable((name,), values.astype(line.dtype), line.attrs, line.encoding)
            return rolled.assign_coords({name: line})
    return ds


def find_seam(coordinate: xr.DataArray) -> tuple[int, float] | None:
    """Return how many of the last longitudes belong before the first ones, and the circle in their units, or None.

    Examples
    --------
    >>> find_seam(xr.DataArray([0.0, 2.0, 356.0, 358.0], dims="lon", name="lon"))
    (2, 360.0)
    """
    if coordinate.size < 3 or coordinate.dtype.kind not in "fiu":
        return None
    axis = axis_of(coordinate)
    if axis is None or axis.way != "x" or counts_only(coordinate):
        return None
    unit = degrees_in(str(coordinate.attrs.get("units") or "degrees"), rare=False)
    if unit is None:
        return None
    steps = np.diff(coordinate.values.astype(np.float64) * unit)
    jump = int(np.abs(steps).argmax())
    other_steps = np.delete(steps, jump)
    # The jump has the sign of all other steps, and the step across the other side is about one of them.
    closing_step = FULL_CIRCLE - abs(float(np.ptp(coordinate.values.astype(np.float64) * unit)))
    is_monotonic = (other_steps > 0).all() if steps[jump] > 0 else (other_steps < 0).all()
    if not is_monotonic or abs(steps[jump]) <= LONGEST_STEP or not 0 < closing_step <= 1.5 * np.abs(other_steps).max():
        return None
    return coordinate.size - 1 - jump, FULL_CIRCLE / unit


def degrees_of_unit(variable: xr.DataArray) -> float:
    """Return the degrees in one unit of two-dimensional positions; without units they are in degrees."""
    return degrees_in(str(variable.attrs.get("units") or "degrees")) or 1.0
