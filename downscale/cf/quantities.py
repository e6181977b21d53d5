"""Properties of quantities: bounds of their values, and sums or means over cells.

Both are returned with a reason, so that a guess is visible. Cell methods, standard name and units are used in this
order; customary names are used only without a standard name and with fitting units. The tables are in quantities.toml,
with only the bounds that can act. Air temperature and pressure have none although neither can be negative: their fields
are so far from zero that no kernel reaches it. Imposing a bound that never acts doubled the time of a global 1-degree
temperature field.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from downscale.cf.units import convert, fits, is_logarithmic
from downscale.errors import OptionError, spell


class Limit(NamedTuple):
    """The largest value of quantities whose whole standard name a pattern matches, in ``units``; none is negative."""

    pattern: str
    units: str
    upper: float = math.inf


_TEXT = files(__package__).joinpath("quantities.toml").read_text("utf-8")
TABLES = tomllib.loads(_TEXT.replace("{falls}", tomllib.loads(_TEXT)["falls"]))
PATTERNS = {name: re.compile("|".join(patterns)) for name, patterns in TABLES["patterns"].items()}
WORDS = {name: frozenset(words.split()) for name, words in TABLES["words"].items()}
LIMITS = [Limit(pattern, units, upper) for units, upper, *patterns in TABLES["limits"] for pattern in patterns]
# Standard name and units by customary name.
CUSTOMARY = {name: (standard, units) for standard, units, names in TABLES["names"] for name in names.split()}

Bounds = tuple[float | None, float | None]

PER_CENT = ("%", "percent", "per cent", "percentage")
# Statistics that are never negative, for any quantity.
SPREADS = (
    "standard_deviation", "variance", "range", "sum_of_squares", "root_mean_square", "mean_absolute_value",
    "maximum_absolute_value", "minimum_absolute_value",
)  # fmt: skip
HORIZONTAL = [{"lat", "lon"}, {"latitude", "longitude"}, {"y", "x"}, {"rlat", "rlon"},
              {"grid_latitude", "grid_longitude"}]  # fmt: skip
# Units of sums over cells. Volume per time is not among them: discharge belongs to a river, not to an area.
SUMS = ("kg", "kg s-1", "m3", "J", "W", "mol", "mol s-1")
COUNTS = ("count", "counts", "person", "persons", "people", "inhabitants", "individuals", "heads")
AREAS = re.compile(r"(.*_)?area|sea_ice_extent")
# A larger change of temperature per metre of height is a lapse rate per kilometre by mistake.
STEEPEST_LAPSE = 0.1
LONGEST_NAME = 200
# Units that never add up over cells, recognised without a library of units.
INTENSIVE_UNITS = frozenset(
    {"", "K", "%", "1", "m", "mm", "m s-1", "Pa", "degC", *(limit.units for limit in LIMITS)} - {*SUMS, "m2"}
)


def bounds_and_reason(variable: xr.DataArray) -> tuple[Bounds, str]:
    """Return the bounds implied by name and units of a variable, in its own units, and why; None for a missing bound.

    Examples
    --------
    >>> bounds_and_reason(xr.DataArray(0.0, name="tp", attrs={"units": "m"}))
    ((0.0, None), "by name 'tp' and units 'm', as precipitation_amount")
    """
    units, methods = units_of(variable), [method for _, method in cell_methods(variable)]
    spread_method = next((method for method in methods if method in SPREADS), None)
    if spread_method is not None:
        return (0.0, None), f"by cell_methods, {spread_method}"
    limit, reason = _limit_and_reason(variable, units)
    if limit is None:
        return (None, None), reason
    if units is not None and is_logarithmic(units):
        return (None, None), f"none: units {units!r} are of a logarithm"
    word = _relative_word(variable)
    if word is not None:
        return (None, None), f"none: {word}"
    # By CF, a variable without units is dimensionless.
    upper = None if math.isinf(limit.upper) else convert(limit.upper, limit.units, units or "1")
    if upper is None and not math.isinf(limit.upper):
        reason = f"{reason}; no upper bound, since units {units!r} are not those of {limit.units!r}"
    is_sum = upper is not None and ("sum" in methods or quantity_of(variable) == "extensive")
    return (0.0, None if is_sum else upper), reason


def automatic_bounds(variable: xr.DataArray) -> Bounds:
    """Return the bounds implied by a variable, without the reason.

    Examples
    --------
    >>> automatic_bounds(xr.DataArray(0.0, attrs={"standard_name": "precipitation_flux"}))
    (0.0, None)
    >>> automatic_bounds(xr.DataArray(0.0, attrs={"standard_name": "cloud_area_fraction", "units": "%"}))
    (0.0, 100.0)
    """
    return bounds_and_reason(variable)[0]


def units_of(variable: xr.DataArray) -> str | None:
    """Return the units, or None if the variable has none."""
    units = variable.attrs.get("units")
    return None if units is None else str(units).strip()


def standard_name_of(variable: xr.DataArray) -> tuple[str, str]:
    """Return the standard name and its modifier; "unknown" of GRIB readers counts as none."""
    name, _, modifier = " ".join(str(variable.attrs.get("standard_name", "")).split()).partition(" ")
    return ("" if name.lower() in ("unknown", "none") else name.lower()), modifier


def automatic_form(variable: xr.DataArray) -> tuple[str, str]:
    """Return "ratio" or "additive": how the fine detail of a climatology applies to a variable, and why.

    Quantities that are not negative and have no upper bound vary in proportion, such as rain and wind speed.

    Examples
    --------
    >>> automatic_form(xr.DataArray(0.0, attrs={"standard_name": "precipitation_flux"}))
    ('ratio', "by standard_name 'precipitation_flux'")
    >>> automatic_form(xr.DataArray(0.0, attrs={"standard_name": "air_temperature"}))[0]
    'additive'
    """
    bounds, reason = bounds_and_reason(variable)
    name = infer_standard_name(variable)[0]
    if bounds != (0.0, None) or (name is not None and PATTERNS["additive"].fullmatch(name)):
        return "additive", reason if bounds == (None, None) else f"{reason}, whose values vary around a level"
    return "ratio", reason


def same_quantity(one: xr.DataArray, other: xr.DataArray) -> bool | None:
    """Return whether two variables are of one quantity, by standard name or else by units; None if that is unknown.

    Amounts, rates and fluxes of one quantity are the same; so are units that can be converted if a name is unknown.

    Examples
    --------
    >>> rain, flux, air = (xr.DataArray(0.0, attrs=attrs) for attrs in ({"standard_name": "precipitation_amount"},
    ...     {"standard_name": "precipitation_flux"}, {"standard_name": "air_temperature", "units": "K"}))
    >>> same_quantity(rain, flux), same_quantity(rain, air), same_quantity(air, xr.DataArray(0.0))
    (True, False, None)
    """
    names = [infer_standard_name(variable)[0] for variable in (one, other)]
    if None not in names:
        first, second = (PATTERNS["extent"].sub("", str(name)) for name in names)
        return first == second
    units = [units_of(variable) for variable in (one, other)]
    if all(units) and not fits(str(units[0]), str(units[1])):
        return False
    return None


def _limit_and_reason(variable: xr.DataArray, units: str | None) -> tuple[Limit | None, str]:
    """Return the limit for a variable, by its standard name or else by its names with fitting units."""
    standard, modifier = standard_name_of(variable)
    if modifier in ("standard_error", "number_of_observations"):
        return Limit(standard, "1"), f"by standard_name modifier {modifier}"
    if modifier not in ("", "detection_minimum"):
        return None, f"none: standard_name modifier {modifier!r}"
    name, reason = infer_standard_name(variable)
    if name is None:
        is_count = units is not None and units.lower() in COUNTS
        return (Limit("count", "1"), f"by units {units!r}, which count") if is_count else (None, f"none: {reason}")
    limit = limit_of(name)
    return limit, reason if limit else f"none: {reason.removeprefix('by ')} implies none"


def rain_reason(variable: xr.DataArray) -> str | None:
    """Return why a variable is a non-negative amount or rate of precipitation, or None if it is not.

    Examples
    --------
    >>> rain_reason(xr.DataArray(0.0, attrs={"standard_name": "lwe_precipitation_rate", "units": "mm h-1"}))
    "by standard_name 'lwe_precipitation_rate'"
    """
    name, reason = infer_standard_name(variable)
    if name is None or PATTERNS["rain"].fullmatch(name) is None or automatic_bounds(variable)[0] != 0:
        return None
    # A spread of rain is not rain.
    is_statistic = standard_name_of(variable)[1] or any(method in SPREADS for _, method in cell_methods(variable))
    return None if is_statistic else reason


def infer_standard_name(variable: xr.DataArray) -> tuple[str | None, str]:
    """Return the standard name of a variable, given or inferred, and the reason; None if there is none.

    Customary names, and long names read as standard names, count only if the units fit.

    Examples
    --------
    >>> attrs = {"units": "m/s", "long_name": "Total (convective and large-scale) precipitation rate"}
    >>> infer_standard_name(xr.DataArray(0.0, name="PRECT", attrs=attrs))
    ('precipitation_amount', "by name 'PRECT' and units 'm/s', as precipitation_amount")
    """
    standard, _ = standard_name_of(variable)
    if standard:
        return standard, f"by standard_name {standard!r}"
    units, name, reason = units_of(variable), str(variable.name).lower(), "no standard_name, and the name says nothing"
    while name not in CUSTOMARY and (shorter := PATTERNS["qualifier"].sub("", name)) not in (name, ""):
        name = shorter
    if name in CUSTOMARY:
        guess, legal_units = CUSTOMARY[name]
        # Sums over cells have the units of a quantity times an area.
        if units and (_over_area(variable)[-1:] == ["sum"] or _one_of(units, legal_units)):
            return guess, f"by name {str(variable.name)!r} and units {units!r}, as {guess}"
        reason = f"name {str(variable.name)!r} has units {units!r}, expected such as {legal_units[0]!r}"
    long_name = variable.attrs.get("long_name")
    meaning = _standard_name_of_words(words, units) if (words := standard_spelling(long_name)) and units else None
    if meaning is not None:
        return meaning, f"by long_name {str(long_name)[:60]!r} and units {units!r}, as {meaning}"
    return None, reason


def standard_spelling(name: Any) -> str:
    """Return a name in the spelling of standard names, without text in brackets.

    Examples
    --------
    >>> standard_spelling("Total (convective and large-scale) precipitation rate (liq + ice)")
    'total_precipitation_rate'
    """
    if not isinstance(name, str):
        return ""
    text = re.sub(r"\([^()]*\)|\[[^\[\]]*\]", " ", name[:LONGEST_NAME].lower())
    return "_".join(re.findall(r"[a-z0-9]+", text))


@cache
def _standard_name_of_words(words: str, units: str) -> str | None:
    """Return the standard name of a long name, if the units are those of that quantity."""
    if PATTERNS["signed"].fullmatch(words):
        return None
    for standard, legal_units, pattern in TABLES["long_names"]:
        if re.fullmatch(pattern, words) and _one_of(units, legal_units):
            return str(standard)
    limit = limit_of(words)
    return words if limit is not None and _one_of(units, [limit.units]) else None


def _one_of(units: str, legal_units: list[str]) -> bool:
    """Return whether units are among the ``legal_units`` ones, in any spelling."""
    if units in legal_units:
        return True
    return any(units.lower() in PER_CENT if unit == "%" else fits(units, unit) for unit in legal_units)


@cache
def limit_of(standard_name: str) -> Limit | None:
    """Return the limit of the table for a standard name, or None.

    Examples
    --------
    >>> limit_of("tendency_of_specific_humidity") is None, limit_of("cloud_area_fraction").upper
    (True, 1.0)
    """
    # An assumption is not the quantity: "_assuming_reference_mole_fraction_of_ozone" is not a fraction.
    standard_name = standard_name.split("_assuming_")[0]
    # An integral has the sign of its integrand, and no upper bound.
    integral = re.match(r"integral_wrt_(time|depth)_of_(.*)", standard_name)
    if integral:
        limit = limit_of(integral[2])
        return limit and limit._replace(upper=math.inf)
    if PATTERNS["signed"].fullmatch(standard_name):
        return None
    return next((limit for limit in LIMITS if re.fullmatch(limit.pattern, standard_name)), None)


def _relative_word(variable: xr.DataArray) -> str | None:
    """Return the evidence that a variable is an anomaly or a difference, or None."""
    texts = {"name": str(variable.name or "").replace("_", " "), "long_name": str(variable.attrs.get("long_name", ""))}
    words = ((attribute, PATTERNS["relative"].search(text.lower())) for attribute, text in texts.items())
    return next((f"{attribute} speaks of {word[0]!r}" for attribute, word in words if word), None)


def cell_methods(variable: xr.DataArray) -> list[tuple[set[str], str]]:
    """Return the cell methods of a variable in order: the names of the axes, and the method.

    Examples
    --------
    >>> cell_methods(xr.DataArray(0.0, attrs={"cell_methods": "time: mean (interval: 1 hour) area: sum"}))
    [({'time'}, 'mean'), ({'area'}, 'sum')]
    """
    text = re.sub(r"\([^)]*\)", " ", str(variable.attrs.get("cell_methods", "")))
    matches = re.findall(r"((?:[\w.-]+:\s*)+)([A-Za-z_]+)", text)
    return [({name.strip() for name in names.split(":")} - {""}, method.lower()) for names, method in matches]


def quantity_and_reason(variable: xr.DataArray) -> tuple[str, str]:
    """Return "extensive" or "intensive", and why: by the last cell method over area, else by units and names.

    Examples
    --------
    >>> quantity_and_reason(xr.DataArray(0.0, attrs={"units": "Gg yr-1"}))
    ('extensive', "by units 'Gg yr-1', which add up over cells as 'kg s-1'")
    """
    methods = _over_area(variable)
    if methods:
        quantity = "extensive" if methods[-1] == "sum" else "intensive"
        return quantity, f"by cell_methods, {methods[-1]} over area"
    units = units_of(variable) or ""
    name = standard_name_of(variable)[0] or str(variable.name or "").lower()
    if units in INTENSIVE_UNITS:
        return "intensive", f"by units {units!r}"
    if units.lower() in COUNTS:
        return "extensive", f"by units {units!r}, which add up over cells"
    if AREAS.fullmatch(name) and fits(units, "m2"):
        return "extensive", f"by units {units!r} of an area, which add up over cells"
    sum_units = next((sums for sums in SUMS if fits(units, sums)), None)
    if sum_units is None:
        return "intensive", f"by units {units!r}, which do not add up over cells"
    if PATTERNS["through"].fullmatch(name):
        return "intensive", f"{name!r} is no sum over the area of a cell, whatever its units {units!r}"
    return "extensive", f"by units {units!r}, which add up over cells as {sum_units!r}"


def _over_area(variable: xr.DataArray) -> list[str]:
    """Return the cell methods over area, in order."""
    methods = cell_methods(variable)
    return [method for names, method in methods if "area" in names or any(pair <= names for pair in HORIZONTAL)]


def variable_bounds(variable: xr.DataArray, name: str, bounds: Any) -> Bounds:
    """Return the bounds of one variable from "auto", a pair in its own units, None, or a mapping of these by name.

    Bounds that are fields count as none.
    """
    if isinstance(bounds, Mapping):
        return variable_bounds(variable, name, bounds.get(name, "auto"))
    if bounds is None:
        return None, None
    if isinstance(bounds, str) and bounds == "auto":
        return automatic_bounds(variable)
    pair = tuple(bounds) if isinstance(bounds, (tuple, list)) else ()
    if len(pair) == 2:
        pair = tuple(None if is_field_bound(b) else b for b in pair)
    if len(pair) != 2 or not all(b is None or (is_number(b) and not math.isnan(b)) for b in pair):
        raise OptionError(f"expected bounds to be 'auto', None or a pair (lower, upper), received {bounds!r}")
    low, high = (None if b is None or math.isinf(b) else float(b) for b in pair)
    if low is not None and high is not None and not low < high:
        raise OptionError(f"expected the lower bound below the upper, received {bounds!r}")
    return low, high


def is_field_bound(bound: Any) -> bool:
    """Return whether one side of bounds is a field: the name of a variable, a file, or a DataArray."""
    return isinstance(bound, str | Path | xr.DataArray)


def is_sign_unknown(variable: xr.DataArray, name: str, bounds: Any) -> bool:
    """Return whether negative values are legal neither by the user's bounds nor by standard name, units or words.

    Examples
    --------
    >>> [is_sign_unknown(xr.DataArray(0.0, name="pop"), "pop", bounds) for bounds in ("auto", None, {"pop": None})]
    [True, False, False]
    >>> is_sign_unknown(xr.DataArray(0.0, name="t2m", attrs={"units": "degC"}), "t2m", "auto")
    False
    """
    if name in bounds if isinstance(bounds, Mapping) else not isinstance(bounds, str):
        return False
    words = map(standard_spelling, (standard_name_of(variable)[0], variable.name, variable.attrs.get("long_name")))
    is_signed = any(
        PATTERNS["signed"].fullmatch(phrase) or PATTERNS["components"].fullmatch(phrase) for phrase in words
    )
    return not is_signed and _relative_word(variable) is None and not is_temperature(variable)


def is_temperature(variable: xr.DataArray) -> bool:
    """Return whether a variable is a temperature, by its units or else by its standard name.

    Examples
    --------
    >>> is_temperature(xr.DataArray(0.0, attrs={"units": "degC"}))
    True
    """
    units = units_of(variable)
    if not units:
        return standard_name_of(variable)[0].endswith("temperature")
    return units == "K" or (units not in INTENSIVE_UNITS - {"degC"} and fits(units, "K"))


def require_lapse_rate(rate: float, variable: xr.DataArray, name: str) -> None:
    """Refuse a lapse rate of a temperature that must be per kilometre, since 0.1 degrees per metre is implausible.

    Examples
    --------
    >>> require_lapse_rate(-6.5e-3, xr.DataArray(0.0, attrs={"units": "K"}), "tas")
    """
    if abs(rate) <= STEEPEST_LAPSE or not is_temperature(variable):
        return
    units = units_of(variable) or "K"
    raise OptionError(
        f"expected {spell('lapse_rate')} in {units} per metre for {name!r}, such as -6.5e-3, received {rate:g}; divide "
        f"a rate in {units} per kilometre by 1000: {rate / 1000:g}"
    )


def is_number(value: Any) -> bool:
    """Return whether a value is a real number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def quantity_of(variable: xr.DataArray) -> str:
    """Return "extensive" if values are sums over cells, else "intensive".

    Examples
    --------
    >>> quantity_of(xr.DataArray(0.0, attrs={"cell_methods": "time: mean area: sum"}))
    'extensive'
    """
    return quantity_and_reason(variable)[0]
