"""Kinds of variables: codes and directions, which have no meaningful mean, and totals over periods of time."""

from __future__ import annotations

import re

import numpy as np
import xarray as xr

from downscale.cf.quantities import (
    FALLS,
    SPREADS,
    cell_methods,
    in_words,
    infer_standard_name,
    standard_name_of,
    units_of,
)
from downscale.cf.units import CODE_UNITS, fits
from downscale.errors import InputError

CODE_WORDS = {word for word in CODE_UNITS if word != "index"} | {"type", "types"}
CLASS_WORDS = ("category", "categories", "class", "classes", "type", "types", "code", "codes")
CODE_NAMES = {"lu_index", "ivgtyp", "isltyp", "tvl", "tvh", "slt", "ptype"}
MASK_WORDS = set("mask masks lsm landmask seamask oceanmask icemask tmask umask vmask landsea".split())
NO_UNITS = ("", "1", "-", "~", "none", "unitless", "dimensionless", "(0 - 1)", "(code table 4.201)", "numeric")
# As in "LAND MASK (1 FOR LAND, 2 FOR WATER)" and "0=sea, 1=land".
LEGEND = re.compile(r"\b\d+\s*(=|:|\bfor\b|\bis\b)\s*[a-z]\w+.*\b\d+\s*(=|:|\bfor\b|\bis\b)\s*[a-z]\w+", re.IGNORECASE)


def is_categorical(variable: xr.DataArray) -> bool:
    """Return whether values are codes, which must not be averaged.

    Examples
    --------
    >>> is_categorical(xr.DataArray(np.int8(3), attrs={"long_name": "basin code", "units": "ids"}))
    True
    >>> is_categorical(xr.DataArray(np.int16(812), attrs={"long_name": "elevation", "units": "m"}))
    False
    """
    return code_reason(variable) is not None


def code_reason(variable: xr.DataArray) -> str | None:
    """Return why values are codes, or None: booleans, flags, bytes, masks, or names of classes.

    Integers are recognised by their stored type, since a fill value converts them to floating point. Floating-point
    numbers are codes only without units and with an unambiguous name.

    Examples
    --------
    >>> code_reason(xr.DataArray(np.int8(1), name="lsm"))
    "by type int8 and the word 'lsm' in its name"
    """
    attrs, encoding, kind = variable.attrs, variable.encoding, variable.dtype.kind
    if kind in "bSUO":
        return "by type " + {"b": "bool"}.get(kind, "text")
    flag = next((key for key in ("flag_values", "flag_masks", "flag_meanings") if key in attrs), None)
    if flag is not None:
        return f"by attribute {flag}"
    units, standard = (str(attrs.get(key, "")).strip().lower() for key in ("units", "standard_name"))
    names = [str(name).lower() for name in (variable.name, attrs.get("long_name"), attrs.get("standard_name")) if name]
    words = set(re.split(r"[\W_]+", " ".join(names)))
    word, mask = (min(words & legal, default=None) for legal in (CODE_WORDS, MASK_WORDS))
    stored_type = np.dtype(encoding.get("dtype", variable.dtype))
    is_scaled = encoding.get("scale_factor") is not None or encoding.get("add_offset") is not None
    if stored_type.kind in "iu" and not is_scaled:
        word = word or (mask if units in NO_UNITS else None)
        if units in CODE_UNITS:
            return f"by type {stored_type} and units {units!r}"
        if word is not None:
            return f"by type {stored_type} and the word {word!r} in its name"
        return f"by type {stored_type} without units" if units in NO_UNITS and stored_type.itemsize == 1 else None
    if units in CODE_UNITS and units != "index":
        return f"by units {units!r}"
    if units not in NO_UNITS and not units.lstrip("(").startswith("code table"):
        return None
    if str(variable.name).lower() in CODE_NAMES:
        return f"by name {str(variable.name)!r}"
    long_name = str(attrs.get("long_name", ""))
    if LEGEND.search(long_name[:200]):
        return f"by long_name {long_name[:60]!r}"
    # A name of several words, such as "type of low vegetation", is that of codes; a standard name of CF is not.
    is_class = word in CLASS_WORDS and (standard in ("", "unknown", "none") or word in standard.split("_"))
    return f"by the word {word!r} in its name, without units" if is_class else None


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
    is_angle = units.lower() in ANGLES
    if not is_angle and units not in ("", "1"):
        return None
    if standard:
        return f"by standard_name {standard!r}" if DIRECTION.fullmatch(standard) else None
    for what, text in (("long_name", variable.attrs.get("long_name")), ("name", variable.name)):
        words = in_words(text)
        if (DIRECTION if is_angle else MOVING).fullmatch(words) or (what == "name" and is_angle and words in NAMES):
            return f"by {what} {str(text)!r}" + (f" and units {units!r}" if is_angle else "")
    # An angle whose valid range is a full circle.
    metadata = {**variable.encoding, **variable.attrs}
    pair = metadata.get("valid_range", (metadata.get("valid_min"), metadata.get("valid_max")))
    try:
        low, high = (float(end) for end in pair)
    except (TypeError, ValueError):
        return None
    is_circle = is_angle and any(abs(high - low - circle) < 0.02 * circle for circle in CIRCLES)
    return f"by its valid range, {low:g} to {high:g}" if is_circle else None


def without_directions(ds: xr.Dataset, names: list[str], wanted: object) -> tuple[list[str], list[str]]:
    """Return the fields that are not directions, and one line for each direction that is left out."""
    reasons = {name: reason for name in names if (reason := direction_reason(ds[name])) is not None}
    fields = [name for name in names if name not in reasons]
    if reasons and (wanted is not None or not fields):
        name, reason = next(iter(reasons.items()))
        raise InputError(
            f"expected fields that have a mean over cells, received the direction {name!r} ({reason}), which starts "
            f"again after a circle; {REMEDY}"
        )
    return fields, [
        f"left out {name}, a direction ({reason}): its mean over cells means nothing; {REMEDY}, or name the other "
        "variables (data_vars=, --vars)"
        for name, reason in reasons.items()
    ]


# Flows, in standard names and as words: in the units of an amount they are accumulated over the period.
FLOWS = re.compile(
    rf"(.*_)?({FALLS}|rain|runoff|evaporation|evapotranspiration|transpiration|sublimation|drainage|snow_?melt|melt)(_.*)?"
    r"|(.*_)?(radiation|radiative|shortwave|longwave|short_wave|long_wave|heat|solar|thermal)(_.*)?_?(flux|radiation)(_.*)?"
    r"|integral_wrt_time_of_.*|duration_of_.*|number_of_days_.*|(.*_)?sunshine(_.*)?"
)
# States, extremes of a period, and quantities that are only related to a flow.
NO_TOTALS = re.compile(
    r"(.*_)?(surface_snow_(amount|thickness|mass)|lying_snow|snow_depth|canopy|soil|maximum|minimum|max|min|heaviest|highest|"
    r"type|fraction|height|depth|content|temperature|mean|average|rate)(_.*)?"
)
FLOW_UNITS = ("kg m-2", "m", "J m-2", "mol m-2", "s")
# Names of fluxes of either sign in forecasts and reanalyses.
FLOW_NAMES = frozenset("e es pev slhf sshf ssr str tsr ttr ssrc strc tsrc ttrc ewss nsss sund sundur pet aet".split())
LARGEST_OF_PERIODS = frozenset("rx1day rx5day prhmax".split())


def quantity_over_time(variable: xr.DataArray, *names: str) -> tuple[str, str]:
    """Return "extensive" if values are totals over the cells of a time axis, else "intensive", and why.

    The last of the cell methods over time decides. Without any, amounts of fluxes are totals.

    Examples
    --------
    >>> quantity_over_time(xr.DataArray(0.0, name="pr", attrs={"units": "mm"}), "time")[0]
    'extensive'
    >>> quantity_over_time(xr.DataArray(0.0, name="pr", attrs={"units": "mm day-1"}), "time")[0]
    'intensive'
    """
    methods = [method for axes, method in cell_methods(variable) if axes & {"time", *names}]
    if methods:
        return ("extensive" if methods[-1] == "sum" else "intensive"), f"by cell_methods, {methods[-1]} over time"
    step = str(variable.attrs.get("GRIB_stepType", ""))
    if step in ("instant", "max", "min", "range") or step.startswith("avg"):
        return "intensive", f"by GRIB_stepType {step!r}"
    units = units_of(variable) or ""
    amount_units = next((amount for amount in FLOW_UNITS if units == amount or (units and fits(units, amount))), None)
    if amount_units is None:
        return "intensive", f"by units {units!r}, which are not those of an amount"
    name, reason = infer_standard_name(variable)
    short, words = str(variable.name or "").lower(), in_words(variable.attrs.get("long_name"))
    if short in LARGEST_OF_PERIODS:
        return "intensive", f"by name {short!r}, the largest of a period"
    if name is None and short in FLOW_NAMES:
        name, reason = "evaporation", f"by name {short!r} and units {units!r}"
    if name is None and FLOWS.fullmatch(words):
        name, reason = words, f"by long_name {variable.attrs.get('long_name')!r} and units {units!r}"
    if name is None or not FLOWS.fullmatch(name) or NO_TOTALS.fullmatch(f"{name}_{words}" if words else name):
        return "intensive", "by its name, which is not that of a flow"
    return "extensive", f"{reason}: a total over each period"
