"""Units of files: compatibility and conversion.

Uses its own registry: that of cf-xarray becomes the default of the whole program and imports matplotlib.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Literal

# Integers with such units or names are labels.
CODE_UNITS = ("id", "ids", "code", "codes", "class", "classes", "category", "categories", "index", "flag", "flags")


# Spellings of climate files that pint does not recognise or misreads (C coulomb, mb millibarn, d day), by pint's.
SPELLINGS = {name: unit for unit, names in {
    "percent": "% Percent percentage", "degree_Celsius": "C Celsius deg_C degC degreeC degrees_C degrees_Celsius",
    "kelvin": "Kelvin degK deg_K", "millibar": "mb mbar", "hour": "hrs hr h hourly", "day": "d dy daily",
    "month": "mon", "year": "yr a", "second": "sec", "meter": "gpm mwe", "decameter": "gpdam",
    "dimensionless": "fraction Fraction proportion Proportion unitless none", "ppm": "ppmv",
    "(0.125)": "okta oktas octa octas", "(0.001)": "psu PSU", "(2.1415e-5 kg m**-2)": "DU", "(1e-9)": "ppbv ppb",
    "(1e-12)": "pptv ppt",
}.items() for name in names.split()}  # fmt: skip
# Words that describe the quantity, which the name already contains.
REMARKS = re.compile(
    r"(?:\bof\s+)?\b(?:liquid\s+)?water[\s_-]+(?:equivalents?|eq\.?)|\bw\.\s*e\.(?:q\.)?|\blwe\b|\bSWE\b", re.IGNORECASE
)
WORD = re.compile(r"(?<![0-9.])(?<![A-Za-z_])[A-Za-z_%]+")
WHOLE_SHARE = re.compile(r"\(?\s*0\s*(?:-|to|\.\.+)\s*(1|100)\s*\)?")
LOGARITHMIC = re.compile(r"\s*(?:(?:lg|ln|lb|log\w*)\s*\(|.*\bdB)")
LONGEST = 80


def is_logarithmic(units: str) -> bool:
    """Return whether units are those of a logarithm (decibels, ``lg(re ...)``), whose zero is not a physical zero.

    Examples
    --------
    >>> is_logarithmic("dBZ"), is_logarithmic("lg(re 1 mg m-3)"), is_logarithmic("mm h-1")
    (True, True, False)
    """
    return LOGARITHMIC.match(units) is not None


def fits(units: str, other: str) -> bool:
    """Return whether units are readable and compatible with others ("%" with "1", but degrees of arc are not).

    Examples
    --------
    >>> fits("mm/day", "m s-1"), fits("m of water equivalent", "m"), fits("degC", "m")
    (True, True, False)
    """
    if units == other:
        return True
    quantity, other_quantity = read_units(units), read_units(other)
    if quantity is None or other_quantity is None:
        return False
    return bool(quantity.to_root_units().units == other_quantity.to_root_units().units)


def same_units(units: str, other: str) -> bool:
    """Return whether two units are equal, in any spelling.

    Examples
    --------
    >>> same_units("mm h-1", "mm/hour"), same_units("kelvin", "K"), same_units("degC", "K")
    (True, True, False)
    """
    zero, one = convert(0.0, units, other), convert(1.0, units, other)
    return zero is not None and one is not None and abs(zero) < 1e-12 and abs(one - 1.0) < 1e-9


def convert(value: float, units: str, new_units: str) -> float | None:
    """Return a value in other units, offsets included; None if these cannot be read or are not compatible.

    Examples
    --------
    >>> convert(1.0, "1", "%"), convert(0.0, "K", "degC"), convert(1.0, "1", "ids")
    (100.0, -273.15, None)
    """
    if units == new_units:
        return value
    if not fits(units, new_units):
        return None
    source, target = read_units(units), read_units(new_units)
    quantity = _registry().Quantity(value * float(source.magnitude), source.units).to(target.units)
    # Twelve digits: enough for a bound, without the rounding of the conversion.
    return float(f"{float(quantity.magnitude) / float(target.magnitude):.12g}")


@cache
def read_units(units: str) -> Any:
    """Return units as a pint quantity (a scale and a unit), or None if they cannot be read; never raises an error."""
    text = _pint_spelling(units)
    # Powers of numbers are not units, and a file could contain one that takes forever.
    if text is None or re.search(r"[\d)]\s*(?:\*\*|\^)", text):
        return None
    try:
        quantity = _registry().Quantity(_registry().parse_expression(text))
        return quantity if 0 < float(quantity.magnitude) < float("inf") else None
    except Exception:  # any error of the parser on free text means that it is not a unit
        return None


def _pint_spelling(units: str) -> str | None:
    """Return units in pint's spelling: ``m-2`` as ``m**-2``, names in climate files as names in pint."""
    text = REMARKS.sub("", str(units)).replace("\N{MINUS SIGN}", "-").strip()
    fraction_match = WHOLE_SHARE.fullmatch(text)
    if fraction_match:
        return "percent" if fraction_match[1] == "100" else "dimensionless"
    if not text or len(text) > LONGEST:
        return None
    text = re.sub(r"\bdeg(?:rees?)?\s+C(?:elsius)?\b", "degC", text)
    text = re.sub(r"/\s*(\d+)\s*([A-Za-z]+)", r"/(\1*\2)", text)  # mm/3h
    # A number after a letter is a power, unless the letter is the e of a number.
    text = re.sub(r"(?<=[A-Za-z])(?<![0-9.][eE])(?=[-+]?\d)", "**", text)
    return WORD.sub(lambda word: SPELLINGS.get(word[0], word[0]), text)


@cache
def _registry() -> Any:
    import pint  # late: it takes half a second, and most fields do not need it

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=False)


COMPASS_UNITS = re.compile(r"deg(?:ree)?s?[_ ]*(n(?:orth)?|e(?:ast)?|s(?:outh)?|w(?:est)?)")
# Directions of axes by letter of the compass; south and west count the other way.
COMPASS_AXES: dict[str, Literal["y", "x"]] = {"n": "y", "e": "x"}
# Degrees and metres in one unit, by its names.
SIZES = {base: {name: size for names, size in sizes.items() for name in names.split()} for base, sizes in {
    "degree": {
        "degree degrees deg degs \N{DEGREE SIGN} arc_degree arcdeg": 1.0, "radian radians rad rads": 57.29577951308232,
        "microradian microradians urad \N{GREEK SMALL LETTER MU}rad": 57.29577951308232e-6,
        "gon grad grads gradian gradians": 0.9,
        "arcminute arcminutes arcmin arc_minute arc_minutes minutes_of_arc": 1 / 60,
        "arcsecond arcseconds arcsec arc_second arc_seconds seconds_of_arc": 1 / 3600,
    },
    "meter": {
        "m metre meter metres meters": 1.0, "km kilometre kilometer kilometres kilometers": 1000.0,
        "us_survey_foot us_survey_feet us-ft ftus": 1200 / 3937,
    },
}.items()}  # fmt: skip
# Units without information about a coordinate.
UNINFORMATIVE_UNITS = (
    "", "1", "none", "unknown", "unitless", "dimensionless", "undefined", "index", "count", "pixel", "pixels",
)  # fmt: skip


def size_in(units: str, base: Literal["degree", "meter"], rare: bool = True) -> float | None:
    """Return the degrees in one unit of angle or the metres in one of length, or None for other units.

    Examples
    --------
    >>> size_in("degrees_north", "degree"), size_in("grad", "degree"), size_in("feet", "meter"), size_in("m", "degree")
    (1.0, 0.9, 0.3048, None)
    """
    text = _plain(units)
    letter = compass_letter(text)
    if letter is not None:
        return 1.0 if letter in COMPASS_AXES and base == "degree" else None
    return SIZES[base].get(text) or (
        convert(1.0, str(units), base) if rare and text not in UNINFORMATIVE_UNITS else None
    )


def compass_letter(units: str) -> str | None:
    """Return the letter of the compass direction in units of degrees, or None ("degrees" does not mean south)."""
    text = _plain(units)
    match = None if text in SIZES["degree"] else COMPASS_UNITS.fullmatch(text)
    return match and match[1][0]


def _plain(units: str) -> str:
    return re.sub(r"\s+", "_", str(units).strip().lower())
