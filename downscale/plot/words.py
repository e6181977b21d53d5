"""Texts on figures: titles, dates of any calendar, units, degrees."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"

CELSIUS = ("degc", "deg_c", "degree_c", "degrees_c", "celsius", "degree_celsius", "degrees_celsius")


def raised(unit: str) -> str:
    """Return a unit with exponents as superscripts and non-breaking spaces.

    Examples
    --------
    >>> raised("kg m-2 s-1").split()
    ['kg', 'm⁻²', 's⁻¹']
    """
    if unit.strip().lower() in CELSIUS:
        return "°C"
    digits = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    exponent = r"(?<=[A-Za-z])(?:\^|\*\*)?(-?\d+)|(?<=^10)(-?\d+)"
    return re.sub(exponent, lambda m: (m[1] or m[2]).translate(digits), unit).replace(" ", "\u00a0")


def name_of(field: xr.DataArray, capital: bool) -> str:
    """Return the long name of a field, or the best substitute."""
    attrs = field.attrs
    standard = str(attrs.get("standard_name", "")).replace("_", " ")
    name = str(attrs.get("long_name") or standard or field.name or "field")
    return name[:1].upper() + name[1:] if capital else name


def subtitle(
    fields: Iterable[xr.DataArray],
    chosen: Iterable[xr.DataArray],
    select: Mapping[str, int],
    level: float | None,
) -> str:
    """Return the time, member, ... shown of the whole fields, and the altitude of the dotted contour."""
    words: dict[str, list[str]] = {}
    for whole, part in zip(fields, chosen, strict=True):
        for name in [str(dim) for dim in whole.dims if dim not in part.dims] + ["time"]:
            said = _place_words(whole, part, name)
            if said is None and whole.sizes.get(name, 1) > 1:
                said = f"{name} {select.get(name, 0)}"
            if said is not None and said not in words.setdefault(name, []):
                words[name].append(said)
    relief = [] if level is None else [f"dotted: {level:g} m above sea level"]
    # Properties in which the two fields differ are given for both, coarse first.
    both = [said[0] if len(said) == 1 else f"coarse {said[0]}, fine {said[1]}" for said in words.values()]
    return " · ".join([*both, *relief])


def _place_words(whole: xr.DataArray, part: xr.DataArray, name: str) -> str | None:
    """Return the position of a part along a dimension: a date if a coordinate has one, else the coordinate's value."""
    if name not in part.coords or part.coords[name].ndim:
        return None
    along = [key for key, v in whole.coords.items() if v.dims == (name,) and part.coords[key].ndim == 0]
    dates = [key for key in along if is_date(part.coords[key].values[()])]
    chosen = name if name in dates or not dates else dates[0]
    return value_words(name, part.coords[chosen].values[()])


def is_date(value: Any) -> bool:
    """Return whether a value is a date of any calendar."""
    return isinstance(value, np.datetime64) or hasattr(value, "year")


def value_words(name: str, value: Any) -> str:
    """Return a coordinate value as text; dates of any calendar, without a time of day at midnight."""
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[m]")).replace("T", " ").removesuffix(" 00:00")
    if not hasattr(value, "year"):
        return f"{name} {value:g}" if isinstance(value, (float, np.floating)) else f"{name} {value}"
    date = f"{value.year:04d}-{value.month:02d}-{value.day:02d}"
    clock = f" {value.hour:02d}:{value.minute:02d}" if value.hour or value.minute else ""
    calendar = getattr(value, "calendar", "standard")
    odd = calendar not in ("standard", "gregorian", "proleptic_gregorian")
    return f"{date}{clock}" + (f" ({calendar} calendar)" if odd else "")


def degrees(value: float, letters: str) -> str:
    """Return a latitude (letters "NS") or longitude ("EW") as text.

    Examples
    --------
    >>> degrees(285.0, "EW")
    '75°W'
    """
    value = (value + 180) % 360 - 180 if letters == "EW" else value
    letter = "" if value == 0 or abs(value) == 180 else letters[int(value < 0)]
    return f"{abs(value):g}°{letter}"
