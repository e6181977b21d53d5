"""Hourly steps of daily fields: means, minima and maxima exact for any fields, calendars, gaps, chunks and types."""

from __future__ import annotations

import warnings
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_fields import assert_same, untouched
from strategies import calendars, generator, seeds

import downscale
from downscale.errors import DownscaleError, GridError, InputError, OptionError
from downscale.kernels.days import CROSSED, EXACT, MISSED, fit_days

METHODS = {"tas": "mean", "tasmin": "minimum", "tasmax": "maximum"}
LEVEL = {"K": 273.15, "degC": 0.0}


def days(count: int, calendar: str = "standard", start: str = "2000-02-26", gap: int = 0) -> xr.DataArray:
    """Noon stamps of days in a row, with a gap of some days in their middle."""
    dates = xr.date_range(f"{start}T12", periods=count + gap, freq="D", calendar=calendar, use_cftime=True)
    kept = [*range(count // 2), *range(count // 2 + gap, count + gap)]
    return xr.DataArray(dates.values[kept], dims="time", name="time", attrs={"standard_name": "time"})


def daily(
    seed: int = 0, count: int = 9, shape: tuple[int, int] = (3, 4), dtype: str = "float32", units: str = "K",
    room: float = 0.26, missing: float = 0.0, **time: Any,
) -> xr.Dataset:  # fmt: skip
    """Rough daily means, minima and maxima; the mean leaves ``room`` of the range to both."""
    rng = generator(seed)
    low = LEVEL[units] + rng.normal(0, 8, (count, *shape)).cumsum(axis=0)
    high = low + rng.gamma(0.6, 6.0, low.shape) * (rng.uniform(size=low.shape) > 0.1)
    mean = low + (high - low) * rng.uniform(room, 1 - room, low.shape)
    coords = {
        "time": days(count, **time),
        "lat": ("lat", np.linspace(-60, 70, shape[0]), {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ("lon", np.linspace(0, 270, shape[1]), {"standard_name": "longitude", "units": "degrees_east"}),
    }
    fields = {}
    for name, values in {"tas": mean, "tasmin": low, "tasmax": high}.items():
        attrs = {"standard_name": "air_temperature", "units": units, "cell_methods": f"time: {METHODS[name]}"}
        fields[name] = (("time", "lat", "lon"), values.astype(dtype), attrs)
    ds = xr.Dataset(fields, coords)
    return ds.where(rng.uniform(size=low.shape) >= missing) if missing else ds


def by_day(fine: xr.DataArray, steps: int) -> np.ndarray:
    """Steps in float64 with the axes day, step, others."""
    values = fine.transpose("time", ...).values.astype("f8")
    return values.reshape(-1, steps, *values.shape[1:])


def assert_exact(fine: xr.DataArray, ds: xr.Dataset, steps: int) -> None:
    values = by_day(fine, steps)
    size = float(np.nanmax(abs(ds.tas.values), initial=1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        np.testing.assert_allclose(values.mean(axis=1), ds.tas.values, rtol=1e-6, atol=1e-7 * size)
        np.testing.assert_array_equal(values.min(axis=1), ds.tasmin.values)
        np.testing.assert_array_equal(values.max(axis=1), ds.tasmax.values)


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds, count=st.integers(1, 15), calendar=calendars, gap=st.integers(0, 3),
    steps=st.sampled_from([4, 8, 24, 48]),
    dtype=st.sampled_from(["float32", "float64"]), units=st.sampled_from(["K", "degC"]),
    missing=st.sampled_from([0.0, 0.2]), room=st.sampled_from([0.2501, 0.3]),
    chunks=st.tuples(st.integers(1, 15), st.integers(1, 3), st.integers(1, 4)),
)  # fmt: skip
def test_daily_mean_minimum_and_maximum_are_exact(
    seed, count, calendar, gap, steps, dtype, units, missing, room, chunks
):
    ds = daily(seed, count, dtype=dtype, units=units, room=room, missing=missing, calendar=calendar, gap=gap)
    before = untouched(ds)
    fine = downscale.hourly(ds, 24 / steps)
    assert_same(ds, before)
    assert fine.tas.dtype == dtype
    assert fine.tas.dims == ds.tas.dims
    assert_exact(fine.tas, ds, steps)
    lazy = downscale.hourly(ds.chunk(dict(zip(("time", "lat", "lon"), chunks, strict=True))), 24 / steps)
    assert lazy.tas.chunks is not None
    with dask.config.set(scheduler="sync"):
        np.testing.assert_array_equal(lazy.tas.values, fine.tas.values)
    begin, end = (fine.time_bnds.isel(bnds=i).values for i in (0, 1))
    assert (end - begin == np.diff(begin[:2])[0]).all()
    assert (begin[::steps] + (end - begin)[0] * (steps // 2) == ds.time.values).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds, steps=st.integers(2, 25), room=st.sampled_from([0.0, 0.01, 0.3]), level=st.sampled_from([0.0, 280.0])
)
def test_the_map_of_a_day_keeps_the_order_of_its_steps(seed, steps, room, level):
    rng = generator(seed)
    shape = np.round(rng.normal(0, 1, (3 * steps, 5)), int(rng.integers(0, 4)))
    low = level + rng.normal(0, 5, (3, 5))
    high = low + rng.gamma(0.5, 4.0, low.shape)
    mean = low + (high - low) * rng.uniform(room, 1 - room, low.shape)
    out, flags = np.empty_like(shape), np.empty(low.shape, np.int8)
    fit_days(shape, mean, low, high, np.nan, 1e-15, out, flags)
    values, order = out.reshape(3, steps, 5), shape.reshape(3, steps, 5)
    np.testing.assert_allclose(values.mean(axis=1), mean, rtol=1e-13, atol=1e-13)
    assert (values >= low[:, None]).all()
    assert (values <= high[:, None]).all()
    place = (mean - low) / (high - low) * steps
    has_room = (place >= 1) & (place <= steps - 1)
    assert (flags[(place > 1 + 1e-9) & (place < steps - 1 - 1e-9)] == EXACT).all()
    assert (flags[(place < 1 - 1e-9) | (place > steps - 1 + 1e-9)] == MISSED).all()
    np.testing.assert_array_equal(values.min(axis=1)[has_room], low[has_room])
    np.testing.assert_array_equal(values.max(axis=1)[has_room], high[has_room])
    # The extreme that is nearer to the mean is attained in any case.
    nearer = np.where(place < steps / 2, values.min(axis=1) - low, values.max(axis=1) - high)
    assert steps == 2 or (abs(nearer) <= 1e-12 * (1 + abs(high))).all()
    for day in range(3):
        for column in range(5):
            by_shape = values[day, np.argsort(order[day, :, column], kind="stable"), column]
            jumps = np.diff(np.sort(order[day, :, column])) > 0
            assert (np.diff(by_shape)[jumps] >= -1e-12 * (1 + abs(level))).all()


EMPTY = np.empty((0, 4))


@pytest.mark.parametrize(
    "given_names", [("mean",), ("low",), ("high",), ("mean", "low"), ("mean", "high"), ("low", "high")]
)
@pytest.mark.parametrize("flat", [False, True])
def test_fewer_conditions_are_exact(given_names, flat):
    rng = generator(1)
    shape = rng.normal(0, 1, (2 * 24, 4)) * (not flat)
    conditions = {"low": rng.normal(0, 1, (2, 4))}
    conditions["mean"] = conditions["low"] + rng.uniform(0.5, 1, (2, 4))
    conditions["high"] = conditions["mean"] + rng.uniform(0.5, 1, (2, 4))
    out, flags = np.empty_like(shape), np.empty((2, 4), np.int8)
    conditioned = (conditions[n] if n in given_names else EMPTY for n in ("mean", "low", "high"))
    fit_days(shape, *conditioned, np.nan, 1e-15, out, flags)
    assert (flags == EXACT).all()
    values = out.reshape(2, 24, 4)
    for name, function in {"mean": np.mean, "low": np.min, "high": np.max}.items():
        if name in given_names:
            np.testing.assert_allclose(function(values, axis=1), conditions[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("has_high", [False, True])
def test_a_lower_limit_need_not_be_attained(has_high):
    rng = generator(2)
    shape = rng.gamma(2.0, 1.0, (2 * 24, 4))
    mean = rng.gamma(0.5, 1.0, (2, 4))
    mean[0, 0] = 0.0
    high = mean * rng.uniform(1, 20, mean.shape) if has_high else EMPTY
    out, flags = np.empty_like(shape), np.empty(mean.shape, np.int8)
    fit_days(shape, mean, EMPTY, high, 0.0, 1e-15, out, flags)
    values = out.reshape(2, 24, 4)
    assert (flags == EXACT).all()
    assert (values >= 0).all()
    np.testing.assert_allclose(values.mean(axis=1), mean, rtol=1e-13, atol=0)
    if has_high:
        np.testing.assert_allclose(values.max(axis=1), high, rtol=1e-14)
    else:
        # In proportion to the shape.
        ratio = values / shape.reshape(values.shape)
        np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones((1, 24, 1)), rtol=1e-12)


def test_means_outside_of_their_limits_win_and_are_counted_and_located():
    ds = daily(3, room=0.2)
    ds.tas[4, 1, 2] = ds.tasmax[4, 1, 2] + 1
    ds.tas[6, 0, 0] = ds.tasmin[6, 0, 0] - 1
    with pytest.warns(
        UserWarning, match=r"tas: the mean is below the minimum .* on 2 days .* 2000-03-01 at 5 N, 180 E"
    ):
        fine = downscale.hourly(ds)
    values = by_day(fine.tas, 24)
    np.testing.assert_allclose(values.mean(axis=1), ds.tas.values, rtol=1e-6)
    assert (values[4, :, 1, 2] == ds.tas.values[4, 1, 2]).all()
    with pytest.warns(UserWarning, match="the mean is below the minimum"):
        downscale.hourly(ds.chunk(time=3)).tas.compute(scheduler="sync")


def test_extremes_without_room_are_counted():
    ds = daily(4, room=0.2)
    ds.tasmax[2:4, 0, 1] = 2000.0
    with pytest.warns(UserWarning, match="no room for the minimum or the maximum on 2 days of cells"):
        fine = downscale.hourly(ds)
    values = by_day(fine.tas, 24)
    np.testing.assert_allclose(values.mean(axis=1), ds.tas.values, rtol=1e-6)
    np.testing.assert_array_equal(values.min(axis=1), ds.tasmin.values)
    assert (values <= ds.tasmax.values[:, None]).all()


def test_nothing_is_interpolated_across_a_gap():
    whole, gap = daily(5, 20, room=0.2), daily(5, 20, room=0.2, gap=1)
    fine = downscale.hourly(gap).tas
    assert fine.sizes["time"] == 480
    first, second = (downscale.hourly(gap.isel(time=part)).tas.values for part in (slice(10), slice(10, None)))
    np.testing.assert_array_equal(fine.values, np.concatenate([first, second]))
    assert not (fine.values == downscale.hourly(whole).tas.values).all()
    # A missing day is a gap, too.
    missing = whole.copy(deep=True)
    for name in METHODS:
        missing[name][10] = np.nan
    fine = downscale.hourly(missing).tas
    assert np.isnan(fine.values[240:264]).all()
    np.testing.assert_array_equal(fine.values[:240], first)


@pytest.mark.parametrize("names", [["tas"], ["tasmin"], ["tas", "tasmax"], ["tas", "tasmin"], ["tasmin", "tasmax"]])
def test_any_of_the_three_may_be_absent(names):
    ds = daily(6, room=0.2)[names]
    fine = downscale.hourly(ds)
    assert list(fine.data_vars) == ["tas"]
    assert fine.tas.attrs["cell_methods"] == "time: mean"
    values = by_day(fine.tas, 24)
    for name in names:
        function = {"tas": np.mean, "tasmin": np.min, "tasmax": np.max}[name]
        np.testing.assert_allclose(function(values, axis=1), ds[name].values, rtol=1e-6)


def test_names_attributes_and_coordinates():
    ds = daily(7, room=0.2, calendar="360_day").assign(orog=(("lat", "lon"), np.zeros((3, 4))))
    ds.attrs = {"frequency": "day", "title": "a record"}
    ds.tas.attrs |= {"cell_methods": "area: time: mean (interval: 1 hour)", "long_name": "Near-Surface Air Temperature"}
    ds = ds.assign_coords(height=2.0).rename(tas="t2m", tasmin="mn2t", tasmax="mx2t")
    fine = ds.downscale.hourly("3h")
    assert set(fine.variables) == {"t2m", "orog", "time", "time_bnds", "lat", "lon", "height"}
    assert fine.t2m.attrs["cell_methods"] == "area: mean time: mean"
    assert fine.attrs["frequency"] == "3hr"
    assert fine.attrs["history"].splitlines()[0].endswith("9 days to steps of 3 h, t2m from t2m, mn2t, mx2t")
    assert fine.time.values[0].isoformat() == "2000-02-26T01:30:00"
    assert fine.time.attrs["bounds"] == "time_bnds"
    assert fine.time.values[0].calendar == "360_day"


def test_days_follow_their_bounds():
    ds = daily(8, 4)
    begin = ds.time.values - (ds.time.values[1] - ds.time.values[0]) * 3 // 4
    pairs = np.stack([begin, begin + (begin[1] - begin[0])], axis=1)
    ds = ds.assign_coords(time_bnds=(("time", "bnds"), pairs))
    ds.time.attrs["bounds"] = "time_bnds"
    fine = downscale.hourly(ds, "6h")
    assert fine.time_bnds.values[0, 0].hour == 18
    with pytest.raises(GridError, match="bounds 'time_bnds', received none and stamps that are not at noon"):
        downscale.hourly(ds.drop_vars("time_bnds").assign_coords(time=ds.time.copy(data=begin)))
    assert_exact(fine.tas, ds, 4)


def test_a_series_and_a_single_array():
    ds = daily(9, 12, room=0.2).isel(lat=1, lon=2)
    fine = downscale.hourly(ds)
    assert fine.tas.dims == ("time",)
    assert_exact(fine.tas, ds, 24)
    alone = downscale.hourly(ds.tas)
    assert isinstance(alone, xr.DataArray)
    np.testing.assert_allclose(by_day(alone, 24).mean(axis=1), ds.tas.values, rtol=1e-6)


def test_units_of_extremes_are_converted():
    ds = daily(10, dtype="float64", room=0.2)
    other = ds.assign(tasmax=(ds.tasmax - 273.15).assign_attrs({**ds.tasmax.attrs, "units": "degC"}))
    np.testing.assert_allclose(downscale.hourly(other).tas.values, downscale.hourly(ds).tas.values, rtol=1e-12)


@pytest.mark.parametrize("step", ["5h", "D", 24, 0, -1, "x", "1.5", True, None, "0.1min", float("nan")])
def test_steps_must_divide_a_day(step):
    with pytest.raises(OptionError, match="expected step to divide a day"):
        downscale.hourly(daily(), step)


def test_bad_input_is_refused():
    ds = daily()
    with pytest.raises(GridError, match="periods of one day, received 6 hours"):
        downscale.hourly(downscale.hourly(ds, "6h"))
    with pytest.raises(GridError, match="days in order"):
        downscale.hourly(ds.isel(time=[1, 0]))
    with pytest.raises(GridError, match="time axis, received none"):
        downscale.hourly(ds.isel(time=0, drop=True))
    with pytest.raises(InputError, match=r"daily variable of temperature.*'x'"):
        downscale.hourly(ds[["tas"]].rename(tas="x").assign(x=lambda d: d.x.assign_attrs(standard_name="sea_ice_area")))
    with pytest.raises(OptionError, match=r"data_vars among 'tas', .*received 'pr'"):
        downscale.hourly(ds, data_vars="pr")
    with pytest.raises(GridError, match="'tasmin' with the dimensions"):
        downscale.hourly(ds.assign(tasmin=ds.tasmin.isel(lat=0, drop=True)))
    assert issubclass(GridError, DownscaleError)
    assert CROSSED != MISSED
