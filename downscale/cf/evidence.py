"""Metadata evidence for the direction and the quantity of a coordinate.

The order of precedence is units, standard name, ``axis`` attribute, grid mapping, name. Contradictions raise a one-line
error with both pieces of evidence. Only a standard name that contradicts units and grid mapping is ignored, since CDO
writes ``projection_x_coordinate`` for every axis with a grid mapping.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from downscale.errors import GridError

Way = Literal["y", "x", "other"]
Nature = Literal["geographic", "rotated", "plane", "scan"]

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

COMPASS_UNITS = re.compile(r"deg(?:ree)?s?[_ ]*(n(?:orth)?|e(?:ast)?|s(?:outh)?|w(?:est)?)")
WAYS: dict[str, Way] = {"n": "y", "e": "x"}
DEGREES_IN = {
    **dict.fromkeys(("degree", "degrees", "deg", "degs", "\N{DEGREE SIGN}", "arc_degree", "arcdeg"), 1.0),
    **dict.fromkeys(("radian", "radians", "rad", "rads"), 57.29577951308232),
    **dict.fromkeys(("gon", "grad", "grads", "gradian", "gradians"), 0.9),
    **dict.fromkeys(("arcminute", "arcminutes", "arcmin", "arc_minute", "arc_minutes", "minutes_of_arc"), 1 / 60),
    **dict.fromkeys(("arcsecond", "arcseconds", "arcsec", "arc_second", "arc_seconds", "seconds_of_arc"), 1 / 3600),
    **dict.fromkeys(("microradian", "microradians", "urad", "\N{GREEK SMALL LETTER MU}rad"), 57.29577951308232e-6),
}
METRES_IN = {
    **dict.fromkeys(("m", "metre", "meter", "metres", "meters"), 1.0),
    **dict.fromkeys(("km", "kilometre", "kilometer", "kilometres", "kilometers"), 1000.0),
    **dict.fromkeys(("us_survey_foot", "us_survey_feet", "us-ft", "ftus"), 1200 / 3937),
}
# Units without information about a coordinate.
MUTE = ("", "1", "none", "unknown", "unitless", "dimensionless", "undefined", "index", "count", "pixel", "pixels")


@dataclass(frozen=True)
class Claim:
    """The evidence of one piece of metadata about a coordinate.

    Attributes
    ----------
    words : str
        The piece of metadata, for messages.
    way : "y", "x", "other" or None
        Direction of the coordinate; None if this piece does not determine it.
    natures : set of str or None
        Possible quantities of the coordinate; None if this piece does not restrict them.
    """

    words: str
    way: Way | None = None
    natures: frozenset[Nature] | None = None


@dataclass(frozen=True)
class Axis:
    """One northward or eastward coordinate, and the rank of its evidence (0 is best)."""

    name: str
    way: Way
    rank: int


def degrees_in(units: str, rare: bool = True) -> float | None:
    """Return the degrees in one unit of angle, or None for other units.

    Examples
    --------
    >>> degrees_in("degrees_north"), degrees_in("grad"), degrees_in("m")
    (1.0, 0.9, None)
    """
    text = _plain(units)
    compass = compass_of(text)
    if compass is not None:
        return 1.0 if compass in WAYS else None
    return DEGREES_IN[text] if text in DEGREES_IN else _by_pint(units, "degree") if rare else None


def metres_in(units: str, rare: bool = True) -> float | None:
    """Return the metres in one unit of length, or None for other units.

    Examples
    --------
    >>> metres_in("km"), metres_in("feet"), metres_in("degrees")
    (1000.0, 0.3048, None)
    """
    text = _plain(units)
    return METRES_IN[text] if text in METRES_IN else _by_pint(units, "meter") if rare else None


def compass_of(units: str) -> str | None:
    """Return the letter of the compass direction in units of degrees, or None ("degrees" does not mean south)."""
    text = _plain(units)
    found = None if text in DEGREES_IN else COMPASS_UNITS.fullmatch(text)
    return None if found is None else found[1][0]


def _plain(units: str) -> str:
    return re.sub(r"\s+", "_", str(units).strip().lower())


def _by_pint(units: str, wanted: str) -> float | None:
    from downscale.cf.units import convert

    return None if _plain(units) in MUTE else convert(1.0, str(units), wanted)


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
    named = str(coordinate.name).lower() in (*Y_NAMES, *X_NAMES)
    units = _units_claim(attrs, named or any(claim.way in ("y", "x") for claim in claims))
    return [units, *claims] if units is not None else claims


def _units_claim(attrs: dict[str, object], rare: bool) -> Claim | None:
    units = str(attrs.get("units") or "")
    text = _plain(units)
    words = f"units {units!r}"
    compass = compass_of(text)
    if compass is not None:
        # South and west are counted the other way; the sign is not changed here.
        way = WAYS.get(compass)
        return Claim(words, way, COMPASS if way else NOTHING)
    if degrees_in(units, rare=False) is not None:
        return Claim(words, None, ANGLES)
    if text in MUTE:
        return None
    if metres_in(units, rare=False) is not None:
        return Claim(words, None, LENGTHS)
    if not rare:
        return None
    return Claim(words, None, ANGLES if degrees_in(units) else LENGTHS if metres_in(units) else NOTHING)


def axis_of(coordinate: xr.DataArray) -> Axis | None:
    """Return the direction of a one-dimensional coordinate, or None if it is not a horizontal axis.

    Raises
    ------
    GridError
        If two attributes contradict each other.
    """
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
    known = any(claim.natures is not None for claim in claims_of(coordinate))
    name = str(coordinate.name).lower()
    return not known and (name in PLANE_NAMES or name not in (*Y_NAMES, *X_NAMES))


def nature_of(coordinate: xr.DataArray, mapping: Claim | None) -> Nature:
    """Return the quantity of a horizontal coordinate by its units, standard name, grid mapping and, last, its name.

    Raises
    ------
    GridError
        If two pieces of evidence contradict each other.
    """
    name = str(coordinate.name)
    claims = [claim for claim in claims_of(coordinate) if claim.natures is not None]
    units = next((claim for claim in claims if claim.words.startswith("units")), None)
    standard = next((claim for claim in claims if claim is not units), None)
    overruled = (
        standard is not None and units is not None and mapping is not None and _meet(units, mapping)
        and not _meet(standard, units, mapping)
    )  # fmt: skip
    said = [claim for claim in (units, None if overruled else standard, mapping) if claim is not None]
    possible: frozenset[Nature] = frozenset(("geographic", "rotated", "plane", "scan"))
    for index, claim in enumerate(said):
        if not possible & (claim.natures or NOTHING):
            other = next((before for before in said[:index] if not _meet(before, claim)), said[index - 1])
            raise contradiction(name, other, claim) if index else _unusable(name, claim)
        possible &= claim.natures or NOTHING
    lower = name.lower()
    by_name: Nature = "rotated" if lower in ROTATED_NAMES else "geographic"
    if not said:
        return by_name if lower in (*Y_NAMES, *X_NAMES) and lower not in PLANE_NAMES else "plane"
    order: tuple[Nature, ...] = (by_name, "geographic", "plane", "rotated", "scan")
    return next(nature for nature in order if nature in possible)


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
