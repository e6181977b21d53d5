"""Detection of directions: angles around a circle, which have no meaningful mean over cells."""

from __future__ import annotations

import re

import numpy as np
import xarray as xr

from downscale.cf.quantities import SPREADS, cell_methods, in_words, standard_name_of, units_of
from downscale.errors import InputError

# In standard names, and as words in other names.
DIRECTION = re.compile(
    r"(.*_)?((from|to)_direction|directions?|azimuth|heading|bearing|winddir(ection)?|wind_dir|aspect)(_.*)?"
    r"|angle_of_rotation_from_.*|.*(tide|tidal|harmonic)_.*phase(_.*)?"
)
# Without units only these words are unambiguous.
MOVING = re.compile(r"(.*_)?(winds?|waves?|swells?|currents?|drift|flow)_(from_|to_|mean_|peak_)*direction(_.*)?")
# Customary names, which count only with units of angle.
NAMES = frozenset(
    "wd wdir wd10 wd10m wdir10 wdir10m wdirsfc dd dd10 ddx dir drct th thm theta0 mwd mwd1 mwd2 mwd3 mdts mdww dwi "
    "dwww dwps vmdr vmdr_ww vmdr_sw1 vmdr_sw2 vpdir wvdir wwvdir swdir dirpw dirsw wavedir swelldir peakdir dp".split()
)
ANGLES = frozenset("degree degrees deg degs arcdegree arcdegrees ° radian radians rad".split())
# Only directions are measured from the north.
FROM_NORTH = re.compile(r"deg(ree)?s?[\s_]*(\(?true\)?|t|compass|(clockwise[\s_]+)?from[\s_]+.*north)", re.IGNORECASE)
CIRCLES = (360.0, 2 * np.pi)
REMEDY = "use components (u, v) instead"


def direction_reason(variable: xr.DataArray) -> str | None:
    """Return why a variable is a direction, or None if it is not.

    Examples
    --------
    >>> direction_reason(xr.DataArray(0.0, attrs={"standard_name": "wind_from_direction", "units": "degree"}))
    "by standard_name 'wind_from_direction'"
    >>> direction_reason(xr.DataArray(0.0, name="slope", attrs={"units": "degree"})) is None
    True
    """
    standard, modifier = standard_name_of(variable)
    if modifier or any(method in SPREADS for _, method in cell_methods(variable)):
        return None
    units = units_of(variable) or ""
    if FROM_NORTH.fullmatch(units):
        return f"by units {units!r}"
    angle = units.lower() in ANGLES
    if not angle and units not in ("", "1"):
        return None
    if standard:
        return f"by standard_name {standard!r}" if DIRECTION.fullmatch(standard) else None
    for what, text in (("long_name", variable.attrs.get("long_name")), ("name", variable.name)):
        words = in_words(text)
        if (DIRECTION if angle else MOVING).fullmatch(words) or (what == "name" and angle and words in NAMES):
            return f"by {what} {str(text)!r}" + (f" and units {units!r}" if angle else "")
    return _around_a_circle(variable) if angle else None


def _around_a_circle(variable: xr.DataArray) -> str | None:
    """Return the attribute that shows that an angle covers a full circle, if there is one."""
    said = {**variable.encoding, **variable.attrs}
    pair = said.get("valid_range", (said.get("valid_min"), said.get("valid_max")))
    try:
        low, high = (float(end) for end in pair)
    except (TypeError, ValueError):
        return None
    around = any(abs(high - low - circle) < 0.02 * circle for circle in CIRCLES)
    return f"by its valid range, {low:g} to {high:g}" if around else None


def without_directions(ds: xr.Dataset, names: list[str], wanted: object) -> tuple[list[str], list[str]]:
    """Return the fields that are not directions, and one line for each direction that is left out.

    Raises
    ------
    InputError
        If the user names a direction (``wanted`` is not None), or there is no other field.
    """
    reasons = {name: direction_reason(ds[name]) for name in names}
    fields = [name for name in names if reasons[name] is None]
    found = {name: reason for name, reason in reasons.items() if reason is not None}
    if found and (wanted is not None or not fields):
        name, reason = next(iter(found.items()))
        raise InputError(
            f"expected fields that have a mean over cells, received the direction {name!r} ({reason}), which starts "
            f"again after a circle; {REMEDY}"
        )
    lines = [
        f"left out {name}, a direction ({reason}): its mean over cells means nothing; {REMEDY}, or name the other "
        "variables (data_vars=, --vars)"
        for name, reason in found.items()
    ]
    return fields, lines
