"""Steps of daily temperature whose mean, minimum and maximum are exact."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.kernels.days import temperature_days
from downscale.steps.daily import Daily, Window, by_days, rounding
from downscale.steps.jobs import result_type

# Hours over which changes are smoothed across midnight, and how often.
SMOOTH_HOURS, ROUNDS = 12, 2
# Days on both sides that a day depends on.
REACH = 3 + ROUNDS
# Hours of the minimum and the maximum in mean solar time.
COLDEST, WARMEST = 6.0, 15.0

Floats = NDArray[np.float64]


def temperature_steps(daily: Daily) -> dict[str, xr.DataArray]:
    """Return the steps of temperature of all days from their mean, minimum and maximum, or some of these."""
    dtype = result_type(daily.first.dtype)
    fields = [daily.fields.get(role) for role in ("mean", "minimum", "maximum")]
    data = by_days(daily, fields, partial(_steps, steps=daily.steps, dtype=dtype), REACH, dtype)
    return {daily.name: xr.DataArray(data, dims=daily.dims)}


def _steps(values: list[Floats | None], at: Window, *, steps: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the steps of a block."""
    columns = at.cells.size
    absent = np.empty((0, columns))
    mean, low, high = (absent if one is None else one for one in values)
    clock = at.days.clock_hours[0] + (np.arange(steps) + 0.5) * 24.0 / steps
    hours = (clock + at.longitude[:, None] / 15.0) % 24.0
    cycle = daily_cycle(hours)[None] * (0.0 if values[1] is None and values[2] is None else 1.0)
    out = np.empty(((at.core[1] - at.core[0]) * steps, columns), dtype)
    flags = np.zeros((at.days.starts.size, columns), np.int8)
    label = np.zeros(at.days.starts.size, np.int64)
    slack = rounding(dtype)
    temperature_days(
        mean, low, high, slack, at.days.linked, cycle, label, smoothing(steps), ROUNDS, at.core, out, flags
    )
    at.report.add(flags, at)
    return out


def daily_cycle(hours: Floats) -> Floats:
    """Return a daily cycle at hours of solar time, with mean 0 and range 1 along the last axis."""
    rising = (WARMEST - COLDEST) % 24.0
    since = (hours - COLDEST) % 24.0
    turn = np.where(since < rising, since / rising, 1.0 + (since - rising) / (24.0 - rising))
    cycle = -0.5 * np.cos(np.pi * turn)
    return np.asarray(cycle - cycle.mean(axis=-1, keepdims=True))


def smoothing(steps: int) -> Floats:
    """Return the weights that smooth over midnights, for so many steps per day."""
    reach = max(round(SMOOTH_HOURS * steps / 24), 1)
    weights = np.hanning(2 * reach + 1)
    return np.asarray(weights / weights.sum())
