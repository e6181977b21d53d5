"""Steps of daily wind speed: not negative, with exact daily means and maxima."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.kernels.days import fit_days
from downscale.steps.daily import Daily, Window, by_days, rounding
from downscale.steps.hours_slow import REACH, slow_steps
from downscale.steps.jobs import result_type

# Amplitude relative to the mean, and hour of the maximum in mean solar time, of wind near the ground. Over sea there is
# hardly a daily cycle, in valleys in fair weather the amplitude is 0.7.
AMPLITUDE, WINDIEST = 0.2, 14.0
Floats = NDArray[np.float64]


def wind_steps(daily: Daily) -> dict[str, xr.DataArray]:
    """Return the steps of wind speed of all days from their means, and from their minima and maxima if present."""
    dtype = result_type(daily.first.dtype)
    fields = [daily.fields.get(role) for role in ("mean", "minimum", "maximum")]
    data = by_days(daily, fields, partial(_steps, steps=daily.steps, dtype=dtype), REACH, dtype)
    return {daily.name: xr.DataArray(data, dims=daily.dims)}


def _steps(values: list[Floats | None], at: Window, *, steps: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the steps of a block."""
    level = next(one for one in values if one is not None)
    shape = np.maximum(slow_steps(level, at, steps), 0.0)
    hours = at.days.clock_hours[at.core[0] : at.core[1], None] + (np.arange(steps) + 0.5) * 24.0 / steps
    turn = 2 * np.pi * (hours[..., None] + at.longitude / 15.0 - WINDIEST) / 24.0
    shape *= 1.0 + AMPLITUDE * np.cos(turn)
    return fitted(shape, values, at, 0.0, dtype)


def fitted(shape: Floats, values: list[Floats | None], at: Window, floor: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the core days with the shape of their steps, and with the mean, minimum and maximum of ``values``."""
    days, steps, columns = shape.shape
    absent = np.empty((0, columns))
    mean, low, high = (absent if one is None else one[at.core[0] : at.core[1]] for one in values)
    out, flags = np.empty((days * steps, columns), dtype), np.zeros((at.days.starts.size, columns), np.int8)
    fit_days(shape.reshape(-1, columns), mean, low, high, floor, rounding(dtype), out, flags[at.core[0] : at.core[1]])
    at.report.add(flags, at)
    return out
