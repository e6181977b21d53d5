"""Hours in space and time: maps of days first, then hours, with exact cell means and days; hours as a target."""

from __future__ import annotations

import warnings

import dask
import numpy as np
import pytest
import xarray as xr
from sample_fields import assert_same, untouched
from test_hourly import METHODS, assert_exact, by_day, daily

import downscale

BOUNDS = {"tasmin": (None, "tas"), "tasmax": ("tas", None)}


def with_bounds(ds: xr.Dataset) -> xr.Dataset:
    """The same days with bounds."""
    half = (ds.time.values[1] - ds.time.values[0]) / 2
    pairs = np.stack([ds.time.values - half, ds.time.values + half], axis=1)
    ds = ds.assign_coords(time_bnds=(("time", "bnds"), pairs))
    ds.time.attrs["bounds"] = "time_bnds"
    return ds


def fine_days_and_hours(ds: xr.Dataset, factor: int, **options: object) -> tuple[xr.Dataset, xr.Dataset]:
    with warnings.catch_warnings():
        # Fine days whose mean is close to an extreme.
        warnings.simplefilter("ignore", UserWarning)
        days = ds.downscale(factor, **options)
        return days, days.downscale.hourly()


@pytest.mark.parametrize("options", [{"bounds": BOUNDS}, {"orderings": "auto"}], ids=["bounds", "orderings"])
@pytest.mark.parametrize("units", ["K", "degC"])
def test_maps_first_then_hours_have_exact_cells_and_days(options, units):
    ds = daily(11, 7, (4, 6), units=units, calendar="noleap")
    before = untouched(ds)
    days, hours = fine_days_and_hours(ds, 2, **options)
    assert_same(ds, before)
    # The fine days are in order, and conserve their cells.
    assert (days.tasmin <= days.tas).all()
    assert (days.tas <= days.tasmax).all()
    assert downscale.check_conservation(ds, days).passed
    # The hours have the fine days.
    report = downscale.check_days(days, hours)
    assert report.passed
    assert report["tas"].crossed == 0
    # So the mean of all hours of a day over a coarse cell is the coarse daily mean.
    mean = days[["tas"]].copy(data={"tas": by_day(hours.tas, 24).mean(axis=1).astype("f8")})
    cells = downscale.check_conservation(ds[["tas"]], mean)
    assert cells.passed
    assert cells["tas"].max_relative_error <= 1e-6
    # No hour is beyond the extremes of its own cell, nor is one that is attainable missed.
    values = by_day(hours.tas, 24)
    assert (values >= days.tasmin.values[:, None]).all()
    assert (values <= days.tasmax.values[:, None]).all()


@pytest.mark.parametrize("chunks", [{"time": 2}, {"time": 3, "lat": 1, "lon": 2}])
def test_lazy_maps_and_hours_have_the_same_bits(chunks):
    ds = daily(12, 8, (4, 6))
    _, eager = fine_days_and_hours(ds, 2, bounds=BOUNDS)
    _, lazy = fine_days_and_hours(ds.chunk(chunks), 2, bounds=BOUNDS)
    assert lazy.tas.chunks is not None
    with dask.config.set(scheduler="sync"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        np.testing.assert_array_equal(lazy.tas.values, eager.tas.values)


@pytest.mark.parametrize("step", ["h", "3h", "30min"])
def test_a_target_of_hours_keeps_daily_extremes(step):
    ds = with_bounds(daily(13, 6))
    fine = ds.downscale(target_grid={"time": step})
    assert list(fine.data_vars) == ["tas"]
    assert_exact(fine.tas, ds, fine.sizes["time"] // 6)
    xr.testing.assert_identical(fine.tas, downscale.hourly(ds, step).tas)
    assert fine.attrs["history"].count("tas from tas") == 1
    plan = downscale.plan(ds, target_grid={"time": step})
    assert any("tas from tas, tasmin, tasmax" in note for note in plan.notes)
    assert "kept as is" not in str(plan)


def test_other_variables_follow_the_kernel_along_time():
    ds = with_bounds(daily(14, 6))
    pressure = ds.tas.assign_attrs(standard_name="surface_air_pressure", units="Pa", cell_methods="time: mean")
    both = ds.assign(ps=pressure, orog=(("lat", "lon"), np.ones((3, 4), "f4")))
    fine = both.downscale(target_grid={"time": "3h"})
    assert set(fine.data_vars) == {"ps", "orog", "tas"}
    xr.testing.assert_identical(fine.tas, downscale.hourly(ds, "3h").tas)
    assert downscale.check_conservation(both[["ps"]].assign_coords(both.coords), fine[["ps"]]).passed
    alone = both.drop_vars(list(METHODS)).downscale(target_grid={"time": "3h"})
    np.testing.assert_array_equal(fine.ps.values, alone.ps.values)
    chosen = both.downscale(target_grid={"time": "3h"}, data_vars=["ps", "tasmin", "tasmax"])
    np.testing.assert_allclose(by_day(chosen.tas, 8).min(axis=1), ds.tasmin.values, rtol=1e-6)


def test_maps_may_follow_hours_in_one_request():
    ds = with_bounds(daily(15, 4, (4, 6)))
    fine = ds.downscale({"lat": 2, "lon": 2}, target_grid={"time": "6h"})
    assert fine.tas.sizes == {"time": 16, "lat": 8, "lon": 12}
    hours = downscale.hourly(ds, "6h")
    assert downscale.check_conservation(hours, fine).passed


@pytest.mark.parametrize(
    "options", [{"method": "conservative"}, {"bounds": {"tasmin": (None, "tas")}}, {"data_vars": ["tas"]}]
)
def test_other_requests_along_time_are_as_before(options):
    ds = with_bounds(daily(16, 5))
    fine = ds.downscale(target_grid={"time": "6h"}, **options)
    assert set(fine.data_vars) == set(options.get("data_vars", METHODS))
    parts = ds.downscale({"time": 4}, **options)
    np.testing.assert_allclose(fine.tas.values, parts.tas.values, rtol=1e-6)
