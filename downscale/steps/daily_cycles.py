"""Observed daily cycles of a variable: from an hourly record, or from a climatology by hour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.bounds import bounds_variables
from downscale.cf.dates import DAY, Clock, is_time, parts_of, values_of
from downscale.cf.horizontal import as_dataset, horizontal
from downscale.cf.labels import Labels, labelled_dims, numbers_on
from downscale.cf.quantities import same_quantity, units_of
from downscale.cf.units import convert
from downscale.errors import DownscaleError, InputError, listing, spell
from downscale.io.statics import regridder
from downscale.process.computing import compute
from downscale.steps.climatology import middles_of, open_observations
from downscale.steps.daily import Daily

# Days of a month that its own cycle needs; those of the whole record otherwise.
FEWEST_DAYS = 5
# Mean size of a cycle without days, as a part of the daily range.
MEAN_SIZE = 0.7
# Times of day of a record are equal if they differ by less, in seconds.
SAME_TIME = 1.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cycles:
    """Daily cycles by label of the day, shape ``(labels, steps, *others)``, with mean 0 in units of the daily range."""

    labels: Labels
    table: Floats


def daily_cycles(daily: Daily) -> Cycles | None:
    """Return the cycles of the climatology of a request at the steps of days, or None without one.

    If neither minimum nor maximum is known, cycles are in the units of the field.
    """
    if daily.settings.climatology is None:
        return None
    field = _find(open_observations(daily.settings.climatology), daily)
    if field is None:
        return None
    daily.settings.used.append(daily.name)
    scale = _scale(field, daily)
    lead = tuple(str(dim) for dim in field.dims)
    times = next((dim for dim in lead if dim in field.coords and is_time(field[dim].variable)), None)
    has_range = len(daily.fields) > ("mean" in daily.fields)
    if times is not None:
        labels, cycles, seconds = _of_record(field, times, has_range, daily)
    else:
        labels, cycles, seconds = _of_climatology(field, labelled_dims(lead), has_range)
    cycles = cycles if has_range else cycles * scale
    cycles = cycles.assign_coords({d: field[d] for d in cycles.dims if d in field.coords})
    table = _on_columns(cycles, field, daily)
    start = daily.days.clock_hours[0] * 3600.0
    return Cycles(labels, np.nan_to_num(_at_steps(table, seconds, start, daily.steps)))


def _find(source: xr.Dataset, daily: Daily) -> xr.DataArray | None:
    """Return the field of the quantity of a family: of its name, of the same quantity, or the only one; else None."""
    skipped = bounds_variables(source)
    fields = [str(n) for n, v in source.data_vars.items() if v.dtype.kind == "f" and n not in skipped]
    sameness = {name: same_quantity(source[name], daily.first) for name in fields}
    alike = [name for name, same in sameness.items() if same] or [n for n, same in sameness.items() if same is None]
    name = daily.name if daily.name in alike else alike[0] if len(alike) == 1 else None
    if name is None:
        return None
    field = source[name]
    for other in source.coords:
        if other not in field.coords and set(source[other].dims) <= set(field.dims):
            field = field.assign_coords({other: source[other]})
    return field


def _scale(field: xr.DataArray, daily: Daily) -> float:
    units, wanted = units_of(field), units_of(daily.first)
    if units is None or wanted is None or units == wanted:
        return 1.0
    zero, one = convert(0.0, units, wanted), convert(1.0, units, wanted)
    return 1.0 if zero is None or one is None else one - zero


def _of_record(field: xr.DataArray, dim: str, has_range: bool, daily: Daily) -> tuple[Labels, xr.DataArray, Floats]:
    """Return the labels, the cycles and the times of day of an hourly record: mean deviations over the mean range."""
    dates = middles_of(field.coords.to_dataset(), dim)
    clock = Clock.of(dates)
    stamps = clock.seconds(dates) - clock.seconds(clock.midnights([parts_of(dates[0])]))[0]
    start = daily.days.clock_hours[0] * 3600.0
    day, second = np.divmod(stamps - start + SAME_TIME / 2, DAY)
    _, first, counts = np.unique(day, return_index=True, return_counts=True)
    per_day = int(np.bincount(counts).argmax()) if counts.size else 0
    whole = first[counts == per_day]
    rows = whole[:, None] + np.arange(per_day)
    seconds = second[rows] - SAME_TIME / 2
    same = np.abs(seconds - np.median(seconds, axis=0)).max(axis=1) < SAME_TIME if per_day else np.zeros(0, bool)
    rows = rows[same]
    if per_day < 3 or not rows.size:
        raise InputError(
            f"expected {spell('climatology')} with at least 3 times per day, received {per_day}; pass hourly values"
        )
    labels = Labels(("month",))
    label = labels.of(dates[rows[:, per_day // 2]])
    data = field.transpose(dim, ...).data
    data = data if isinstance(data, da.Array) else np.asarray(data)
    values = data[rows.ravel()].reshape(*rows.shape, *data.shape[1:]).astype("f8")
    mean = values.mean(axis=1)
    deviation = values - mean[:, None]
    size = values.max(axis=1) - values.min(axis=1)
    xp = da if isinstance(data, da.Array) else np
    parts = []
    for month in range(labels.count):
        own = np.flatnonzero(label == month)
        chosen = own if own.size >= FEWEST_DAYS else np.arange(label.size)
        parts.append((_mean(deviation[chosen], xp), _mean(size[chosen], xp)))
    parts = compute(parts)[0] if xp is da else parts
    cycles = np.stack([cycle / np.where(span > 0, span, 1.0) if has_range else cycle for cycle, span in parts])
    others = [d for d in field.dims if d != dim]
    return labels, xr.DataArray(cycles, dims=("label", "step", *others)), np.median(seconds, axis=0) + start


def _mean(values: Any, xp: Any) -> Any:
    """Return the mean of finite values over the first axis, 0 where there are none."""
    valid = xp.isfinite(values)
    return xp.where(valid, values, 0.0).sum(axis=0) / xp.maximum(valid.sum(axis=0), 1)


def _of_climatology(
    field: xr.DataArray, named: tuple[str, ...], has_range: bool
) -> tuple[Labels, xr.DataArray, Floats]:
    """Return the labels, the cycles and the times of day of a climatology with a dimension of hours."""
    hour = next((dim for dim in named if dim.lower() == "hour"), None)
    if hour is None or field.sizes[hour] < 3:
        raise InputError(
            f"expected {spell('climatology')} with hourly times or a dimension 'hour', received the dimensions "
            f"{listing(field.dims)}; pass an hourly record, or its means by hour"
        )
    hours = numbers_on("hour", values_of(field[hour].variable))
    others = [dim for dim in named if dim != hour]
    labels = Labels(tuple(dim.lower() for dim in others))
    numbers = [numbers_on(dim.lower(), values_of(field[dim].variable)) for dim in others]
    grids = np.meshgrid(*numbers, indexing="ij") if numbers else []
    which = labels.joined([grid.ravel() for grid in grids], (1,) if not grids else (grids[0].size,))
    rest = [dim for dim in field.dims if dim not in named]
    values = np.asarray(field.transpose(*others, hour, *rest).values, np.float64)
    values = values.reshape(which.size, hours.size, *values.shape[len(others) + 1 :])
    cycles = values - values.mean(axis=1, keepdims=True)
    if has_range:
        span = np.ptp(cycles, axis=1, keepdims=True)
        cycles = MEAN_SIZE * cycles / np.where(span > 0, span, 1.0)
    # Labels that the climatology lacks get the mean of the others.
    table = np.broadcast_to(cycles.mean(axis=0), (labels.count, *cycles.shape[1:])).copy()
    table[which] = cycles
    order = np.argsort(hours, kind="stable")
    return (
        labels,
        xr.DataArray(table[:, order], dims=("label", "step", *rest)),
        np.asarray(hours[order] * 3600.0, np.float64),
    )


def _on_columns(cycles: xr.DataArray, field: xr.DataArray, daily: Daily) -> Floats:
    """Return cycles on the other dimensions of the daily field, shape ``(labels, steps, *others)``."""
    others = daily.dims[1:]
    rest = [str(dim) for dim in cycles.dims[2:]]
    lone = [dim for dim in rest if dim not in others and cycles.sizes[dim] == 1]
    cycles = cycles.squeeze(lone, drop=True)
    rest = [dim for dim in rest if dim not in lone]
    like = daily.first.isel({daily.days.dim: 0})
    is_same = all(
        dim in others and cycles.sizes[dim] == like.sizes[dim] and _same_labels(cycles, daily.ds, dim) for dim in rest
    )
    if not is_same:
        cycles = _regridded(cycles, field, daily)
    plain = cycles.drop_vars(list(cycles.coords))
    shape = {"label": plain.sizes["label"], "step": plain.sizes["step"], **{d: like.sizes[d] for d in others}}
    template = xr.DataArray(np.empty(tuple(shape.values()), np.int8), dims=tuple(shape))
    return np.asarray(plain.broadcast_like(template).transpose(*shape).values, np.float64)


def _same_labels(cycles: xr.DataArray, ds: xr.Dataset, dim: str) -> bool:
    if dim not in cycles.coords or dim not in ds.coords:
        return True
    one, other = cycles[dim].values, ds[dim].values
    return bool(np.allclose(one, other, rtol=0, atol=1e-5)) if one.dtype.kind == "f" else bool((one == other).all())


def _regridded(cycles: xr.DataArray, field: xr.DataArray, daily: Daily) -> xr.DataArray:
    """Return cycles on the cells of the daily field, as area-weighted means."""
    what = spell("climatology")
    try:
        axes = horizontal(daily.ds, guess=True)
        plane = field.isel({dim: 0 for dim in field.dims if dim not in cycles.dims}, drop=True)
        source, _ = as_dataset(plane.rename(field.name or "climatology"))
        there = horizontal(source, guess=True)
    except DownscaleError as error:
        raise InputError(
            f"expected {what} on the cells of {daily.name!r}, at one place, or on latitudes and longitudes, received "
            f"the dimensions {listing(field.dims)}; select one place, or regrid it ({error})"
        ) from None
    regrid = regridder(source, axes.grid, what, axes)
    maps = cycles.transpose("label", "step", *there.dims).values
    fine = regrid(maps.reshape(-1, *maps.shape[2:])).reshape(*maps.shape[:2], *axes.grid.shape)
    return xr.DataArray(fine, dims=("label", "step", *axes.dims))


def _at_steps(table: Floats, seconds: Floats, start: float, steps: int) -> Floats:
    """Return cycles at the middles of steps, linear between the times of day that they are known at."""
    wanted = (start + (np.arange(steps) + 0.5) * DAY / steps) % DAY
    known = seconds % DAY
    order = np.argsort(known)
    known = known[order]
    after = np.searchsorted(known, wanted, side="left") % known.size
    before = (after - 1) % known.size
    width = (known[after] - known[before]) % DAY
    weight = ((wanted - known[before]) % DAY) / np.where(width > 0, width, DAY)
    table = table[:, order]
    shape = (1, steps, *(1,) * (table.ndim - 2))
    fine = table[:, before] * (1 - weight).reshape(shape) + table[:, after] * weight.reshape(shape)
    fine = fine - fine.mean(axis=1, keepdims=True)
    return np.asarray(fine.reshape(len(fine) * steps, *fine.shape[2:]))
