"""Steps of daily precipitation: intermittent, not negative, with exact daily amounts, and members."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.dates import values_of
from downscale.cf.kinds import quantity_over_time
from downscale.cf.quantities import same_quantity
from downscale.cf.times import date_bounds, time_name
from downscale.cf.units import convert
from downscale.errors import InputError
from downscale.fields.rain import RainCascade, estimate_cascade, rain_weights, share_nodes
from downscale.kernels.days import CROSSED
from downscale.methods.members import DIMENSION, day_numbers
from downscale.steps.climatology import open_observations
from downscale.steps.daily import Daily, Window, amounts, by_days
from downscale.steps.jobs import result_type

# Values of a record from which a cascade is estimated.
MOST_VALUES = 2_000_000
NEGATIVE = {
    CROSSED: "{name}: the daily amount is negative on {count} days of cells, the first on {where}; the mean is exact "
    "there, with equal steps"
}
BEYOND = {
    CROSSED: "{name}: more falls than of all precipitation on {count} days of cells, the first on {where}; its own "
    "mean is exact there. Order the daily values first"
}
Floats = NDArray[np.float64]


def rain_steps(daily: Daily) -> dict[str, xr.DataArray]:
    """Return the steps of precipitation of all days from their means or amounts; members along a dimension of it."""
    field, dtype = daily.fields["mean"], result_type(daily.first.dtype)
    share, attrs = amounts(daily)
    function = partial(
        _steps, steps=daily.steps, rate=_rate(field, 1.0 if share == 1.0 else 24.0), share=share, dtype=dtype,
        seed=daily.settings.seed, stream=str(field.name), cascade=cascade_of(daily), layers=_layers(daily),
    )  # fmt: skip

    def member(number: int) -> xr.DataArray:
        data = by_days(daily, [field], partial(function, member=number), 1, dtype, NEGATIVE)
        return xr.DataArray(data, dims=daily.dims, attrs=attrs)

    return {daily.name: _with_members(member, daily)}


def _layers(daily: Daily) -> NDArray[np.int64] | None:
    """Return the number of the layer of each column if columns share noise by their positions, else None."""
    if daily.positions is None:
        return None
    placed = {str(dim) for one in daily.positions for dim in one.dims}
    if not placed:
        return None
    lat, lon = xr.broadcast(*daily.positions)
    if not share_nodes(lat.values.ravel(), lon.values.ravel()):
        return None
    others = daily.first.isel({daily.dims[0]: 0})
    sizes = [size if dim not in placed else 1 for dim, size in others.sizes.items()]
    numbers = np.arange(int(np.prod(sizes)), dtype=np.int64).reshape(sizes)
    return np.broadcast_to(numbers, others.shape).ravel()


def cascade_of(daily: Daily) -> RainCascade | None:
    """Return the cascade estimated from rain of the record of hours that the settings contain, or None without."""
    if daily.settings.climatology is None:
        return None
    record, field = open_observations(daily.settings.climatology), daily.fields["mean"]
    alike = [str(name) for name, other in record.data_vars.items() if same_quantity(other, field) is True]
    name = str(field.name) if field.name in alike else next(iter(alike), None)
    axis = time_name(record)
    if name is None or axis is None or record[axis].ndim != 1 or record[axis].dims[0] not in record[name].dims:
        return None
    dates, pairs = values_of(record[axis].variable), date_bounds(record, axis)
    days, counts = np.unique(day_numbers(dates if pairs is None else pairs[:, 0]), return_counts=True)
    steps = int(counts.max())
    if steps < 2 or np.sum(counts == steps) < counts.size - 2:
        return None
    daily.settings.used.append(daily.name)
    dim = record[axis].dims[0]
    rain = record[name].transpose(dim, ...)
    # Every so many cells of a large record.
    values = rain.data.reshape(rain.shape[0], -1)
    values = np.asarray(values[:, :: max(values.size // MOST_VALUES, 1)], np.float64)
    is_amount = quantity_over_time(record[name], str(dim), axis)[0] == "extensive"
    rates = values * _rate(record[name], 24.0 / steps if is_amount else 1.0)
    whole = counts == steps
    rates = rates[np.repeat(whole, counts)].reshape(int(whole.sum()), steps, -1)
    return estimate_cascade(rates, days[whole])


def part_steps(daily: Daily) -> dict[str, xr.DataArray]:
    """Return the steps of a part of precipitation, such as snow, with the timing of all of it."""
    wholes = [one for one in daily.made.get("precipitation", {}).values() if {*one.dims} - {DIMENSION} == {*daily.dims}]
    if not wholes:
        return rain_steps(daily)
    field, dtype = daily.fields["mean"], result_type(daily.first.dtype)
    share, attrs = amounts(daily)
    hours = 24.0 / daily.steps
    factor = _rate(wholes[0], hours) / _rate(field, 1.0 if share == 1.0 else hours)
    function = partial(_part_steps, steps=daily.steps, share=share, factor=factor, dtype=dtype)

    def member(number: int) -> xr.DataArray:
        whole = wholes[0].isel({DIMENSION: number}) if DIMENSION in wholes[0].dims else wholes[0]
        data = by_days(daily, [field, whole.transpose(*daily.dims)], function, 0, dtype, BEYOND)
        return xr.DataArray(data, dims=daily.dims, attrs=attrs)

    return {daily.name: _with_members(member, daily)}


def _with_members(member: Any, daily: Daily) -> xr.DataArray:
    """Return one member, or all of them along their dimension after time."""
    count = daily.settings.members
    if count is None:
        return member(0)
    if DIMENSION in daily.dims:
        raise InputError(
            f"{daily.name}: expected no dimension {DIMENSION!r} with members, received one; rename it, or leave out "
            "members"
        )
    made = [member(number) for number in range(count)]
    return xr.concat(made, DIMENSION, join="exact").transpose(daily.dims[0], DIMENSION, *daily.dims[1:])


def _rate(field: xr.DataArray, hours: float) -> float:
    """Return the factor to mm/h of means, or of amounts in so many hours; of kg m-2 s-1 if units cannot be read."""
    units = str(field.attrs.get("units", "kg m-2 s-1"))
    for known, factor in (("kg m-2 s-1", 3600.0), ("m s-1", 3.6e6), ("kg m-2", 1.0 / hours), ("m", 1000.0 / hours)):
        scale = convert(1.0, units, known)
        if scale is not None:
            return scale * factor
    return 3600.0


def _steps(
    values: list[Floats | None], at: Window, *, steps: int, rate: float, share: float, seed: int, member: int,
    stream: str, dtype: np.dtype[Any], cascade: RainCascade | None,
    layers: NDArray[np.int64] | None,
) -> NDArray[Any]:  # fmt: skip
    """Return the steps of a block."""
    (amount,) = values
    assert amount is not None
    first, last = at.core
    rates, linked = amount * rate, at.days.linked
    before, after = np.zeros((2, last - first, amount.shape[1]))
    for day in range(first, last):
        if day and linked[day]:
            before[day - first] = rates[day - 1]
        if day + 1 < len(rates) and linked[day + 1]:
            after[day - first] = rates[day + 1]
    numbers = day_numbers(at.days.clock.dates(at.days.starts[first:last]))
    # Columns are addressed by their positions, or else by their numbers.
    cells, positions = (at.cells, None) if layers is None else (layers[at.cells], (at.latitude, at.longitude))
    weights = rain_weights(
        rates[first:last], steps, numbers, cells, positions=positions, before=before, after=after, cascade=cascade,
        seed=seed, member=member, stream=stream,
    )  # fmt: skip
    at.report.add(np.where(amount < 0, CROSSED, 0).astype(np.int8), at)
    return (weights * (share * amount[first:last])[:, None]).astype(dtype).reshape(-1, amount.shape[1])


def _part_steps(
    values: list[Floats | None], at: Window, *, steps: int, share: float, factor: float, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the steps of a block of a part of precipitation, from its days and the steps of all of it."""
    amount, whole = values
    assert amount is not None
    assert whole is not None
    hours = whole.reshape(len(amount), steps, -1)
    # Means and amounts of one unit are compared without rounding.
    hours = hours if abs(factor - 1.0) < 1e-9 else hours * factor
    mean = hours.mean(axis=1)
    fraction = np.divide(share * amount, mean, out=np.zeros_like(mean), where=mean > 0)
    # The mean of stored hours is rounded.
    beyond = (share * amount > mean * (1 + 1e-6)) & (amount != 0)
    fraction = np.where(beyond, fraction, np.minimum(fraction, 1.0))
    at.report.add(np.where(beyond | (amount < 0), CROSSED, 0).astype(np.int8), at)
    made = np.where((mean > 0)[:, None], fraction[:, None] * hours, (share * amount)[:, None])
    made[np.broadcast_to(np.isnan(amount)[:, None], made.shape)] = np.nan
    return made.astype(dtype).reshape(-1, amount.shape[1])
