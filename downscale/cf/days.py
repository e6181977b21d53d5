"""Days of a daily record: their periods in any calendar, gaps between them, and steps within them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from numbers import Real
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.axes import BoundedAxis, new_axis_coordinates
from downscale.cf.bounds import lost_bounds, read_bounds
from downscale.cf.dates import DAY, ROUNDING, Clock, parts_of, stamp, values_of
from downscale.cf.times import time_name
from downscale.errors import GridError, OptionError, spell
from downscale.grid.axis import CellAxis

UNITS = {"d": DAY, "day": DAY, "h": 3600.0, "hour": 3600.0, "min": 60.0, "t": 60.0, "minute": 60.0}
MOST_STEPS = 1440


@dataclass(frozen=True, eq=False)
class Days:
    """The days along a dimension, in order: where each begins, and whether it follows the one before without a gap."""

    dim: str
    name: str  # of the coordinate of time
    clock: Clock
    starts: NDArray[np.float64]  # in seconds since ``clock.origin``

    @classmethod
    def read(cls, ds: xr.Dataset) -> Days:
        """Return the days of the time axis of a Dataset, by its bounds or else by its stamps.

        Without bounds a stamp represents the calendar day that contains it; at midnight, the day that begins.

        Raises
        ------
        GridError
            If there is no time axis, or if its periods are not days in ascending order.
        """
        name = time_name(ds)
        if name is None or ds[name].ndim != 1:
            raise GridError("expected daily fields with a time axis, received none; decode the times, or add them")
        if not ds[name].size:
            raise GridError(f"coordinate {name!r}: expected at least one day, received none; select other times")
        dates, pairs = values_of(ds[name].variable), read_bounds(ds, name)
        clock = Clock.of(dates if pairs is None else pairs)
        if pairs is None:
            midnights = clock.midnights([parts_of(date) for date in dates])
            starts, stamps = clock.seconds(midnights), clock.seconds(dates)
            bounds = lost_bounds(ds, name)
            if bounds is not None and (np.abs(stamps - starts - DAY / 2) > ROUNDING).any():
                raise GridError(
                    f"coordinate {name!r}: expected the bounds {bounds!r}, received none and stamps that are not at "
                    f"noon, such as {stamp(dates[0])}, whose days are not clear; pass the Dataset that has them"
                )
            lengths = np.full(starts.size, DAY)
        else:
            seconds = clock.seconds(pairs.reshape(-1, 2))
            starts, lengths = seconds[:, 0], seconds[:, 1] - seconds[:, 0]
        bad = np.flatnonzero(np.abs(lengths - DAY) > ROUNDING)
        if bad.size:
            raise GridError(
                f"coordinate {name!r}: expected periods of one day, received {lengths[bad[0]] / 3600:g} hours at "
                f"{stamp(dates[bad[0]])}; average or sum to days first"
            )
        starts = np.rint(starts)
        bad = np.flatnonzero(np.diff(starts) < DAY - ROUNDING)
        if bad.size:
            raise GridError(
                f"coordinate {name!r}: expected days in order, received {stamp(dates[bad[0]])} before "
                f"{stamp(dates[bad[0] + 1])}; sort by time and drop duplicates, or average to days first"
            )
        return cls(str(ds[name].dims[0]), name, clock, starts)

    @property
    def linked(self) -> NDArray[np.bool_]:
        """Whether each day begins where the day before it ends."""
        return np.append(False, np.abs(np.diff(self.starts) - DAY) <= ROUNDING)[: self.starts.size]

    @property
    def middles(self) -> NDArray[Any]:
        """The dates of the middles of days."""
        return self.clock.dates(self.starts + DAY / 2)

    @property
    def clock_hours(self) -> NDArray[np.float64]:
        """The hour of the clock at which each day begins, 0 for midnight."""
        dates = self.clock.dates(self.starts)
        return (self.starts - self.clock.seconds(self.clock.midnights([parts_of(d) for d in dates]))) / 3600.0

    def part(self, first: int, last: int) -> Days:
        """Return some of the days."""
        return Days(self.dim, self.name, self.clock, self.starts[first:last])

    def step_edges(self, steps: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the dates at which steps begin and end, ``steps`` per day."""
        begin = (self.starts[:, None] + DAY / steps * np.arange(steps)).ravel()
        return self.clock.dates(begin), self.clock.dates(begin + DAY / steps)

    def step_coordinates(self, ds: xr.Dataset, steps: int) -> dict[Any, xr.Variable]:
        """Return the coordinate and the bounds of all steps, with the middle of each as its stamp."""
        begin, end = self.step_edges(steps)
        middles = self.clock.dates((self.starts[:, None] + DAY / steps * (np.arange(steps) + 0.5)).ravel())
        pairs = np.stack([begin, end], axis=1)
        # The axis itself may have gaps; only its labels are used.
        numbers = CellAxis(np.arange(begin.size + 1.0), "time")
        cells = BoundedAxis(self.dim, self.name, numbers, self.clock, coordinate=(middles, pairs, {}))
        return new_axis_coordinates(ds, cells, cells)


def steps_per_day(step: Any) -> int:
    """Return the number of steps in a day, for "h", "3h", "30min", a number of hours, or a time span.

    Examples
    --------
    >>> steps_per_day("h"), steps_per_day("30min"), steps_per_day(6)
    (24, 48, 4)
    """
    seconds = 0.0
    if isinstance(step, str):
        match = re.fullmatch(r"(\d*\.?\d*)\s*([a-zA-Z]+?)s?", step.strip())
        if match and match[2].lower() in UNITS and match[1] != ".":
            seconds = float(match[1] or 1) * UNITS[match[2].lower()]
    elif isinstance(step, np.timedelta64 | timedelta):
        seconds = float(np.timedelta64(step) / np.timedelta64(1, "s"))
    elif isinstance(step, Real) and not isinstance(step, bool):
        seconds = float(step) * 3600.0
    count = round(DAY / seconds) if seconds > 0 and np.isfinite(seconds) else 0
    if not 2 <= count <= MOST_STEPS or abs(count * seconds - DAY) > ROUNDING:
        raise OptionError(
            f"expected {spell('step')} to divide a day into 2 to {MOST_STEPS} parts, such as 'h', '3h' or '30min', "
            f"received {step!r}; choose one of these"
        )
    return count
