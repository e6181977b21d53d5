"""Dates as seconds in their own calendar, and the periods of time stamps without bounds.

Dates are never converted between calendars; leap days and months of 30 days follow the calendar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.times import GREGORIAN, stamp
from downscale.errors import GridError, OptionError

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
    """Dates of one calendar as seconds since ``origin``, exactly.

    Attributes
    ----------
    origin : numpy.datetime64 or cftime.datetime
        The date of zero seconds; other dates are of its type (and resolution).

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
        """Return dates as seconds, of the same shape.

        Raises
        ------
        GridError
            If a date is missing.
        """
        values = np.asarray(dates)
        if self.numpy:
            if np.isnat(values).any():
                raise GridError("expected dates, received NaT; drop those steps")
            ticks = (values.astype(self.origin.dtype) - self.origin).astype(np.int64)
            whole, rest = np.divmod(ticks, PER_SECOND[self._unit])
            return np.asarray(whole + rest / PER_SECOND[self._unit], dtype=np.float64)
        gaps = [date - self.origin for date in values.ravel()]
        numbers = [gap.days * DAY + gap.seconds + gap.microseconds / 1e6 for gap in gaps]
        return np.array(numbers, dtype=np.float64).reshape(values.shape)

    def dates(self, seconds: Seconds) -> NDArray[Any]:
        """Return the dates of ``seconds``, rounded to the resolution of the type, of the same shape."""
        whole = np.floor(seconds)
        rest = seconds - whole
        if self.numpy:
            per = PER_SECOND[self._unit]
            ticks = whole.astype(np.int64) * per + np.rint(rest * per).astype(np.int64)
            return np.asarray(self.origin + ticks.astype(f"m8[{self._unit}]"))
        made = np.empty(seconds.shape, dtype=object)
        for index in np.ndindex(seconds.shape):
            micro = round(float(rest[index]) * 1e6)
            made[index] = self.origin + timedelta(seconds=int(whole[index]), microseconds=micro)
        return made

    def date(self, year: int, month: int = 1, day: int = 1) -> Any:
        """Return midnight of a day in this calendar."""
        if self.numpy:
            return np.datetime64(f"{year:04d}-{month:02d}-{day:02d}").astype(self.origin.dtype)
        return self.origin.replace(year=year, month=month, day=day, hour=0, minute=0, second=0, microsecond=0)

    def midnight(self, date: Any) -> Any:
        """Return the beginning of the day of a date."""
        return self.date(*parts_of(date))

    def adopt(self, dates: NDArray[Any]) -> NDArray[Any]:
        """Return dates of another clock in the type of this one, if both calendars agree on their names.

        Raises
        ------
        GridError
            If the calendars differ: dates are never converted silently.
        """
        other = Clock.of(dates)
        if other.calendar == self.calendar and other.numpy == self.numpy:
            return np.asarray(dates).astype(self.origin.dtype) if self.numpy else np.asarray(dates)
        alike = {self.calendar, other.calendar} <= set(GREGORIAN)
        if not alike or any(parts_of(date) < REFORM for date in (np.asarray(dates).min(), self.origin)):
            raise GridError(
                f"expected dates in the calendar {self.calendar!r} of the data, received {other.calendar!r}; convert "
                f"one of them on purpose: ds.convert_calendar({other.calendar!r})"
            )
        made = [self.date(*parts_of(date)) for date in np.asarray(dates).ravel()]
        starts = np.array(made, dtype=self.origin.dtype if self.numpy else object).reshape(np.shape(dates))
        return self.dates(self.seconds(starts) + other.seconds(dates) - other.seconds(_days(other, dates)))


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
    found = [clock.midnight(date) for date in np.asarray(dates).ravel()]
    return np.array(found, dtype=clock.origin.dtype if clock.numpy else object).reshape(np.shape(dates))


def natural_edges(dates: NDArray[Any], clock: Clock, starts_of_days: bool) -> Seconds | None:
    """Return the edges of the periods of time stamps without bounds, or None if they are ambiguous.

    Stamps in consecutive calendar months or years represent these months or years, at any position within them. Stamps
    at equal steps represent the periods around them if these are whole days, or equal parts of a day that begin at
    midnight. Daily stamps at midnight are ambiguous (the day before or after?).

    Parameters
    ----------
    dates : array of dates, shape (n,)
        Ascending stamps.
    starts_of_days : bool
        Whether daily stamps at midnight represent the day that begins.
    """
    seconds = clock.seconds(dates)
    steps = np.diff(seconds)
    if not steps.size or (steps <= 0).any():
        return None
    years, months = np.array([parts_of(date)[:2] for date in dates]).T
    if _about(steps, MONTH_STEP) and (np.diff(12 * years + months) == 1).all():
        following = 12 * years[-1] + months[-1]
        last = clock.date(int(following // 12), int(following % 12) + 1)
        return clock.seconds(np.array([*map(clock.date, years.tolist(), months.tolist()), last]))
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
    first = seconds[0] - step / 2 - midnight
    if starts_of_days and step == DAY and abs(seconds[0] - midnight) <= ROUNDING:
        first = 0.0
    unit = DAY if whole_days else step
    if abs(first - np.rint(first / unit) * unit) > ROUNDING:
        return None
    return midnight + np.rint(first / unit) * unit + step * np.arange(seconds.size + 1)


def frequency_edges(clock: Clock, first: float, last: float, frequency: str) -> Seconds:
    """Return the edges of the periods of a pandas-style frequency that cover a span, in seconds.

    Raises
    ------
    OptionError
        If the frequency is unknown.
    """
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
    known = clock.seconds(_range(clock, frequency, start=start, end=clock.dates(np.array([last]))[0]))
    while known[-1] < last:
        more = _range(clock, frequency, start=clock.dates(known[-1:])[0], periods=2)
        known = np.append(known, clock.seconds(more[1:]))
    return known[np.searchsorted(known, first, side="right") - 1 :]


def _no_frequency(frequency: str, reason: str) -> OptionError:
    return OptionError(f"expected a frequency such as '6h', 'D', '5D', 'MS' or 'YS', received {frequency!r} ({reason})")


def _period_around(clock: Clock, frequency: str, date: Any) -> Any:
    """Return the start of the period of a frequency around a date; without an anchor, the date itself."""
    found = _range(clock, frequency, end=date, periods=1)
    if not found.size:
        # Dates of other calendars do not roll back: find the last single period that begins in the year before.
        earlier = clock.dates(clock.seconds(np.array([date])) - YEAR_STEP[1])[0]
        found = _range(clock, frequency.lstrip("0123456789"), start=earlier, end=date)
    return found[-1]


def _range(clock: Clock, frequency: str, **span: Any) -> NDArray[Any]:
    try:
        made = xr.date_range(freq=frequency, calendar=clock.calendar, use_cftime=not clock.numpy, **span)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise _no_frequency(frequency, str(error).splitlines()[0]) from None
    values = np.asarray(made.values)
    return values.astype(clock.origin.dtype) if clock.numpy else values


def pair_edges(pairs: NDArray[Any], clock: Clock) -> Seconds:
    """Return the edges of ascending, adjoining periods given by their bounds, shape (n, 2) -> (n + 1,), in seconds.

    Raises
    ------
    GridError
        If they are empty, not in order, overlap or leave gaps; the message names the dates.
    """
    seconds = clock.seconds(pairs)
    near = np.rint(seconds)
    seconds = near if np.abs(near - seconds).max() <= ROUNDING else seconds
    wrong = np.flatnonzero(seconds[:, 1] <= seconds[:, 0])
    if wrong.size:
        raise GridError(f"expected bounds in order, received {_span(pairs[wrong[0]])}; repair the bounds")
    gaps = seconds[1:, 0] - seconds[:-1, 1]
    wrong = np.flatnonzero(np.abs(gaps) > ROUNDING)
    if wrong.size:
        at = int(wrong[0])
        line = f"expected adjoining periods, received {_span(pairs[at])} before {_span(pairs[at + 1])}; "
        if (np.diff(seconds[:, 0]) <= 0).any():
            raise GridError(line + "sort by time and drop duplicates, or repair the bounds")
        raise GridError(line + ("fill the gap with missing values" if gaps[at] > 0 else "repair the bounds"))
    return np.append(seconds[:, 0], seconds[-1, 1])


def _span(pair: NDArray[Any]) -> str:
    return f"{stamp(pair[0])} to {stamp(pair[1])}"
