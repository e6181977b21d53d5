"""Dates of any calendar: units and encodings, spans and steps, seconds, and periods of stamps without bounds.

Dates are never converted between calendars; leap days and months of 30 days follow the calendar.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.bounds import bounds_in, read_bounds
from downscale.cf.dates import GREGORIAN, first_value, is_time, values_of
from downscale.errors import GridError

REFERENCE = "1850-01-01"
DAYS = f"days since {REFERENCE}"
UNITS = ("days", "hours", "minutes", "seconds")
MONTH_DAYS, YEAR_DAYS = (28, 31), (360, 366)
SAME_DAYS = 1e-6


def date_bounds(ds: xr.Dataset, name: str) -> NDArray[Any] | None:
    """Return the bounds of a coordinate, shape (n, 2), or None if it has none or they are not usable."""
    try:
        pairs = read_bounds(ds, name)
    except GridError:
        return None
    # The bounds of a single time are one pair.
    return pairs.reshape(-1, 2) if pairs is not None and pairs.shape[-1:] == (2,) else None


def time_encodings(ds: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Return units, calendar and data type of every date of ``ds``; bounds share those of their coordinate.

    Integers are kept only if they represent every date. Dates without units are counted from 1850 in the coarsest units
    that make them integers.
    """
    dates = [str(name) for name, variable in ds.variables.items() if is_time(variable)]
    bounds_names = {name: bounds_in(ds, name) for name in dates}
    encodings: dict[str, dict[str, Any]] = {}
    for name in [name for name in dates if name not in bounds_names.values()]:
        names = [key for key in (name, bounds_names[name]) if key in dates]
        first, variables = ds[name].variable, [ds[key].variable for key in names]
        calendar = calendar_of(first)
        choices = [f"{unit} since {REFERENCE}" for unit in UNITS]
        units = str(first.encoding.get("units") or "") or next(
            (units for units in choices if _are_whole(variables, units, calendar)), choices[0]
        )
        dtype = np.dtype(first.encoding.get("dtype") or "f8")
        is_exact = dtype.kind in "iu" and _are_whole(variables, units, calendar)
        encoding = {"units": units, "calendar": calendar, "dtype": dtype.name if is_exact else "float64"}
        encodings.update({str(key): dict(encoding) for key in names})
    return encodings


def calendar_of(variable: xr.Variable) -> str:
    """Return the calendar of dates, in the stored spelling of the Gregorian one."""
    stored_calendar = str(variable.encoding.get("calendar") or "")
    calendar = GREGORIAN[-1] if variable.dtype.kind == "M" else str(first_value(variable).calendar)
    return stored_calendar if stored_calendar in GREGORIAN and calendar in GREGORIAN else calendar


def _are_whole(variables: list[xr.Variable], units: str, calendar: str) -> bool:
    numbers = (numbers_of(variable, units, calendar) for variable in variables)
    return all(bool((values[np.isfinite(values)] % 1 == 0).all()) for values in numbers)


def numbers_of(variable: xr.Variable, units: str = DAYS, calendar: str = "") -> NDArray[np.float64]:
    """Return dates as numbers in ``units``, of the shape of ``variable``."""
    encoding = {"units": units, "calendar": calendar or calendar_of(variable), "dtype": np.dtype("f8")}
    dates = xr.Variable(variable.dims, values_of(variable), encoding=encoding)
    return np.asarray(xr.conventions.encode_cf_variable(dates).values, dtype=np.float64)


def time_name(ds: xr.Dataset) -> str | None:
    """Return the name of the time coordinate, or None."""
    dates = [str(name) for name, variable in ds.variables.items() if variable.ndim <= 1 and is_time(variable)]
    for condition in (lambda n: ds[n].attrs.get("standard_name") == "time", lambda n: ds[n].attrs.get("axis") == "T",
                      lambda n: n == "time", lambda n: n in ds.dims):  # fmt: skip
        names = [name for name in dates if condition(name)]
        if names:
            return names[0]
    return None


def time_span(ds: xr.Dataset, name: str) -> tuple[Any, Any]:
    """Return the first and the last date of a coordinate, by its bounds if it has any."""
    pairs = date_bounds(ds, name)
    values = values_of(ds[name].variable) if pairs is None else pairs
    return values.min(), values.max()


def step_lengths(ds: xr.Dataset, name: str) -> NDArray[np.float64]:
    """Return the length of each value's period in days, by its bounds, else the days between values."""
    pairs = date_bounds(ds, name)
    if pairs is not None:
        edges = numbers_of(xr.Variable(("step", "pair"), pairs, encoding=ds[name].encoding))
        lengths = np.abs(edges[:, 1] - edges[:, 0])
        if (lengths > 0).all():
            return np.asarray(lengths)
    return np.diff(np.sort(np.atleast_1d(numbers_of(ds[name].variable))))


def iso_duration(days: float) -> str:
    """Return a duration in ISO 8601.

    Examples
    --------
    >>> iso_duration(0.25), iso_duration(31.5)
    ('PT6H', 'P31DT12H')
    """
    seconds = round(days * 86400)
    parts = (seconds // 86400, seconds % 86400 // 3600, seconds % 3600 // 60, seconds % 60)
    date, *time_parts = (f"{number}{letter}" if number else "" for number, letter in zip(parts, "DHMS", strict=True))
    return f"P{date}" + (f"T{''.join(time_parts)}" if any(time_parts) else "" if date else "T0S")


def iso_resolution(lengths: NDArray[np.float64]) -> str | None:
    """Return the step of a record in ISO 8601, or None if steps differ.

    Examples
    --------
    >>> iso_resolution(np.array([31.0, 28.0, 31.0])), iso_resolution(np.array([0.125, 0.125]))
    ('P1M', 'PT3H')
    """
    if not lengths.size:
        return None
    for word, (low, high) in (("P1M", MONTH_DAYS), ("P1Y", YEAR_DAYS)):
        if low - SAME_DAYS <= lengths.min() and lengths.max() <= high + SAME_DAYS:
            return word
    return iso_duration(float(lengths[0])) if np.ptp(lengths) <= SAME_DAYS and lengths[0] > SAME_DAYS else None


def cmip_frequency(ds: xr.Dataset) -> str | None:
    """Return the frequency of a record in CMIP terms ("mon", "day", "6hr", "fx", ...), or None if unclear."""
    name = time_name(ds)
    if name is None:
        return "fx"
    step = iso_resolution(step_lengths(ds, name))
    words = {"P1M": "mon", "P1Y": "yr", "P1D": "day", **{f"PT{n}H": f"{n}hr" for n in (1, 3, 6)}}
    return words.get(step or "")
