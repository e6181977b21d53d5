"""Families of variables in order, such as daily extremes of temperature, as variables that can be adjusted alone.

Adjusted one by one, a daily minimum may exceed the mean. Range and skewness of the day cannot contradict the mean, and
a fraction of snow cannot exceed the precipitation (Lange 2019).

References
----------
Lange, S. (2019): Trend-preserving bias adjustment and statistical downscaling with ISIMIP3BASD (v1.0). Geoscientific
Model Development 12, 3055-3070, doi:10.5194/gmd-12-3055-2019.

Jennings, K. S., Winchell, T. S., Livneh, B. and Molotch, N. P. (2018): Spatial variation of the rain-snow temperature
threshold across the Northern Hemisphere. Nature Communications 9, 1148, doi:10.1038/s41467-018-03629-7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from downscale.cf.quantities import cell_methods, standard_name_of, units_of
from downscale.cf.units import convert

MEAN, LOWEST, HIGHEST = "tas", "tasmin", "tasmax"
RANGE, SKEWNESS = "tasrange", "tasskew"
RAIN, SNOW, RATIO = "pr", "prsn", "prsnratio"
# Rain and snow are equally frequent near 1 degree Celsius of 2 m temperature (Jennings et al. 2018).
FREEZING = 274.15
# Standard names (and extremes over time) of variables by the name in this module; the names themselves count as well.
QUANTITIES: Mapping[str, tuple[str, str]] = {
    MEAN: ("air_temperature", ""), LOWEST: ("air_temperature", "minimum"), HIGHEST: ("air_temperature", "maximum"),
    RANGE: ("air_temperature_range", ""), SKEWNESS: ("air_temperature_skewness", ""),
    RAIN: ("precipitation_flux|precipitation_amount", ""), SNOW: ("snowfall_flux|snowfall_amount", ""),
    RATIO: ("snowfall_precipitation_ratio", ""),
}  # fmt: skip
LONG_NAMES = {
    LOWEST: "Daily Minimum Near-Surface Air Temperature", HIGHEST: "Daily Maximum Near-Surface Air Temperature",
    RANGE: "Range of Near-Surface Air Temperature within the Day",
    SKEWNESS: "Position of the Mean within the Range of Near-Surface Air Temperature within the Day",
    SNOW: "Snowfall", RATIO: "Ratio of Snowfall to Precipitation",
}  # fmt: skip
# Attributes of one variable that are not those of another of its family.
OWN_ATTRS = (
    "standard_name", "long_name", "cell_methods", "units", "valid_min", "valid_max", "valid_range", "original_name",
    "comment", "description", "history",
)  # fmt: skip


def family_names(ds: xr.Dataset) -> dict[str, str]:
    """Return the names in ``ds`` of members of families by their customary names, such as ``tas``.

    A variable is a member by its name, or by its standard name and cell methods if it is the only one.

    Examples
    --------
    >>> attrs = {"standard_name": "air_temperature", "cell_methods": "time: minimum"}
    >>> family_names(xr.Dataset({"tn": ((), 0.0, attrs), "pr": ((), 0.0)}))
    {'tasmin': 'tn', 'pr': 'pr'}
    """
    found = {}
    for key, (standard, extreme) in QUANTITIES.items():
        if key in ds.data_vars:
            found[key] = key
            continue
        alike = [
            str(name) for name, field in ds.data_vars.items()
            if name not in QUANTITIES and standard_name_of(field) in [(one, "") for one in standard.split("|")]
            and _extreme(field) == extreme
        ]  # fmt: skip
        if len(alike) == 1:
            found[key] = alike[0]
    return found


def _extreme(field: xr.DataArray) -> str:
    return next((method for _, method in cell_methods(field) if method in ("minimum", "maximum")), "")


def to_adjustable(ds: xr.Dataset) -> xr.Dataset:
    """Return variables that can be adjusted one by one instead of those in order; lazy if ``ds`` is.

    Mean, minimum and maximum temperature become the mean, the range ``tasmax - tasmin`` and the skewness
    ``(tas - tasmin) / (tasmax - tasmin)``; a range of zero has skewness 0.5. Precipitation and snowfall become
    precipitation and their ratio, which is NaN on dry days: these have no phase, and any value would enter the
    distribution of wet days.

    Examples
    --------
    >>> day = {"tas": 280.0, "tasmin": 276.0, "tasmax": 284.0}
    >>> adjustable = to_adjustable(xr.Dataset({name: ((), value) for name, value in day.items()}))
    >>> {str(name): float(field) for name, field in adjustable.items()}
    {'tas': 280.0, 'tasrange': 8.0, 'tasskew': 0.5}
    """
    names = family_names(ds)
    if {MEAN, LOWEST, HIGHEST} <= set(names):
        mean, lowest, highest = (ds[names[key]] for key in (MEAN, LOWEST, HIGHEST))
        span = (highest - lowest).clip(min=0)
        place = ((mean - lowest) / span.where(span > 0)).clip(0, 1).fillna(0.5)
        place = place.where(span.notnull() & mean.notnull())
        ds = ds.drop_vars([names[LOWEST], names[HIGHEST]]).assign({
            RANGE: _dressed(span, highest, RANGE, "time: range", _difference_units(units_of(highest))),
            SKEWNESS: _dressed(place, mean, SKEWNESS, None, "1"),
        })  # fmt: skip
    if {RAIN, SNOW} <= set(names):
        rain, snow = ds[names[RAIN]], ds[names[SNOW]]
        ratio = (snow / rain.where(rain > 0)).clip(0, 1)
        ds = ds.drop_vars(names[SNOW]).assign({RATIO: _dressed(ratio, snow, RATIO, None, "1")})
    return ds


def from_adjustable(ds: xr.Dataset) -> xr.Dataset:
    """Return variables in order instead of range, skewness and ratio; lazy if ``ds`` is.

    The inverse of :func:`to_adjustable`, also for observations by the convention of ISIMIP. In the data type of the
    fields, tasmin <= tas <= tasmax and 0 <= prsn <= pr hold exactly. On a wet day without a ratio, all precipitation is
    snow if ``tas`` is at most 1 degree Celsius, and rain otherwise or without ``tas``.

    Examples
    --------
    >>> day = {"tas": 280.0, "tasrange": 8.0, "tasskew": 0.5}
    >>> ordered = from_adjustable(xr.Dataset({name: ((), value) for name, value in day.items()}))
    >>> {str(name): float(field) for name, field in ordered.items()}
    {'tas': 280.0, 'tasmin': 276.0, 'tasmax': 284.0}
    """
    names = family_names(ds)
    if {MEAN, RANGE, SKEWNESS} <= set(names):
        mean, span, place = (ds[names[key]] for key in (MEAN, RANGE, SKEWNESS))
        span, place = span.clip(min=0), place.clip(0, 1)
        # Both differences are rounded, but not negative: neither result can pass the mean.
        lowest, highest = mean - (place * span).astype(mean.dtype), mean + ((1 - place) * span).astype(mean.dtype)
        ds = ds.drop_vars([names[RANGE], names[SKEWNESS]]).assign({
            LOWEST: _dressed(lowest, mean, LOWEST, "time: minimum", units_of(mean)),
            HIGHEST: _dressed(highest, mean, HIGHEST, "time: maximum", units_of(mean)),
        })  # fmt: skip
    if {RAIN, RATIO} <= set(names):
        rain, ratio = ds[names[RAIN]], ds[names[RATIO]].clip(0, 1)
        missing: Any = xr.zeros_like(rain)
        if MEAN in names:
            mean = ds[names[MEAN]]
            limit = convert(FREEZING, "K", units_of(mean) or "K")
            missing = (mean <= (FREEZING if limit is None else limit)).astype(rain.dtype)
        filled = ratio.where(ratio.notnull(), missing)
        snow = xr.where(rain > 0, (rain * filled).astype(rain.dtype), xr.zeros_like(rain)).where(rain.notnull())
        methods = str(rain.attrs.get("cell_methods", "time: mean"))
        ds = ds.drop_vars(names[RATIO]).assign({SNOW: _dressed(snow, rain, SNOW, methods, units_of(rain))})
    return ds


def _difference_units(units: str | None) -> str | None:
    """Return the units of a difference: kelvin for degrees Celsius, whose zero would be that of a temperature."""
    zero, one = (convert(value, units, "K") if units is not None else None for value in (0.0, 1.0))
    return "K" if zero is not None and one is not None and abs(one - zero - 1) < 1e-9 else units


def _dressed(
    values: xr.DataArray, origin: xr.DataArray, key: str, methods: str | None, units: str | None
) -> xr.DataArray:
    """Return values of a variable with its attributes; data type and dimensions are those of another of its family."""
    standard, _ = QUANTITIES[key]
    if key == SNOW:
        rain = standard_name_of(origin)[0]
        standard = "snowfall_amount" if rain.endswith("_amount") else "snowfall_flux"
    attrs = {name: value for name, value in origin.attrs.items() if name not in OWN_ATTRS}
    attrs |= {"standard_name": standard, "long_name": LONG_NAMES[key]}
    attrs |= {"cell_methods": methods} if methods is not None else {}
    attrs |= {"units": units} if units is not None else {}
    field = values.transpose(*origin.dims).astype(origin.dtype).rename(key)
    field.attrs, field.encoding = attrs, {key: value for key, value in origin.encoding.items() if key == "grid_mapping"}
    return field
