"""Metadata evidence for the direction and the coordinate system of coordinates, one- and two-dimensional.

The order of precedence is units, standard name, ``axis`` attribute, grid mapping, name. Contradictions raise a one-line
error with both pieces of evidence. Only a standard name that contradicts units and grid mapping is ignored, since CDO
writes ``projection_x_coordinate`` for every axis with a grid mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.dates import values_of
from downscale.cf.mapping import CoordinateSystem, Floats, GridMapping, Locator, finite_vectors
from downscale.cf.units import COMPASS_AXES, UNINFORMATIVE_UNITS, compass_letter, size_in
from downscale.errors import GridError
from downscale.grid.axis import FULL_CIRCLE, LONGEST_STEP
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sphere import EARTH_RADIUS, arc, unit_vectors

Direction = Literal["y", "x", "other"]


def _names(**names: str) -> dict[str, Any]:
    return {name: direction for direction, text in names.items() for name in text.split()}


# Fallback names, for files whose axes have no attributes.
PLANE_NAMES = _names(y="y yc projection_y_coordinate northing", x="x xc projection_x_coordinate easting")
ROTATED_NAMES = _names(y="rlat grid_latitude", x="rlon grid_longitude")
AXIS_NAMES = _names(y="lat latitude nav_lat", x="lon longitude long nav_lon") | ROTATED_NAMES | PLANE_NAMES
POSITION_NAMES = _names(
    y="lat latitude nav_lat xlat tlat lat2d geolat gphit", x="lon longitude nav_lon xlong tlong lon2d geolon glamt"
)
POSITIONS = ("latitude", "longitude")

ANGLES: frozenset[CoordinateSystem] = frozenset(("geographic", "rotated", "scan"))
COMPASS: frozenset[CoordinateSystem] = frozenset(("geographic", "rotated"))
LENGTHS: frozenset[CoordinateSystem] = frozenset(("plane",))
PROJECTED: frozenset[CoordinateSystem] = frozenset(("plane", "scan"))
NO_SYSTEM: frozenset[CoordinateSystem] = frozenset()
STANDARD: dict[str, tuple[Direction, frozenset[CoordinateSystem]]] = {
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
AXES = _names(y="y lat geoy", x="x lon geox", other="z t height pressure time geoz ensemble")
# Single precision at 180 degrees, in degrees: smaller differences are not a movement of positions.
POSITION_TOLERANCE = 2e-5
# Axes and positions further apart than this fraction of a cell contradict each other: datums differ by less.
MOST_CELLS_OFF = 0.5
SAMPLES = 9


class Claim(NamedTuple):
    """The evidence of one piece of metadata about a coordinate."""

    words: str  # the piece of metadata, for messages
    direction: Direction | None = None  # None if this piece does not determine it
    systems: frozenset[CoordinateSystem] | None = None  # possible ones; None if this piece does not restrict them


class Axis(NamedTuple):
    """One northward or eastward coordinate, and the rank of its evidence (0 is best)."""

    name: str
    direction: Direction
    rank: int


def claims_of(coordinate: xr.DataArray) -> list[Claim]:
    """Return the evidence of the attributes of a coordinate, by precedence: units, standard name, axis."""
    attrs = coordinate.attrs
    standard, *axes = (str(attrs.get(key) or "").strip().lower() for key in ("standard_name", *AXIS_ATTRS))
    claims = [Claim(f"standard_name {standard!r}", *STANDARD[standard])] if standard in STANDARD else []
    claims += [Claim(f"{key} {str(attrs[key])!r}", AXES[axis]) for key, axis in zip(AXIS_ATTRS, axes, strict=True)
               if axis in AXES]  # fmt: skip
    units = str(attrs.get("units") or "")
    letter = compass_letter(units)
    direction, systems = None, None
    if letter is not None:
        # South and west are counted the other way; the sign is not changed here.
        direction = COMPASS_AXES.get(letter)
        systems = COMPASS if direction else NO_SYSTEM
    elif units.strip().lower() not in UNINFORMATIVE_UNITS:
        systems = _systems_of_units(units, rare=False) or None
        # Rare units are looked up only if all other evidence suggests an axis.
        if not systems and (str(coordinate.name).lower() in AXIS_NAMES or {c.direction for c in claims} & {"y", "x"}):
            systems = _systems_of_units(units, rare=True)
    return claims if systems is None else [Claim(f"units {units!r}", direction, systems), *claims]


def _systems_of_units(units: str, rare: bool) -> frozenset[CoordinateSystem]:
    return ANGLES if size_in(units, "degree", rare) else LENGTHS if size_in(units, "meter", rare) else NO_SYSTEM


def axis_of(coordinate: xr.DataArray) -> Axis | None:
    """Return the direction of a one-dimensional coordinate, or None if it is not a horizontal axis."""
    name, claims = str(coordinate.name), claims_of(coordinate)
    directional_claims = [claim for claim in claims if claim.direction is not None]
    for claim in directional_claims[1:]:
        if claim.direction != directional_claims[0].direction:
            raise contradiction(name, directional_claims[0], claim)
    direction, rank = AXIS_NAMES.get(name.lower()), 3
    if directional_claims:
        direction, first_word = directional_claims[0].direction, directional_claims[0].words.split()[0]
        rank = {"units": 0, "standard_name": 1}.get(first_word, 2)
    elif coordinate.dtype.kind in "mM" or any(claim.systems == NO_SYSTEM for claim in claims):
        return None
    return Axis(name, direction, rank) if direction in ("y", "x") else None


def is_cell_number(coordinate: xr.DataArray) -> bool:
    """Return whether no attribute defines the quantity of a coordinate: it may only count cells."""
    name = str(coordinate.name).lower()
    return (name in PLANE_NAMES or name not in AXIS_NAMES) and all(c.systems is None for c in claims_of(coordinate))


def coordinate_system(coordinate: xr.DataArray, mapping: GridMapping | None) -> CoordinateSystem:
    """Return the system of a horizontal coordinate by its units, standard name, grid mapping and, last, its name."""
    name = str(coordinate.name)
    evidence = [claim for claim in claims_of(coordinate) if claim.systems is not None]
    if mapping is not None and mapping.kind is not None:
        systems = {"plane": LENGTHS, "scan": PROJECTED}.get(mapping.kind, frozenset((mapping.kind,)))
        evidence.append(Claim(f"grid mapping {mapping.name!r} ({mapping.words})", None, systems))
        if len(evidence) == 3 and _common_systems(evidence[0], evidence[2]) and not _common_systems(*evidence):
            del evidence[1]  # the standard name, overruled by units and grid mapping
    for index, claim in enumerate(evidence):
        if not _common_systems(*evidence[: index + 1]):
            if not index:
                raise GridError(
                    f"coordinate {name!r}: expected units of angle (degrees, radians) or length (m, km), received "
                    f"{claim.words}; convert it"
                )
            rival = next(
                (prior for prior in evidence[:index] if not _common_systems(prior, claim)), evidence[index - 1]
            )
            raise contradiction(name, rival, claim)
    by_name: CoordinateSystem = "rotated" if name.lower() in ROTATED_NAMES else "geographic"
    if not evidence:
        return "plane" if name.lower() in PLANE_NAMES or name.lower() not in AXIS_NAMES else by_name
    order: tuple[CoordinateSystem, ...] = (by_name, "geographic", "plane", "rotated", "scan")
    return next(system for system in order if system in _common_systems(*evidence))


def _common_systems(*claims: Claim) -> frozenset[CoordinateSystem]:
    return frozenset.intersection(*(claim.systems or NO_SYSTEM for claim in claims))


def contradiction(name: str, one: Claim, other: Claim) -> GridError:
    """Return the error for two contradictory pieces of evidence."""
    return GridError(
        f"coordinate {name!r}: expected metadata that agree, received {one.words} and {other.words}, which contradict "
        "each other; correct or drop the wrong one"
    )


def position_direction(variable: xr.DataArray, names: dict[str, Direction] = POSITION_NAMES) -> Direction | None:
    """Return "y" for latitudes and "x" for longitudes on the earth, or None for other variables."""
    claims = [claim for claim in claims_of(variable) if claim.systems is not None]
    positions = [c for c in claims if c.direction in ("y", "x") and "geographic" in (c.systems or NO_SYSTEM)]
    if len({claim.direction for claim in positions}) > 1:
        raise contradiction(str(variable.name), *positions[:2])
    if any("geographic" not in (claim.systems or NO_SYSTEM) for claim in claims):
        return None
    return positions[0].direction if positions else names.get(str(variable.name).lower())


def seems_position(variable: xr.DataArray) -> bool:
    """Return whether name, standard name or units of a variable indicate latitudes or longitudes, usable or not."""
    attrs = variable.attrs
    has_name = str(variable.name).lower() in POSITION_NAMES or attrs.get("standard_name") in POSITIONS
    return has_name or compass_letter(str(attrs.get("units", ""))) is not None


def degrees_of_unit(variable: xr.DataArray) -> float:
    """Return the degrees in one unit of two-dimensional positions; without units they are in degrees."""
    return size_in(str(variable.attrs.get("units") or "degrees"), "degree") or 1.0


def find_positions(obj: xr.Dataset | xr.DataArray) -> tuple[str, str] | None:
    """Return the names of latitudes and longitudes on the same two dimensions, after any leading ones.

    Those named in ``coordinates`` of a field take precedence, then those on the dimensions of most fields.
    """
    fields = list(obj.data_vars.values()) if isinstance(obj, xr.Dataset) else [obj]
    arrays = {**dict(obj.coords), **(dict(obj.data_vars) if isinstance(obj, xr.Dataset) else {})}
    directions = {
        str(n): position_direction(v) for n, v in arrays.items() if v.ndim in (2, 3) and v.dtype.kind in "fiu"
    }
    if not {"y", "x"} <= set(directions.values()):
        return None
    names = {word for v in (obj, *fields) for attrs in (v.attrs, v.encoding)
             for word in str(attrs.get("coordinates") or "").split()}  # fmt: skip

    def precedence(pair: tuple[str, str]) -> tuple[int, int, int]:
        dims = set(arrays[pair[0]].dims)
        return -arrays[pair[0]].ndim, sum(name in names for name in pair), sum(dims <= set(v.dims) for v in fields)

    pairs = [(lat, lon) for lat in directions if directions[lat] == "y" for lon in directions
             if directions[lon] == "x" and set(arrays[lat].dims) == set(arrays[lon].dims)]  # fmt: skip
    return max(pairs, key=precedence, default=None)


def first_map(variable: xr.DataArray) -> xr.DataArray:
    """Return the first map of positions that are repeated along leading dimensions."""
    return variable.isel(dict.fromkeys(variable.dims[:-2], 0), drop=True) if variable.ndim > 2 else variable


def moving_dimension(variable: xr.DataArray) -> str | None:
    """Return the dimension along which positions change, or None if they do not."""
    for dim in variable.dims[:-2]:
        first = variable.isel({dim: 0}, drop=True).variable
        is_still = (abs(variable.variable - first) <= POSITION_TOLERANCE) | (
            variable.variable.isnull() & first.isnull()
        )
        if not values_of(is_still).all():
            return str(dim)
    return None


def position_error(
    grid: RectilinearGrid, positions: Sequence[NDArray[Any]], locator: Locator | None
) -> tuple[float, float] | None:
    """Return how far positions are from the cells of a product grid, in cells and metres, or None if they agree.

    Positions ``positions`` are latitudes and longitudes in degrees, shape (n_y, n_x); missing ones are ignored.
    """
    rows, columns = (np.unique(np.linspace(0, n - 1, SAMPLES).astype(int)) for n in grid.shape)
    y, x = np.meshgrid(grid.y.centres[rows], grid.x.centres[columns], indexing="ij")
    heights, widths = (np.abs(np.diff(axis.edges))[indices] for axis, indices in ((grid.y, rows), (grid.x, columns)))
    lat, lon = (np.asarray(plane, dtype=np.float64)[np.ix_(rows, columns)] for plane in positions)
    # Half a cell towards either side, from inside the grid.
    across = arc(_locate(locator, x - widths / 2, y), _locate(locator, x + widths / 2, y))
    along = arc(_locate(locator, x, y - heights[:, None] / 2), _locate(locator, x, y + heights[:, None] / 2))
    # For this comparison, rows at a pole are as wide as they are high.
    size = np.maximum(np.minimum(across, along), 0.1 * along)
    distance = arc(_locate(locator, x, y), unit_vectors(lon, lat))
    is_known = np.isfinite(distance) & np.isfinite(size) & (size > 0)
    cells_off = distance[is_known] / size[is_known]
    if not is_known.any() or cells_off.max() <= MOST_CELLS_OFF:
        return None
    return float(cells_off.max()), float(distance[is_known].max() * EARTH_RADIUS)


def _locate(locator: Locator | None, x: Floats, y: Floats) -> Floats:
    return finite_vectors(*((x, y) if locator is None else locator(x, y)))


def arrange(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with two-dimensional positions if they do not move, and with contiguous longitudes.

    A region across Greenwich that was sorted on 0 to 360, [0, 18, 342, 358], then starts in the west: [-18, -2, 0, 18].
    """
    try:
        names = find_positions(ds)
        if names is not None and ds[names[0]].ndim > 2 and not any(moving_dimension(ds[name]) for name in names):
            ds = ds.assign_coords({name: first_map(ds[name]).variable for name in names})
    except GridError:
        return ds
    return join_longitudes(ds)


def join_longitudes(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose longitudes are contiguous; contradictory metadata are returned unchanged."""
    for name in map(str, ds.dims):
        try:
            seam = find_seam(ds[name]) if name in ds.coords and ds[name].ndim == 1 else None
        except GridError:
            continue
        if seam is not None:
            count, circle = seam
            rolled = ds.isel({name: np.roll(np.arange(ds.sizes[name]), count)})
            longitudes = rolled[name].values
            values = np.where(longitudes > 0.5 * (longitudes.min() + longitudes.max()), longitudes - circle, longitudes)
            # Bounds may be on either side of the seam: they are moved to their centres.
            old = rolled[name].variable
            return rolled.assign_coords({name: xr.Variable(name, values.astype(old.dtype), old.attrs, old.encoding)})
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
    axis, unit = axis_of(coordinate), size_in(str(coordinate.attrs.get("units") or "degrees"), "degree", rare=False)
    if axis is None or axis.direction != "x" or unit is None or is_cell_number(coordinate):
        return None
    longitudes = coordinate.values.astype(np.float64) * unit
    steps = np.diff(longitudes)
    jump = int(np.abs(steps).argmax())
    other_steps = np.delete(steps, jump)
    # The jump has the sign of all other steps, and the step across the other side is about one of them.
    closing_step = FULL_CIRCLE - float(np.ptp(longitudes))
    is_monotonic = (other_steps * np.sign(steps[jump]) > 0).all()
    if not is_monotonic or abs(steps[jump]) <= LONGEST_STEP or not 0 < closing_step <= 1.5 * np.abs(other_steps).max():
        return None
    return coordinate.size - 1 - jump, FULL_CIRCLE / unit
