"""Detection of codes: integers that name a class or a state and must not be averaged."""

from __future__ import annotations

import re

import numpy as np
import xarray as xr

# Integers with such units or names are labels.
CODE_UNITS = ("id", "ids", "code", "codes", "class", "classes", "category", "categories", "index", "flag", "flags")
CODE_WORDS = {word for word in CODE_UNITS if word != "index"} | {"type", "types"}
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

    Integers are recognised by their stored type, since a fill value converts them to floating point; scaled integers
    are quantities. Values are not read, so that lazy fields and fields in memory are treated alike.

    Examples
    --------
    >>> code_reason(xr.DataArray(np.int8(1), name="lsm"))
    "by type int8 and the word 'lsm' in its name"
    """
    attrs, kind = variable.attrs, variable.dtype.kind
    if kind in "bSUO":
        return "by type " + {"b": "bool"}.get(kind, "text")
    flags = [key for key in ("flag_values", "flag_masks", "flag_meanings") if key in attrs]
    if flags:
        return f"by attribute {flags[0]}"
    units = str(attrs.get("units", "")).strip().lower()
    names = [str(name).lower() for name in (variable.name, attrs.get("long_name"), attrs.get("standard_name")) if name]
    words = set(re.split(r"[\W_]+", " ".join(names)))
    called = next(iter(sorted(words & CODE_WORDS)), None)
    stored = np.dtype(variable.encoding.get("dtype", variable.dtype))
    scaled = variable.encoding.get("scale_factor") is not None or variable.encoding.get("add_offset") is not None
    if stored.kind not in "iu" or scaled:
        return _floating_codes(variable, units, called)
    if units in CODE_UNITS:
        return f"by type {stored} and units {units!r}"
    if called is not None:
        return f"by type {stored} and the word {called!r} in its name"
    if units in NO_UNITS:
        mask = next(iter(sorted(words & MASK_WORDS)), None)
        if mask is not None:
            return f"by type {stored} and the word {mask!r} in its name"
        if stored.itemsize == 1:
            return f"by type {stored} without units"
    return None


def _floating_codes(variable: xr.DataArray, units: str, called: str | None) -> str | None:
    """Return why floating-point numbers are codes: only without units and with an unambiguous name."""
    if units in CODE_UNITS and units != "index":
        return f"by units {units!r}"
    if units not in NO_UNITS and not units.startswith("code table") and not units.startswith("(code table"):
        return None
    if str(variable.name).lower() in CODE_NAMES:
        return f"by name {str(variable.name)!r}"
    long_name = str(variable.attrs.get("long_name", ""))
    if LEGEND.search(long_name[:200]):
        return f"by long_name {long_name[:60]!r}"
    # A name of several words, such as "type of low vegetation", is that of codes; a standard name of CF is not.
    if called in ("category", "categories", "class", "classes", "type", "types", "code", "codes"):
        standard = str(variable.attrs.get("standard_name", "")).lower()
        if standard in ("", "unknown", "none") or called in standard.split("_"):
            return f"by the word {called!r} in its name, without units"
    return None
