"""The words on a map: titles, dates of any calendar, units, degrees; knows no figure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


def raised(unit: str) -> str:
    """Set the exponents of a unit as superscripts, with spaces that do not break a line.

    Examples
    --------
    >>> raised("kg m-2 s-1").split()
    ['kg', 'm⁻²', 's⁻¹']
    """
    digits = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    exponent = r"(?<=[A-Za-z])(?:\^|\*\*)?(-?\d+)|(?<=^10)(-?\d+)"
    return re.sub(exponent, lambda m: (m[1] or m[2]).translate(digits), unit).replace(" ", "\u00a0")


def name_of(field: xr.DataArray, capital: bool) -> str:
    """Return the long name of a field, or the best that there is."""
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
    """Say which time, member, ... of the whole fields is shown, and which altitude is dotted."""
    words: dict[str, str] = {}
    for whole, part in zip(fields, chosen, strict=True):
        for name in [str(dim) for dim in whole.dims if dim not in part.dims] + ["time"]:
            if name in part.coords and part.coords[name].ndim == 0:
                words.setdefault(name, value_words(name, part.coords[name].values[()]))
            elif whole.sizes.get(name, 1) > 1:
                words.setdefault(name, f"{name} {select.get(name, 0)}")
    relief = [] if level is None else [f"dotted: {level:g} m above sea level"]
    return " · ".join([*words.values(), *relief])


def value_words(name: str, value: Any) -> str:
    """Say a coordinate value in words; dates of any calendar, without a time of day at midnight."""
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
    """Write a latitude (letters "NS") or longitude ("EW").

    Examples
    --------
    >>> degrees(285.0, "EW")
    '75°W'
    """
    value = (value + 180) % 360 - 180 if letters == "EW" else value
    letter = "" if value == 0 or abs(value) == 180 else letters[int(value < 0)]
    return f"{abs(value):g}°{letter}"
