"""Ensemble members as a dimension: the noise keys and the number of each map."""

from __future__ import annotations

from typing import Any

import cftime  # type: ignore[import-untyped]
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.dates import DAY, is_time, values_of
from downscale.errors import InputError
from downscale.fields.noise import Draws

DIMENSION = "realization"
ATTRS = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}
# Noise is indexed by whole seconds since then, in every calendar.
SINCE = "seconds since 1970-01-01"
STEPS = ("time", "t", "month", "step")


def draws_of(
    variable: xr.DataArray, dims: tuple[str, str], members: int | None, seed: int, key: str | None = None
) -> Draws:
    """Return the noise keys of the maps of a variable, by seed, key and time; one member by default.

    Variables with the same key share their noise, such as the outputs of one model, whose members belong together. The
    key is the name of the variable by default.

    Maps that differ in dimensions other than time, such as levels, share their noise.
    """
    if members is not None and DIMENSION in variable.dims:
        raise InputError(
            f"{variable.name}: expected no dimension {DIMENSION!r} with members=, received one of "
            f"{variable.sizes[DIMENSION]}; rename it, or leave members out"
        )
    lead = [str(dim) for dim in variable.dims if dim not in dims]
    time_dim = next((dim for dim in lead if dim in variable.coords and is_time(variable[dim].variable)), None)
    step_dim = next((dim for dim in lead if dim.lower() in STEPS), None)
    times, has_dates = np.empty(0, np.int64), time_dim is not None
    if time_dim is not None or step_dim is not None:
        sizes = [variable.sizes[dim] for dim in lead]
        seconds = _seconds(variable[time_dim].variable) if time_dim else np.arange(variable.sizes[step_dim])
        time_dim = time_dim or step_dim
        shape = [size if dim == time_dim else 1 for dim, size in zip(lead, sizes, strict=True)]
        times = np.broadcast_to(seconds.reshape(shape), sizes).ravel()
    return Draws(seed, 1 if members is None else members, str(variable.name) if key is None else key, times, has_dates)


def day_numbers(dates: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of the day of each date of any calendar since 1970, by which noise of days is indexed.

    Examples
    --------
    >>> day_numbers(np.array(["1970-01-02T06", "1969-12-31"], "M8[h]"))
    array([ 1, -1])
    """
    return np.asarray(_seconds_of(np.asarray(dates)) // DAY, np.int64)


def _seconds(time: xr.Variable) -> NDArray[np.int64]:
    return _seconds_of(values_of(time))


def _seconds_of(values: NDArray[Any]) -> NDArray[np.int64]:
    if values.dtype.kind == "M":
        return values.astype("datetime64[s]").astype(np.int64)
    numbers = cftime.date2num(values, SINCE, calendar=values.flat[0].calendar)
    return np.round(np.asarray(numbers, np.float64)).astype(np.int64)


def with_members(array: xr.DataArray, count: int | None) -> xr.DataArray:
    """Return maps repeated for each member, with the member dimension before rows and columns."""
    if count is None:
        return array
    xp = da if isinstance(array.data, da.Array) else np
    shape = (*array.shape[:-2], count, *array.shape[-2:])
    data = xp.broadcast_to(array.data[..., None, :, :], shape)
    dims = (*array.dims[:-2], DIMENSION, *array.dims[-2:])
    coords = {name: coord.variable for name, coord in array.coords.items()}
    return xr.DataArray(data, coords, dims, array.name, array.attrs)


def order_of(dims: tuple[Any, ...], result_dims: tuple[Any, ...]) -> list[Any]:
    """Return the dimensions of a result in the order of the input, with members before the first horizontal one.

    Examples
    --------
    >>> order_of(("lat", "lon", "time"), ("time", "realization", "lat", "lon"))
    ['realization', 'lat', 'lon', 'time']
    """
    extra_dims = [dim for dim in result_dims if dim not in dims]
    position = min(dims.index(dim) for dim in result_dims[-2:])
    return [*dims[:position], *extra_dims, *dims[position:]]


def numbers_of(array: xr.DataArray) -> xr.DataArray:
    """Return the number of each map; the last of the other dimensions varies fastest."""
    lead = array.shape[:-2]
    numbers = np.arange(int(np.prod(lead)), dtype=np.float64).reshape(lead)
    return xr.DataArray(numbers, dims=array.dims[:-2], name="number of the map")


def member_coordinate(count: int) -> xr.Variable:
    """Return the coordinate of the members, from 0."""
    return xr.Variable((DIMENSION,), np.arange(count), dict(ATTRS))
