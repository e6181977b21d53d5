"""Dates of any calendar: units and encodings, spans and steps, seconds, and periods of stamps without bounds.

Dates are never converted between calendars; leap days and months of 30 days follow the calendar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import cftime  # type: ignore[import-untyped]
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.bounds import bounds_in, read_bounds, values_of
from downscale.errors import GridError, OptionError

REFERENCE = "1850-01-01"
DAYS = f"days since {REFERENCE}"
UNITS = ("days", "hours", "minutes", "seconds")
# Calendar of NumPy dates, whatever the calendar in the file.
GREGORIAN = ("standard", "gregorian", "proleptic_gregorian")
MONTH_DAYS, YEAR_DAYS = (28, 31), (360, 366)
SAME_DAYS = 1e-6


def is_time(variable: xr.Variable) -> bool:
    """Return whether values are dates, of NumPy or cftime."""
    if variable.dtype.kind == "M":
        return True
    return variable.dtype.kind == "O" and variable.size > 0 and isinstance(_first(variable), cftime.datetime)


def _first(variable: xr.Variable) -> Any:
    return values_of(variable.isel({dim: 0 for dim in variable.dims})).item()


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
        family = [key for key in (name, bounds_names[name]) if key in dates]
        encoding = _encoding([ds[key].variable for key in family])
        encodings.update({str(key): dict(encoding) for key in family})
    return encodings


def _encoding(family: list[xr.Variable]) -> dict[str, Any]:
    encoding = family[0].encoding
    calendar = _calendar(family[0])
    units = str(encoding.get("units") or _units(family, calendar))
    dtype = np.dtype(encoding.get("dtype") or "f8")
    are_whole = dtype.kind in "iu" and all(_whole(variable, units, calendar) for variable in family)
    return {"units": units, "calendar": calendar, "dtype": dtype.name if are_whole else "float64"}


def _calendar(variable: xr.Variable) -> str:
    stored_calendar = str(variable.encoding.get("calendar") or "")
    if variable.dtype.kind == "M":
        return stored_calendar if stored_calendar in GREGORIAN else GREGORIAN[-1]
    calendar = str(_first(variable).calendar)
    return stored_calendar if stored_calendar in GREGORIAN and calendar in GREGORIAN else calendar


def _units(family: list[xr.Variable], calendar: str) -> str:
    choices = [f"{unit} since {REFERENCE}" for unit in UNITS]
    return next((units for units in choices if all(_whole(dates, units, calendar) for dates in family)), choices[0])


def _whole(variable: xr.Variable, units: str, calendar: str) -> bool:
    numbers = numbers_of(variable, units, calendar)
    return bool((numbers[np.isfinite(numbers)] % 1 == 0).all())


def numbers_of(variable: xr.Variable, units: str = DAYS, calendar: str = "") -> NDArray[np.float64]:
    """Return dates as numbers in ``units``, of the shape of ``variable``."""
    encoding = {"units": units, "calendar": calendar or _calendar(variable), "dtype": np.dtype("f8")}
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


def span(ds: xr.Dataset, name: str) -> tuple[Any, Any]:
    """Return the first and the last date of a coordinate, by its bounds if it has any."""
    pairs = date_bounds(ds, name)
    values = values_of(ds[name].variable) if pairs is None else pairs
    return values.min(), values.max()


def steps(ds: xr.Dataset, name: str) -> NDArray[np.float64]:
    """Return the length of each value's period in days, by its bounds, else the days between values."""
    pairs = date_bounds(ds, name)
    if pairs is not None:
        edges = numbers_of(xr.Variable(("step", "pair"), pairs, encoding=ds[name].encoding))
        lengths = np.abs(edges[:, 1] - edges[:, 0])
        if (lengths > 0).all():
            return np.asarray(lengths)
    return np.diff(np.sort(np.atleast_1d(numbers_of(ds[name].variable))))


def stamp(date: Any) -> str:
    """Return a date of any calendar in ISO 8601.

    Examples
    --------
    >>> stamp(cftime.datetime(2001, 2, 30, 6, calendar="360_day"))
    '2001-02-30T06:00:00Z'
    """
    if isinstance(date, cftime.datetime):
        return f"{date.isoformat(timespec='seconds')}Z"
    return f"{np.datetime_as_string(np.datetime64(date), unit='s')}Z"


def period(days: float) -> str:
    """Return a duration in ISO 8601.

    Examples
    --------
    >>> period(0.25), period(31.5)
    ('PT6H', 'P31DT12H')
    """
    seconds = round(days * 86400)
    parts = (seconds // 86400, seconds % 86400 // 3600, seconds % 3600 // 60, seconds % 60)
    date, *clock = (f"{number}{letter}" if number else "" for number, letter in zip(parts, "DHMS", strict=True))
    return f"P{date}" + (f"T{''.join(clock)}" if any(clock) else "" if date else "T0S")


def resolution(lengths: NDArray[np.float64]) -> str | None:
    """Return the step of a record in ISO 8601, or None if steps differ.

    Examples
    --------
    >>> resolution(np.array([31.0, 28.0, 31.0])), resolution(np.array([0.125, 0.125]))
    ('P1M', 'PT3H')
    """
    if not lengths.size:
        return None
    for word, (low, high) in (("P1M", MONTH_DAYS), ("P1Y", YEAR_DAYS)):
        if low - SAME_DAYS <= lengths.min() and lengths.max() <= high + SAME_DAYS:
            return word
    return period(float(lengths[0])) if np.ptp(lengths) <= SAME_DAYS and lengths[0] > SAME_DAYS else None


def frequency(ds: xr.Dataset) -> str | None:
    """Return the frequency of a record in CMIP terms ("mon", "day", "6hr", "fx", ...), or None if unclear."""
    name = time_name(ds)
    if name is None:
        return "fx"
    step = resolution(steps(ds, name))
    words = {"P1M": "mon", "P1Y": "yr", "P1D": "day", **{f"PT{n}H": f"{n}hr" for n in (1, 3, 6)}}
    return words.get(step or "")


Seconds = NDArray[np.float64]

DAY = 86400.0
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# Days stored as floating-point numbers differ from whole seconds by microseconds.
ROUNDING = 1e-3
# More periods along an axis are taken for a typing error.
MOST_PERIODS = 1_000_000
# Stamps of neighbouring months and years are about a month and a year apart, at any position in their period.
MONTH_STEP, YEAR_STEP = (20 * DAY, 42 * DAY), (300 * DAY, 430 * DAY)
REFORM = (1582, 10, 15)


@dataclass(frozen=True, eq=False)
class Clock:
    """Dates of one calendar, of the type and resolution of ``origin``, as exact seconds since it.

    Examples
    --------
    >>> clock = Clock.of(np.array(["2000-02-01", "2000-03-01"], dtype="M8[ns]"))
    >>> clock.seconds(np.array(["2000-03-01"], dtype="M8[ns]")) / 86400
    array([29.])
    """

    origin: Any

    @classmethod
    def of(cls, dates: NDArray[Any]) -> Clock:
        """Return the clock that begins at the first of ``dates``."""
        values = np.asarray(dates)
        if values.dtype.kind == "M" and np.datetime_data(values.dtype)[0] not in PER_SECOND:
            values = values.astype("M8[s]")
        return cls(values.ravel()[0])

    @property
    def numpy(self) -> bool:
        """Whether dates are those of NumPy."""
        return not isinstance(self.origin, cftime.datetime)

    @property
    def calendar(self) -> str:
        """Name of the calendar; NumPy's dates are proleptic Gregorian."""
        return GREGORIAN[-1] if self.numpy else str(self.origin.calendar)

    @property
    def _unit(self) -> str:
        return str(np.datetime_data(self.origin.dtype)[0])

    def seconds(self, dates: NDArray[Any]) -> Seconds:
        """Return dates as seconds, of the same shape."""
        values = np.asarray(dates)
        if self.numpy:
            if np.isnat(values).any():
                raise GridError("expected dates, received NaT; drop those steps")
            ticks = (values.astype(self.origin.dtype) - self.origin).astype(np.int64)
            whole_seconds, remainder = np.divmod(ticks, PER_SECOND[self._unit])
            return np.asarray(whole_seconds + remainder / PER_SECOND[self._unit], dtype=np.float64)
        gaps = [date - self.origin for date in values.ravel()]
        numbers = [gap.days * DAY + gap.seconds + gap.microseconds / 1e6 for gap in gaps]
        return np.array(numbers, dtype=np.float64).reshape(values.shape)

    def dates(self, seconds: Seconds) -> NDArray[Any]:
        """Return the dates of ``seconds``, rounded to the resolution of the type, of the same shape."""
        whole_seconds = np.floor(seconds)
        fractions = seconds - whole_seconds
        if self.numpy:
            per_second = PER_SECOND[self._unit]
            ticks = whole_seconds.astype(np.int64) * per_second + np.rint(fractions * per_second).astype(np.int64)
            return np.asarray(self.origin + ticks.astype(f"m8[{self._unit}]"))
        dates = np.empty(seconds.shape, dtype=object)
        for index in np.ndindex(seconds.shape):
            microseconds = round(float(fractions[index]) * 1e6)
            dates[index] = self.origin + timedelta(seconds=int(whole_seconds[index]), microseconds=microseconds)
        return dates

    def date(self, year: int, month: int = 1, day: int = 1) -> Any:
        """Return midnight of a day in this calendar."""
        if self.numpy:
            return np.datetime64(f"{year:04d}-{month:02d}-{day:02d}").astype(self.origin.dtype)
        return self.origin.replace(year=year, month=month, day=day, hour=0, minute=0, second=0, microsecond=0)

    def midnight(self, date: Any) -> Any:
        """Return the beginning of the day of a date."""
        return self.date(*parts_of(date))

    def adopt(self, dates: NDArray[Any]) -> NDArray[Any]:
        """Return dates of another clock in the type of this one, if both calendars agree on their names."""
        clock = Clock.of(dates)
        if clock.calendar == self.calendar and clock.numpy == self.numpy:
            return np.asarray(dates).astype(self.origin.dtype) if self.numpy else np.asarray(dates)
        are_gregorian = {self.calendar, clock.calendar} <= set(GREGORIAN)
        if not are_gregorian or any(parts_of(date) < REFORM for date in (np.asarray(dates).min(), self.origin)):
            raise GridError(
                f"expected dates in the calendar {self.calendar!r} of the data, received {clock.calendar!r}; convert "
                f"one of them on purpose: ds.convert_calendar({clock.calendar!r})"
            )
        midnights = [self.date(*parts_of(date)) for date in np.asarray(dates).ravel()]
        starts = np.array(midnights, dtype=self.origin.dtype if self.numpy else object).reshape(np.shape(dates))
        return self.dates(self.seconds(starts) + clock.seconds(dates) - clock.seconds(_days(clock, dates)))


def parts_of(date: Any) -> tuple[int, int, int]:
    """Return year, month and day of a date.

    Examples
    --------
    >>> parts_of(np.datetime64("2000-02-29T12"))
    (2000, 2, 29)
    """
    if isinstance(date, cftime.datetime):
        return date.year, date.month, date.day
    year, month, day = str(np.datetime64(date, "D")).rsplit("-", 2)
    return int(year), int(month), int(day)


def _days(clock: Clock, dates: NDArray[Any]) -> NDArray[Any]:
    midnights = [clock.midnight(date) for date in np.asarray(dates).ravel()]
    return np.array(midnights, dtype=clock.origin.dtype if clock.numpy else object).reshape(np.shape(dates))


def natural_edges(dates: NDArray[Any], clock: Clock, starts_of_days: bool) -> Seconds | None:
    """Return the edges of the periods of time stamps without bounds, or None if they are ambiguous.

    Stamps in consecutive calendar months or years represent these. Stamps at equal steps represent whole days, or equal
    parts of a day that begin at midnight, around them; daily stamps at midnight are ambiguous.
    """
    seconds = clock.seconds(dates)
    steps = np.diff(seconds)
    if not steps.size or (steps <= 0).any():
        return None
    years, months = np.array([parts_of(date)[:2] for date in dates]).T
    if _about(steps, MONTH_STEP) and (np.diff(12 * years + months) == 1).all():
        next_month = 12 * years[-1] + months[-1]
        end = clock.date(int(next_month // 12), int(next_month % 12) + 1)
        return clock.seconds(np.array([*map(clock.date, years.tolist(), months.tolist()), end]))
    if _about(steps, YEAR_STEP) and (np.diff(years) == 1).all():
        return clock.seconds(np.array([clock.date(year) for year in [*years.tolist(), int(years[-1]) + 1]]))
    return _even_edges(seconds, clock.seconds(np.array([clock.midnight(dates[0])]))[0], starts_of_days)


def _about(steps: Seconds, limits: tuple[float, float]) -> bool:
    return bool(limits[0] <= steps.min() and steps.max() <= limits[1])


def _even_edges(seconds: Seconds, midnight: float, starts_of_days: bool) -> Seconds | None:
    step = float(np.rint((seconds[-1] - seconds[0]) / (seconds.size - 1)))
    if step < 1 or np.abs(np.diff(seconds) - step).max() > ROUNDING:
        return None
    whole_days = step % DAY == 0
    if not whole_days and DAY % step:
        return None
    offset = seconds[0] - step / 2 - midnight
    if starts_of_days and step == DAY and abs(seconds[0] - midnight) <= ROUNDING:
        offset = 0.0
    unit = DAY if whole_days else step
    if abs(offset - np.rint(offset / unit) * unit) > ROUNDING:
        return None
    return midnight + np.rint(offset / unit) * unit + step * np.arange(seconds.size + 1)


def frequency_edges(clock: Clock, first: float, last: float, frequency: str) -> Seconds:
    """Return the edges of the periods of a pandas-style frequency that cover a span, in seconds."""
    # The end of a month is a label in pandas; the period is the month.
    starts = {"ME": "MS", "QE": "QS", "YE": "YS"}
    for end, start in starts.items():
        frequency = frequency.replace(end, start)
    if not re.match(r"[\d.]*[A-Za-z]", frequency):
        raise _no_frequency(frequency, "a number and a unit")
    begin = clock.midnight(clock.dates(np.array([first]))[0])
    next_two = clock.seconds(_range(clock, frequency, start=begin, periods=2))
    step = float(next_two[-1] - next_two[0])
    if step <= 0 or (last - first) / step > MOST_PERIODS:
        raise _no_frequency(frequency, f"at most {MOST_PERIODS} periods")
    start = _period_around(clock, frequency, begin)
    edges = clock.seconds(_range(clock, frequency, start=start, end=clock.dates(np.array([last]))[0]))
    while edges[-1] < last:
        next_edges = _range(clock, frequency, start=clock.dates(edges[-1:])[0], periods=2)
        edges = np.append(edges, clock.seconds(next_edges[1:]))
    return edges[np.searchsorted(edges, first, side="right") - 1 :]


def _no_frequency(frequency: str, reason: str) -> OptionError:
    return OptionError(f"expected a frequency such as '6h', 'D', '5D', 'MS' or 'YS', received {frequency!r} ({reason})")


def _period_around(clock: Clock, frequency: str, date: Any) -> Any:
    """Return the start of the period of a frequency around a date; without an anchor, the date itself."""
    starts = _range(clock, frequency, end=date, periods=1)
    if not starts.size:
        # Dates of other calendars do not roll back: find the last single period that begins in the year before.
        year_before = clock.dates(clock.seconds(np.array([date])) - YEAR_STEP[1])[0]
        starts = _range(clock, frequency.lstrip("0123456789"), start=year_before, end=date)
    return starts[-1]


def _range(clock: Clock, frequency: str, **span: Any) -> NDArray[Any]:
    try:
        dates = xr.date_range(freq=frequency, calendar=clock.calendar, use_cftime=not clock.numpy, **span)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise _no_frequency(frequency, str(error).splitlines()[0]) from None
    values = np.asarray(dates.values)
    return values.astype(clock.origin.dtype) if clock.numpy else values


def pair_edges(pairs: NDArray[Any], clock: Clock) -> Seconds:
    """Return the edges of ascending, adjoining periods given by their bounds, shape (n, 2) -> (n + 1,), in seconds."""
    seconds = clock.seconds(pairs)
    rounded = np.rint(seconds)
    seconds = rounded if np.abs(rounded - seconds).max() <= ROUNDING else seconds
    bad_rows = np.flatnonzero(seconds[:, 1] <= seconds[:, 0])
    if bad_rows.size:
        raise GridError(f"expected bounds in order, received {_span(pairs[bad_rows[0]])}; repair the bounds")
    gaps = seconds[1:, 0] - seconds[:-1, 1]
    bad_rows = np.flatnonzero(np.abs(gaps) > ROUNDING)
    if bad_rows.size:
        row = int(bad_rows[0])
        message = f"expected adjoining periods, received {_span(pairs[row])} before {_span(pairs[row + 1])}; "
        if (np.diff(seconds[:, 0]) <= 0).any():
            raise GridError(message + "sort by time and drop duplicates, or repair the bounds")
        raise GridError(message + ("fill the gap with missing values" if gaps[row] > 0 else "repair the bounds"))
    return np.append(seconds[:, 0], seconds[-1, 1])


def _span(pair: NDArray[Any]) -> str:
    return f"{stamp(pair[0])} to {stamp(pair[1])}"
