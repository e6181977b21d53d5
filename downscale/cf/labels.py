"""Labels of dates in the calendar: season, month, day of the year, hour, and products of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cftime  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from downscale.errors import InputError, listing

SEASONS = ("DJF", "MAM", "JJA", "SON")
# Days of the year are counted in steps of a 73rd of a year: five days, in every calendar.
STEPS = 73
COUNTS = {"season": 4, "month": 12, "dayofyear": STEPS, "hour": 24}
DAYS_OF_YEAR = {"360_day": 360, "noleap": 365, "365_day": 365, "all_leap": 366, "366_day": 366}

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Labels:
    """The parts of a date that make its label, from the longest on; none of them is the label 0 for all dates.

    Examples
    --------
    >>> dates = np.array(["2001-01-31T12", "2001-12-01T03"], "M8[h]")
    >>> Labels.named("month-hour").of(dates), Labels.named("none").of(dates)
    (array([ 12, 267]), array([0, 0]))
    """

    parts: tuple[str, ...]

    @classmethod
    def named(cls, name: str) -> Labels:
        """Return the labels of a name such as "month" or "month-hour"; "none" is one label for all."""
        return cls(() if name == "none" else tuple(name.split("-")))

    def __str__(self) -> str:
        return "-".join(self.parts) or "none"

    @property
    def count(self) -> int:
        """Number of labels."""
        return int(np.prod([COUNTS[part] for part in self.parts], dtype=np.int64))

    def of(self, dates: NDArray[Any]) -> Whole:
        """Return the label of each date of any calendar, from 0, of the same shape."""
        return self.joined([_PARTS[part](np.asarray(dates)) for part in self.parts], np.shape(dates))

    def joined(self, numbers: list[Whole], shape: tuple[int, ...] = ()) -> Whole:
        """Return labels from the number of each part, from 0."""
        total: Any = np.zeros(shape, np.int64)
        for part, number in zip(self.parts, numbers, strict=True):
            total = total * COUNTS[part] + number
        return np.asarray(total, np.int64)

    def words(self, label: int) -> str:
        """Return a label in words.

        Examples
        --------
        >>> Labels.named("month-hour").words(267), Labels.named("season").words(0), Labels(()).words(0)
        ('month 12, hour 3', 'DJF', 'all times')
        """
        words = []
        for part in reversed(self.parts):
            label, number = divmod(label, COUNTS[part])
            day = f"days {number * 5 + 1} to {number * 5 + 5} of the year"
            words.append({"season": SEASONS[number % 4], "month": f"month {number + 1}", "dayofyear": day,
                          "hour": f"hour {number}"}[part])  # fmt: skip
        return ", ".join(reversed(words)) or "all times"


def _months(dates: NDArray[Any]) -> Whole:
    if dates.dtype.kind == "M":
        return dates.astype("M8[M]").astype(np.int64) % 12
    return np.array([date.month - 1 for date in dates.ravel()], np.int64).reshape(dates.shape)


def _seasons(dates: NDArray[Any]) -> Whole:
    return (_months(dates) + 1) % 12 // 3


def _hours(dates: NDArray[Any]) -> Whole:
    if dates.dtype.kind == "M":
        return dates.astype("M8[h]").astype(np.int64) % 24
    return np.array([date.hour for date in dates.ravel()], np.int64).reshape(dates.shape)


def _steps(dates: NDArray[Any]) -> Whole:
    if dates.dtype.kind == "M":
        years = dates.astype("M8[Y]")
        days = (dates.astype("M8[D]") - years.astype("M8[D]")).astype(np.int64)
        lengths = ((years + 1).astype("M8[D]") - years.astype("M8[D]")).astype(np.int64)
        return days * STEPS // lengths
    numbers = [_step(date) for date in dates.ravel()]
    return np.array(numbers, np.int64).reshape(dates.shape)


def _step(date: Any) -> int:
    length = DAYS_OF_YEAR.get(str(date.calendar)) or (366 if cftime.is_leap_year(date.year, date.calendar) else 365)
    return int((date.dayofyr - 1) * STEPS // length)


_PARTS = {"season": _seasons, "month": _months, "dayofyear": _steps, "hour": _hours}


def years_of(dates: NDArray[Any]) -> Whole:
    """Return the calendar year of each date."""
    if dates.dtype.kind == "M":
        return dates.astype("M8[Y]").astype(np.int64) + 1970
    return np.array([date.year for date in dates.ravel()], np.int64).reshape(dates.shape)


def numbers_on(part: str, values: NDArray[Any]) -> Whole:
    """Return the numbers from 0 of the values of a coordinate: months 1 to 12, hours 0 to 23, days 1 to 366, DJF.

    Examples
    --------
    >>> numbers_on("month", np.array([1, 12])), numbers_on("season", np.array(["JJA"]))
    (array([ 0, 11]), array([2]))

    Raises
    ------
    InputError
        If a value is no label of this kind.
    """
    values = np.asarray(values)
    if values.dtype.kind in "UO":
        words = [str(value).strip().upper() for value in values]
        if part == "season" and set(words) <= set(SEASONS):
            return np.array([SEASONS.index(word) for word in words], np.int64)
        raise InputError(f"expected numbers along {part!r}, received {listing(map(str, values[:3]))}")
    first, last = {"season": (1, 4), "month": (1, 12), "dayofyear": (1, 366), "hour": (0, 23)}[part]
    numbers = values.astype(np.float64)
    if not ((numbers >= first) & (numbers <= last) & (numbers == np.rint(numbers))).all():
        raise InputError(
            f"expected whole numbers from {first} to {last} along {part!r}, received {numbers.min():g} to "
            f"{numbers.max():g}"
        )
    whole = numbers.astype(np.int64) - first
    return whole * STEPS // 366 if part == "dayofyear" else whole


def labelled_dims(dims: tuple[str, ...]) -> tuple[str, ...]:
    """Return the dimensions that are named as parts of a date, from the longest on.

    Examples
    --------
    >>> labelled_dims(("hour", "lat", "month"))
    ('month', 'hour')
    """
    names = {dim.lower(): dim for dim in dims}
    return tuple(names[part] for part in COUNTS if part in names)
