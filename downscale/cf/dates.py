"""Dates of any calendar as exact seconds, and the periods of stamps, of frequencies and of bounds.

Dates are never converted between calendars; leap days and months of 30 days follow the calendar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import cftime  # type: ignore[import-untyped]
import numpy as np
import xarray as xr
from dask.local import get_sync
from numpy.typing import NDArray

from downscale.errors import GridError, OptionError


def values_of(variable: xr.Variable) -> NDArray[Any]:
    """Return the values of a coordinate, read immediately in this process."""
    lazy = hasattr(variable.data, "dask")
    return np.asarray(variable.data.compute(scheduler=get_sync) if lazy else variable.values)


# Calendar of NumPy dates, whatever the calendar in the file.
GREGORIAN = ("standard", "gregorian", "proleptic_gregorian")


def is_time(variable: xr.Variable) -> bool:
    """Return whether values are dates, of NumPy or cftime."""
    if variable.dtype.kind == "M":
        return True
    return variable.dtype.kind == "O" and variable.size > 0 and isinstance(first_value(variable), cftime.datetime)


def first_value(variable: xr.Variable) -> Any:
    """Return the first value of a variable."""
    return values_of(variable.isel({dim: 0 for dim in variable.dims})).item()


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
        if not self.numpy:
            seconds = [(date - self.origin).total_seconds() for date in values.ravel()]
            return np.array(seconds, dtype=np.float64).reshape(values.shape)
        if np.isnat(values).any():
            raise GridError("expected dates, received NaT; drop those steps")
        ticks = (values.astype(self.origin.dtype) - self.origin).astype(np.int64)
        whole_seconds, remainder = np.divmod(ticks, PER_SECOND[self._unit])
        return np.asarray(whole_seconds + remainder / PER_SECOND[self._unit], dtype=np.float64)

    def dates(self, seconds: Seconds) -> NDArray[Any]:
        """Return the dates of ``seconds``, rounded to the resolution of the type, of the same shape."""
        whole_seconds = np.floor(seconds)
        fractions = seconds - whole_seconds
        if self.numpy:
            per_second = PER_SECOND[self._unit]
            ticks = whole_seconds.astype(np.int64) * per_second + np.rint(fractions * per_second).astype(np.int64)
            return np.asarray(self.origin + ticks.astype(f"m8[{self._unit}]"))
        spans = (timedelta(0, int(whole), round(float(part) * 1e6))
                 for whole, part in zip(whole_seconds.flat, fractions.flat, strict=True))  # fmt: skip
        return np.array([self.origin + span for span in spans], dtype=object).reshape(seconds.shape)

    def midnights(self, parts: Iterable[tuple[int, ...]]) -> NDArray[Any]:
        """Return the beginnings of days, months or years, given by year, month and day, in this calendar."""
        days = [(*part, 1, 1)[:3] for part in parts]
        if self.numpy:
            return np.array(["{:04d}-{:02d}-{:02d}".format(*day) for day in days], dtype=self.origin.dtype)
        first = self.origin.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return np.array([first.replace(year=year, month=month, day=day) for year, month, day in days], dtype=object)

    def adopt(self, dates: NDArray[Any]) -> NDArray[Any]:
        """Return dates of another clock in the type of this one, if both calendars agree on their names."""
        values, clock = np.asarray(dates), Clock.of(dates)
        if clock.calendar == self.calendar and clock.numpy == self.numpy:
            return values.astype(self.origin.dtype) if self.numpy else values
        are_gregorian = {self.calendar, clock.calendar} <= set(GREGORIAN)
        if not are_gregorian or any(parts_of(date) < REFORM for date in (values.min(), self.origin)):
            raise GridError(
                f"expected dates in the calendar {self.calendar!r} of the data, received {clock.calendar!r}; convert "
                f"one of them on purpose: ds.convert_calendar({clock.calendar!r})"
            )
        parts = [parts_of(date) for date in values.ravel()]
        target_midnights, source_midnights = (
            c.seconds(c.midnights(parts)).reshape(values.shape) for c in (self, clock)
        )
        return self.dates(target_midnights + clock.seconds(values) - source_midnights)


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
    counts = 12 * years + months - 1
    for numbers, (shortest, longest), per_year in ((counts, MONTH_STEP, 12), (years, YEAR_STEP, 1)):
        if shortest <= steps.min() and steps.max() <= longest and (np.diff(numbers) == 1).all():
            starts = [divmod(number, per_year) for number in range(int(numbers[0]), int(numbers[-1]) + 2)]
            return clock.seconds(clock.midnights((year, month + 1) for year, month in starts))
    step = float(np.rint((seconds[-1] - seconds[0]) / (seconds.size - 1)))
    if step < 1 or np.abs(steps - step).max() > ROUNDING or (step % DAY and DAY % step):
        return None
    midnight = clock.seconds(clock.midnights([parts_of(dates[0])]))[0]
    offset = seconds[0] - step / 2 - midnight
    if starts_of_days and step == DAY and abs(seconds[0] - midnight) <= ROUNDING:
        offset = 0.0
    unit = min(step, DAY)
    if abs(offset - np.rint(offset / unit) * unit) > ROUNDING:
        return None
    return midnight + np.rint(offset / unit) * unit + step * np.arange(seconds.size + 1)


def frequency_edges(clock: Clock, first: float, last: float, frequency: str) -> Seconds:
    """Return the edges of the periods of a pandas-style frequency that cover a span, in seconds."""
    # The end of a month is a label in pandas; the period is the month.
    frequency = re.sub("([MQY])E", r"\1S", frequency)
    if not re.match(r"[\d.]*[A-Za-z]", frequency):
        raise _frequency_error(frequency, "a number and a unit")
    begin = clock.midnights([parts_of(clock.dates(np.array([first]))[0])])[0]
    next_two = clock.seconds(_date_range(clock, frequency, start=begin, periods=2))
    step = float(next_two[-1] - next_two[0])
    if step <= 0 or (last - first) / step > MOST_PERIODS:
        raise _frequency_error(frequency, f"at most {MOST_PERIODS} periods")
    # The start of the period around that day; without an anchor, the day itself.
    starts = _date_range(clock, frequency, end=begin, periods=1)
    if not starts.size:
        # Dates of other calendars do not roll back: find the last single period that begins in the year before.
        year_before = clock.dates(clock.seconds(np.array([begin])) - YEAR_STEP[1])[0]
        starts = _date_range(clock, frequency.lstrip("0123456789"), start=year_before, end=begin)
    edges = clock.seconds(_date_range(clock, frequency, start=starts[-1], end=clock.dates(np.array([last]))[0]))
    while edges[-1] < last:
        next_edges = _date_range(clock, frequency, start=clock.dates(edges[-1:])[0], periods=2)
        edges = np.append(edges, clock.seconds(next_edges[1:]))
    return edges[np.searchsorted(edges, first, side="right") - 1 :]


def _frequency_error(frequency: str, reason: str) -> OptionError:
    return OptionError(f"expected a frequency such as '6h', 'D', '5D', 'MS' or 'YS', received {frequency!r} ({reason})")


def _date_range(clock: Clock, frequency: str, **span: Any) -> NDArray[Any]:
    try:
        dates = xr.date_range(freq=frequency, calendar=clock.calendar, use_cftime=not clock.numpy, **span)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise _frequency_error(frequency, str(error).splitlines()[0]) from None
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
