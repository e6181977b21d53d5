"""The check of steps against days and the command that writes hours: what passes, what fails, and what is refused."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import xarray as xr
from command import command
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from strategies import calendars, generator, seeds
from test_hourly import METHODS, daily

import downscale
from downscale.errors import ConservationError, GridError, InputError


def quiet(ds: xr.Dataset, step: str = "h") -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return downscale.hourly(ds, step)


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds, room=st.sampled_from([0.0, 0.3]), missing=st.sampled_from([0.0, 0.2]), calendar=calendars,
    dtype=st.sampled_from(["float32", "float64"]), units=st.sampled_from(["K", "degC"]), gap=st.integers(0, 2),
)  # fmt: skip
def test_hours_pass_and_every_change_of_one_fails(seed, room, missing, calendar, dtype, units, gap):
    ds = daily(seed, 6, (2, 3), dtype=dtype, units=units, room=room, missing=missing, calendar=calendar, gap=gap)
    fine, rng = quiet(ds, "6h"), generator(seed)
    report = downscale.check_days(ds, fine)
    valid = np.isfinite(ds.tas.values)
    if not valid.any():
        assert not report.passed
        return
    assert report.passed, report
    assert report["tas"].days == valid.sum()
    low, mean, high = (ds[name].values.astype("f8") for name in ("tasmin", "tas", "tasmax"))
    lacking = np.minimum(mean - low, high - mean) < (high - low) / 4 * (1 - 1e-3)
    assert abs(report["tas"].unattainable - (lacking & valid).sum()) <= (room > 0)
    # One changed hour changes the mean.
    index = tuple(rng.permutation(np.argwhere(np.isfinite(fine.tas.values)))[0])
    wrong = fine.copy(deep=True)
    wrong.tas.values[index] += 0.5
    assert not downscale.check_days(ds, wrong).passed
    # Two changes that leave the mean, beyond the extremes.
    day = index[0] // 4
    hours = wrong.tas.values[4 * day : 4 * day + 4, index[1], index[2]] = fine.tas.values[
        4 * day : 4 * day + 4, index[1], index[2]
    ].copy()
    order = np.argsort(hours)
    wrong.tas.values[4 * day + order[[0, 3]], index[1], index[2]] += np.array([-2, 2], dtype)
    bad = downscale.check_days(ds, wrong, tolerance=1e-5)["tas"]
    assert bad.beyond == 1
    # A step that is missing.
    wrong.tas.values[index] = np.nan
    assert downscale.check_days(ds, wrong)["tas"].lost == 1


def test_extremes_that_are_not_attained_are_found():
    ds = daily(1, room=0.3)
    flat = downscale.hourly(ds[["tas"]])
    report = downscale.check_days(ds, flat)
    assert not report
    assert report["tas"].max_relative_error < 1e-6
    assert report["tas"].missed + report["tas"].beyond > 0
    assert "days that do not attain one" in report["tas"].fault
    with pytest.raises(ConservationError, match=r"tas: expected the daily extremes"):
        report.raise_if_failed()
    assert downscale.check_days(ds[["tas"]], flat)


def test_amounts_are_summed_and_units_converted():
    rng = generator(2)
    ds = daily(2).assign(pr=(("time", "lat", "lon"), rng.gamma(0.3, 5.0, (9, 3, 4)).astype("f4")))
    ds.pr.attrs = {"standard_name": "precipitation_amount", "units": "kg m-2", "cell_methods": "time: sum"}
    fine = quiet(ds)
    report = downscale.check_days(ds, fine)
    assert report.passed
    assert set(report.variables) == {"tas", "pr"}
    grams = fine.assign(pr=(fine.pr * 1e3).assign_attrs({**fine.pr.attrs, "units": "g m-2"}))
    assert downscale.check_days(ds, grams, tolerance=1e-5)["pr"].passed
    assert not downscale.check_days(ds, fine.assign(pr=(fine.pr * 1.01).assign_attrs(fine.pr.attrs)))["pr"].passed


def test_some_days_and_members():
    ds = daily(3)
    fine = downscale.hourly(ds)
    report = downscale.check_days(ds, fine.isel(time=slice(48, None)))
    assert report["tas"].absent == 2
    assert report.passed
    both = xr.concat([fine.tas, fine.tas], "member").to_dataset(name="tas")
    assert downscale.check_days(ds, both)["tas"].days == 2 * ds.tas.size
    assert downscale.check_days(ds, fine.rename(tas="t"))["t"].passed
    assert downscale.check_days(ds, fine.chunk(time=7))["tas"].passed


def test_axes_that_do_not_fit_are_refused():
    ds = daily(4)
    fine = downscale.hourly(ds)
    with pytest.raises(GridError, match="24 steps on each day, received 23"):
        downscale.check_days(ds, fine.isel(time=slice(1, None)))
    with pytest.raises(GridError, match="received none of its days"):
        downscale.check_days(ds.isel(time=slice(4)), fine.isel(time=slice(24 * 5, None)))
    with pytest.raises(GridError, match="on the cells of 'tas'"):
        downscale.check_days(ds, fine.isel(lat=slice(2)))
    with pytest.raises(InputError, match="steps of a daily variable among 'tas'"):
        downscale.check_days(ds, fine[["tas"]].rename(tas="x").assign(x=lambda d: d.x.assign_attrs(standard_name="a")))


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ds = daily(5, 20, room=0.3)
    ds.to_netcdf("day.nc")
    for name in METHODS:
        ds[[name]].to_netcdf(f"{name}_day.nc")
    return ds


def test_the_command_writes_hours_that_are_checked(files):
    plan = command("hourly", "day.nc", "hours.nc", "--dry-run")
    assert (plan.status, plan.out) == (0, "20 days to steps of 1 h, tas from tas, tasmin, tasmax\n")
    made = command("hourly", "*_day.nc", "hours.nc", "--step", "3h")
    assert made.status == 0, made.err
    assert "DaysReport: passed" in made.out
    assert "mean tas, minimum tasmin, maximum tasmax; 8 steps per day, 240 days of cells: yes" in made.out
    with xr.open_dataset("hours.nc") as written:
        np.testing.assert_array_equal(written.tas.values, downscale.hourly(files, "3h").tas.values)
        assert "cell conservation passed as written over days" in written.tas.attrs["conservation"]
    for daily_files in ("day.nc", "*_day.nc"):
        checked = command("check", daily_files, "hours.nc", "--time")
        assert checked.status == 0, checked.err
    facts = json.loads(command("check", "day.nc", "hours.nc", "--time", "--json").out)
    assert facts["variables"]["tas"]["days"] == 240
    with xr.open_dataset("hours.nc") as written:
        wrong = written.load()
    wrong.tas[100, 1, 2] += 1
    wrong.to_netcdf("wrong.nc")
    failed = command("check", "day.nc", "wrong.nc", "--time")
    assert failed.status == 1
    assert "DaysReport: FAILED" in failed.out
    facts = json.loads(command("hourly", "day.nc", "again.nc", "--json", "--climatology", "hours.nc").out)
    assert facts["passed"]


def test_bad_requests_leave_nothing_behind(files):
    refused("expected --step to divide a day", "hourly", "day.nc", "x.nc", "--step", "5h")
    refused("day.nc", "hourly", "day.nc", "day.nc", "--overwrite")
    refused("missing.nc", "hourly", "missing.nc", "x.nc")
    refused("expected --vars among", "hourly", "day.nc", "x.nc", "--vars", "pr")
    refused("expected --members to be", "hourly", "day.nc", "x.nc", "--members", "0")
    refused("expected no --mask with --time", "check", "day.nc", "day.nc", "--time", "--mask", "day.nc")
    refused("expected no --law with --time", "check", "day.nc", "day.nc", "--time", "--law", "total")
