"""Kinds of variables: codes and directions, which have no meaningful mean, and totals over periods of time."""

from __future__ import annotations

import re

import numpy as np
import xarray as xr

from downscale.cf.quantities import (
    PATTERNS,
    SPREADS,
    WORDS,
    cell_methods,
    infer_standard_name,
    standard_name_of,
    standard_spelling,
    units_of,
)
from downscale.cf.units import CODE_UNITS, fits
from downscale.errors import InputError

NO_UNITS = ("", "1", "-", "~", "none", "unitless", "dimensionless", "(0 - 1)", "(code table 4.201)", "numeric")


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
    word, mask = (min(words & legal, default=None) for legal in (WORDS["codes"], WORDS["masks"]))
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
    if str(variable.name).lower() in WORDS["code_names"]:
        return f"by name {str(variable.name)!r}"
    long_name = str(attrs.get("long_name", ""))
    if PATTERNS["legend"].search(long_name[:200]):
        return f"by long_name {long_name[:60]!r}"
    # A name of several words, such as "type of low vegetation", is that of codes; a standard name of CF is not.
    is_class = word in WORDS["classes"] and (standard in ("", "unknown", "none") or word in standard.split("_"))
    return f"by the word {word!r} in its name, without units" if is_class else None


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
    if PATTERNS["from_north"].fullmatch(units):
        return f"by units {units!r}"
    is_angle = units.lower() in WORDS["angles"]
    if not is_angle and units not in ("", "1"):
        return None
    if standard:
        return f"by standard_name {standard!r}" if PATTERNS["direction"].fullmatch(standard) else None
    for attribute, text in (("long_name", variable.attrs.get("long_name")), ("name", variable.name)):
        words = standard_spelling(text)
        if (PATTERNS["direction"] if is_angle else PATTERNS["moving"]).fullmatch(words) or (
            attribute == "name" and is_angle and words in WORDS["direction_names"]
        ):
            return f"by {attribute} {str(text)!r}" + (f" and units {units!r}" if is_angle else "")
    # An angle whose valid range is a full circle.
    metadata = {**variable.encoding, **variable.attrs}
    pair = metadata.get("valid_range", (metadata.get("valid_min"), metadata.get("valid_max")))
    try:
        low, high = (float(end) for end in pair)
    except (TypeError, ValueError):
        return None
    is_circle = is_angle and any(abs(high - low - circle) < 0.02 * circle for circle in CIRCLES)
    return f"by its valid range, {low:g} to {high:g}" if is_circle else None


def without_directions(ds: xr.Dataset, names: list[str], data_vars: object) -> tuple[list[str], list[str]]:
    """Return the fields that are not directions, and one line for each direction that is left out."""
    reasons = {name: reason for name in names if (reason := direction_reason(ds[name])) is not None}
    fields = [name for name in names if name not in reasons]
    if reasons and (data_vars is not None or not fields):
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


FLOW_UNITS = ("kg m-2", "m", "J m-2", "mol m-2", "s")


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
    short, words = str(variable.name or "").lower(), standard_spelling(variable.attrs.get("long_name"))
    if short in ("rx1day", "rx5day", "prhmax"):
        return "intensive", f"by name {short!r}, the largest of a period"
    if name is None and short in WORDS["flow_names"]:
        name, reason = "evaporation", f"by name {short!r} and units {units!r}"
    if name is None and PATTERNS["flow"].fullmatch(words):
        name, reason = words, f"by long_name {variable.attrs.get('long_name')!r} and units {units!r}"
    if (
        name is None
        or not PATTERNS["flow"].fullmatch(name)
        or PATTERNS["no_total"].fullmatch(f"{name}_{words}" if words else name)
    ):
        return "intensive", "by its name, which is not that of a flow"
    return "extensive", f"{reason}: a total over each period"
