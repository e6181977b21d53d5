"""Steps of daily temperature whose mean, minimum and maximum are exact."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.labels import STEPS, Labels
from downscale.fields.diurnal import sun_cycle
from downscale.kernels.days import temperature_days
from downscale.steps.daily import Daily, Window, by_days, rounding
from downscale.steps.daily_cycles import daily_cycles
from downscale.steps.jobs import result_type

# Hours over which changes are smoothed across midnight, and how often.
SMOOTH_HOURS, ROUNDS = 12, 2
# Days on both sides that a day depends on.
REACH = 3 + ROUNDS
# Mean size of the cycle of the sun, as a part of the daily range: the weather of single days makes the rest.
SUN_SIZE = 0.6
# The cycle of the sun is that of the middle of each 73rd of the year.
SUN_LABELS = Labels(("dayofyear",))

Floats = NDArray[np.float64]


def temperature_steps(daily: Daily) -> dict[str, xr.DataArray]:
    """Return the steps of temperature of all days from their mean, minimum and maximum, or some of these."""
    dtype = result_type(daily.first.dtype)
    fields = [daily.fields.get(role) for role in ("mean", "minimum", "maximum")]
    cycles = daily_cycles(daily)
    function = partial(_steps, steps=daily.steps, dtype=dtype, cycles=None if cycles is None else cycles.labels)
    tables = () if cycles is None else (cycles.table,)
    data = by_days(daily, fields, function, REACH, dtype, tables=tables)
    return {daily.name: xr.DataArray(data, dims=daily.dims)}


def _steps(
    values: list[Floats | None], at: Window, *, steps: int, dtype: np.dtype[Any], cycles: Labels | None
) -> NDArray[Any]:
    """Return the steps of a block."""
    columns = at.cells.size
    absent = np.empty((0, columns))
    mean, low, high = (absent if one is None else one for one in values)
    middles = at.days.middles
    if cycles is None:
        kinds, label = np.unique(SUN_LABELS.of(middles), return_inverse=True)
        seconds = at.days.clock_hours[0] * 3600.0 + (np.arange(steps) + 0.5) * 86400.0 / steps
        cycle = SUN_SIZE * sun_cycle(at.latitude, at.longitude, 2 * np.pi * (kinds + 0.5) / STEPS, seconds)
        if values[1] is None and values[2] is None:
            # Nothing shows how large the cycle is.
            cycle[:] = 0.0
    else:
        label = cycles.of(middles)
        cycle = np.ascontiguousarray(at.tables[0].reshape(-1, steps, columns).transpose(0, 2, 1))
    out = np.empty(((at.core[1] - at.core[0]) * steps, columns), dtype)
    flags = np.zeros((at.days.starts.size, columns), np.int8)
    linked, weights = at.days.linked, smoothing(steps)
    temperature_days(
        mean, low, high, rounding(dtype), linked, cycle, label, weights, ROUNDS, at.core, out, flags
    )  # fmt: skip
    at.report.add(flags, at)
    return out


def smoothing(steps: int) -> Floats:
    """Return the weights that smooth over midnights, for so many steps per day."""
    reach = max(round(SMOOTH_HOURS * steps / 24), 1)
    weights = np.hanning(2 * reach + 1)
    return np.asarray(weights / weights.sum())
