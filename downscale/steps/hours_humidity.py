"""Steps of daily humidity: dew point, relative and specific humidity, consistent with the steps of temperature."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.units import convert
from downscale.errors import InputError
from downscale.fields.humidity import saturation_pressure, vapour_pressure
from downscale.fields.within_day import clip_to_means
from downscale.kernels.days import CROSSED
from downscale.steps.daily import MESSAGES, Daily, Window, by_days
from downscale.steps.hours_slow import REACH, slow_steps
from downscale.steps.hours_wind import fitted
from downscale.steps.jobs import result_type

ABOVE = {
    CROSSED: "{name}: the daily mean is above that of temperature on {count} days of cells, the first on {where}; the "
    "mean is exact there. Order the daily values first"
}
SATURATED = {
    CROSSED: "{name}: the daily mean is below 0 or above 100 % on {count} days of cells, the first on {where}; the "
    "mean is exact there, with equal steps"
}
NEGATIVE = {
    CROSSED: "{name}: the daily mean is negative on {count} days of cells, the first on {where}; the mean is exact "
    "there, with equal steps"
}
Floats = NDArray[np.float64]


def dew_point_steps(daily: Daily) -> dict[str, xr.DataArray]:
    """Return the steps of dew point of all days from their means, nowhere above the steps of temperature if present."""
    field, dtype = daily.fields["mean"], result_type(daily.first.dtype)
    air = _temperature(daily)
    scale = (1.0, 0.0) if air is None else _scale(air, str(field.attrs.get("units", "K")), daily.name)
    function = partial(_dew_point, steps=daily.steps, scale=scale, dtype=dtype)
    data = by_days(daily, [field, air], function, REACH, dtype, ABOVE)
    return {daily.name: xr.DataArray(data, dims=daily.dims)}


def relative_humidity_steps(daily: Daily) -> dict[str, xr.DataArray]:
    """Return the steps of relative humidity from daily means, and from minima and maxima if present.

    Vapour pressure is slow; relative humidity follows the steps of temperature if present. It is between 0 and 100 %.
    """
    dtype, air = result_type(daily.first.dtype), _temperature(daily)
    units = str(daily.first.attrs.get("units", "%"))
    full = convert(1.0, "1", units)
    if full is None:
        raise InputError(f"{daily.name}: expected units such as '%' or '1', received {units!r}; convert it")
    scale = (1.0, 0.0) if air is None else _scale(air, "degC", daily.name)
    fields = [daily.fields.get(role) for role in ("mean", "minimum", "maximum")]
    function = partial(_relative_humidity, steps=daily.steps, scale=scale, full=full, dtype=dtype)
    messages = SATURATED if len(daily.fields) == 1 else MESSAGES
    data = by_days(daily, [*fields, air], function, REACH, dtype, messages)
    return {daily.name: xr.DataArray(data, dims=daily.dims)}


def specific_humidity_steps(daily: Daily) -> dict[str, xr.DataArray]:
    """Return the steps of specific humidity of all days from their means: slow, and not negative."""
    dtype = result_type(daily.first.dtype)
    function = partial(_specific_humidity, steps=daily.steps, dtype=dtype)
    data = by_days(daily, [daily.fields["mean"]], function, REACH, dtype, NEGATIVE)
    return {daily.name: xr.DataArray(data, dims=daily.dims)}


def _temperature(daily: Daily) -> xr.DataArray | None:
    """Return the steps of air temperature with the dimensions of the daily fields, or None."""
    made = daily.made.get("temperature", {}).values()
    return next((one.transpose(*daily.dims) for one in made if {*one.dims} == {*daily.dims}), None)


def _scale(air: xr.DataArray, units: str, name: str) -> tuple[float, float]:
    """Return factor and offset of temperature to other units."""
    own = str(air.attrs.get("units", "K"))
    zero, one = convert(0.0, own, units), convert(1.0, own, units)
    if zero is None or one is None:
        raise InputError(f"{name}: expected units of a temperature, received {units!r} and {own!r}; set units")
    return one - zero, zero


def _scaled(air: Floats, scale: tuple[float, float]) -> Floats:
    return air if scale == (1.0, 0.0) else scale[0] * air + scale[1]


def _core(at: Window, values: Floats, steps: int = 1) -> Floats:
    return values[at.core[0] * steps : at.core[1] * steps]


def _report(failed: NDArray[np.bool_], at: Window) -> None:
    """Count days of the core whose mean is outside the bounds."""
    flags = np.zeros((at.days.starts.size, failed.shape[1]), np.int8)
    flags[at.core[0] : at.core[1]] = np.where(failed, CROSSED, 0)
    at.report.add(flags, at)


def _dew_point(
    values: list[Floats | None], at: Window, *, steps: int, scale: tuple[float, float], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the steps of a block of dew point."""
    mean, air = values
    assert mean is not None
    high: Any = None
    if air is not None:
        exact = _scaled(_core(at, air, steps), scale)
        # The largest stored number that is not above the temperature; days without one have no bound.
        high = exact.astype(dtype)
        above = high > exact
        if above.any():
            high[above] = np.nextafter(high[above], dtype.type(-np.inf))
        missing = np.isnan(high)
        if missing.any():
            high[missing] = np.inf
        high = high.reshape(-1, steps, mean.shape[1])
    made, failed = clip_to_means(slow_steps(mean, at, steps).astype(dtype), _core(at, mean), high=high)
    _report(failed, at)
    return made.reshape(-1, mean.shape[1])


def _relative_humidity(
    values: list[Floats | None], at: Window, *, steps: int, scale: tuple[float, float], full: float,
    dtype: np.dtype[Any],
) -> NDArray[Any]:  # fmt: skip
    """Return the steps of a block of relative humidity."""
    *daily, air = values
    level = next(one for one in daily if one is not None)
    if air is None:
        shape = slow_steps(level, at, steps)
    else:
        saturation = saturation_pressure(_scaled(air, scale)).reshape(-1, steps, level.shape[1])
        vapour = slow_steps(vapour_pressure(level, saturation), at, steps)
        shape = np.maximum(vapour, 0.0) / saturation[at.core[0] : at.core[1]]
        if np.isnan(shape).any():
            # Days without a temperature.
            shape = np.where(np.isnan(shape), slow_steps(level, at, steps), shape)
    if len([one for one in daily if one is not None]) > 1 or daily[0] is None:
        return _fitted_below(full, shape, daily, at, dtype)
    made, failed = clip_to_means(shape.astype(dtype), _core(at, level), 0.0, full)
    _report(failed, at)
    return made.reshape(-1, level.shape[1])


def _fitted_below(
    full: float, shape: Floats, daily: list[Floats | None], at: Window, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the fitted steps; days without a maximum whose steps are above ``full`` have it as their maximum.

    A minimum that leaves no room for the mean below ``full`` wins.
    """
    made = fitted(shape, daily, at, 0.0, dtype)
    mean, low, high = daily
    if high is None:
        days = made.reshape(shape.shape)
        above = np.asarray((days > full).any(axis=1))
        if mean is not None and low is not None:
            above &= len(days[0]) * (full - _core(at, mean)) > full - _core(at, low)
        if above.any():
            high = np.full((at.days.starts.size, above.shape[1]), np.nan)
            _core(at, high)[above] = full
            made = np.where(above[:, None], fitted(shape, [mean, low, high], at, 0.0, dtype).reshape(days.shape), days)
    return made.reshape(-1, shape.shape[2])


def _specific_humidity(values: list[Floats | None], at: Window, *, steps: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the steps of a block of specific humidity."""
    (mean,) = values
    assert mean is not None
    made, failed = clip_to_means(slow_steps(mean, at, steps).astype(dtype), _core(at, mean), 0.0)
    _report(failed, at)
    return made.reshape(-1, mean.shape[1])
