"""Cells of time: periods are what bounds or unmistakable stamps say; calendars are respected and never changed."""

from __future__ import annotations

from datetime import timedelta

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st

from downscale.cf.axes import new_axis_coordinates, read_axis, target_axis
from downscale.cf.dates import Clock, natural_edges
from downscale.errors import GridError, OptionError
from downscale.grid.subcells import Subcells

DAY = 86400.0
CALENDARS = ("noleap", "all_leap", "360_day", "standard", "proleptic_gregorian", "julian")
MONTHS = {"noleap": 59, "all_leap": 60, "360_day": 60, "standard": 60, "proleptic_gregorian": 60, "julian": 60}


def stamps(start, periods, freq, calendar=None):
    """Dates of a calendar, NumPy's where none is named."""
    if calendar is None:
        return pd.date_range(start, periods=periods, freq=freq).values
    return xr.date_range(start, periods=periods, freq=freq, calendar=calendar, use_cftime=True).values


def on_times(times, bounds=None, methods=None):
    """A field that counts its steps, on these times."""
    attrs = {"cell_methods": methods} if methods else {}
    ds = xr.Dataset({"x": ("time", np.arange(len(times), dtype="f8"), attrs)}, {"time": times})
    if bounds is not None:
        ds = ds.assign_coords(time_bnds=(("time", "bnds"), bounds))
        ds["time"].attrs["bounds"] = "time_bnds"
    return ds


def pairs(edges):
    return np.stack([edges[:-1], edges[1:]], axis=1)


@given(st.sampled_from(CALENDARS), st.integers(-(10**12), 10**12), st.integers(1700, 2300))
def test_dates_and_seconds_are_inverse_in_every_calendar(calendar, micro, year):
    clock = Clock(cftime.datetime(year, 2, 28, 18, calendar=calendar))
    seconds = np.array([micro / 1e6, 0.0])
    np.testing.assert_allclose(clock.seconds(clock.dates(seconds)), seconds, rtol=0, atol=1e-6)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_resolution_of_dates_is_kept_and_whole_seconds_are_exact(unit):
    dates = stamps("1950-01-01", 1200, "MS").astype(f"M8[{unit}]")
    clock = Clock.of(dates)
    seconds = clock.seconds(dates)
    assert (seconds % DAY == 0).all()
    back = clock.dates(seconds)
    assert back.dtype == dates.dtype
    assert (back == dates).all()


@pytest.mark.parametrize("calendar", [None, *CALENDARS])
@pytest.mark.parametrize("day", ["01", "15", "28"])
def test_monthly_stamps_stand_for_the_months_of_their_calendar(calendar, day):
    later = np.timedelta64(int(day) - 1, "D") if calendar is None else timedelta(days=int(day) - 1)
    times = stamps("1999-12-01", 15, "MS", calendar) + later
    axis = read_axis(on_times(times), "time").axis
    lengths = axis.measure / DAY
    year = {"360_day": 360, "noleap": 365}.get(calendar or "", 366)  # 2000 is a leap year in all others
    assert lengths[1:13].sum() == year
    assert lengths[2] == {"360_day": 30, "noleap": 28}.get(calendar or "", 29)
    assert np.array_equal(axis.edges[:3], np.array([0, lengths[0], lengths[0] + lengths[1]]) * DAY + axis.edges[0])


def test_yearly_stamps_stand_for_their_years():
    line = read_axis(on_times(stamps("1999-07-02", 3, pd.DateOffset(years=1))), "time")
    assert (line.axis.measure / DAY).tolist() == [365, 366, 365]


@pytest.mark.parametrize(
    ("start", "freq", "first", "days"),
    [
        ("2001-01-01T12", "D", "2001-01-01", 1.0),
        ("2001-01-01T03", "6h", "2001-01-01", 0.25),
        ("2001-01-01T00:30", "h", "2001-01-01", 1 / 24),
        ("2001-01-03T12", "5D", "2001-01-01", 5.0),
    ],
)
@pytest.mark.parametrize("calendar", [None, "noleap"])
def test_stamps_in_the_middle_of_natural_periods_need_no_bounds(start, freq, first, days, calendar):
    times = stamps(start, 4, freq, calendar)
    line = read_axis(on_times(times), "time")
    assert line.axis.measure / DAY == pytest.approx(days, rel=1e-12)
    assert str(line.clock.dates(line.axis.edges[:1])[0]).startswith(first)


@pytest.mark.parametrize(("start", "freq"), [("2001-01-01", "D"), ("2001-01-01", "6h"), ("2001-01-01T01", "7h")])
def test_ambiguous_stamps_ask_for_bounds(start, freq):
    ds = on_times(stamps(start, 5, freq))
    with pytest.raises(GridError, match=r"coordinate 'time': expected bounds of the time axis, .* add time_bnds"):
        read_axis(ds, "time")


def test_daily_means_stamped_at_midnight_are_those_of_the_day_if_cell_methods_say_so():
    ds = on_times(stamps("2001-01-01", 5, "D"), methods="time: mean (interval: 1 hour)")
    line = read_axis(ds, "time")
    assert line.clock.dates(line.axis.edges)[0] == np.datetime64("2001-01-01")
    assert (line.axis.measure == DAY).all()
    with pytest.raises(GridError, match="expected bounds of the time axis"):
        read_axis(on_times(ds.time.values, methods="time: point"), "time")


def test_one_stamp_or_irregular_stamps_have_no_natural_period():
    times = stamps("2001-01-01T12", 5, "D")
    for chosen in (times[:1], times[[0, 1, 3]], times[::-1], times[[0, 0, 1]]):
        assert natural_edges(chosen, Clock.of(times), True) is None


def test_bounds_win_over_stamps():
    times = stamps("2001-01-01", 5, "MS")
    edges = stamps("2001-01-11", 6, "10D")
    axis = read_axis(on_times(edges[:-1] + np.timedelta64(5, "D"), pairs(edges)), "time").axis
    assert (axis.measure == 10 * DAY).all()
    with pytest.raises(GridError, match=r"expected bounds around their dates, received .* for 2001-01-01"):
        read_axis(on_times(times, pairs(edges)), "time")


def test_a_real_calendar_of_360_days_with_bounds():
    with xr.open_dataset(shared_data("nasty_ocean_tos_ipsl_360day_masked.nc"), decode_coords="all") as ds:
        line = read_axis(ds, "time")
    assert line.clock.calendar == "360_day"
    assert (line.axis.measure == 30 * DAY).all()


def test_gaps_overlaps_and_disorder_are_named_by_date():
    edges = stamps("2001-01-01", 7, "MS")
    whole = on_times(edges[:-1], pairs(edges))
    words = r"adjoining periods, received 2001-02-01.* to 2001-03-01.* before 2001-04-01.*; fill the gap"
    with pytest.raises(GridError, match=words):
        read_axis(whole.isel(time=[0, 1, 3, 4]), "time")
    with pytest.raises(GridError, match=r"adjoining periods, .*; sort by time"):
        read_axis(whole.isel(time=[0, 2, 1]), "time")
    over = pairs(edges).copy()
    over[2, 1] += np.timedelta64(3, "D")
    with pytest.raises(GridError, match=r"adjoining periods, .*; repair the bounds"):
        read_axis(on_times(edges[:-1], over), "time")
    with pytest.raises(GridError, match="expected bounds in order, received 2001-02-01"):
        read_axis(on_times(edges[:-1], pairs(edges)[:, ::-1]), "time")


def test_bounds_that_miss_seconds_by_rounding_still_adjoin():
    edges = stamps("2001-01-01", 7, "D")
    loose = pairs(edges) + np.array([0, 3000]).astype("m8[ns]")
    axis = read_axis(on_times(edges[:-1], loose), "time").axis
    assert (axis.edges % DAY == 0).all()


def test_undecoded_times_and_climatologies_are_refused_with_a_remedy():
    raw = xr.Dataset({"x": ("time", [1.0])}, {"time": ("time", [0.0], {"units": "months since 1960-01-01"})})
    with pytest.raises(GridError, match=r"expected decoded dates, received numbers in 'months since .*decode_cf"):
        read_axis(raw, "time")
    ds = on_times(stamps("2001-01-01", 12, "MS"))
    ds["time"].attrs["climatology"] = "climatology_bnds"
    with pytest.raises(GridError, match="received the climatology 'climatology_bnds'; give the months of one year"):
        read_axis(ds, "time")
    numbers = on_times(stamps("2001-01-01", 3, "MS"), np.zeros((3, 2)))
    with pytest.raises(GridError, match="expected dates as bounds, received float64"):
        read_axis(numbers, "time")
    missing = on_times(np.array(["2001-01-01", "NaT"], dtype="M8[ns]"))
    with pytest.raises(GridError, match="expected dates, received NaT"):
        read_axis(missing, "time")


@pytest.mark.parametrize("calendar", [None, *CALENDARS])
def test_days_of_months_are_as_many_as_the_calendar_has(calendar):
    line = read_axis(on_times(stamps("2000-01-01", 2, "MS", calendar)), "time")
    days = target_axis(line, "D")
    assert days.axis.size == MONTHS.get(calendar or "standard")
    parts = Subcells.between(line.axis, days.axis)
    assert parts.count == (30 if calendar == "360_day" else 31)
    assert (parts.covered_fraction == 1).all()


@pytest.mark.parametrize(
    ("frequency", "first", "last", "cells"),
    [
        ("MS", "1999-12-01", "2001-02-01", 14),
        ("ME", "1999-12-01", "2001-02-01", 14),
        ("YS", "1999-01-01", "2002-01-01", 3),
        ("QS-DEC", "1999-12-01", "2001-03-01", 5),
        ("6h", "1999-12-10", "2001-01-20", 4 * 407),
        ("100D", "1999-12-10", "2001-01-23", 4 + 1),
    ],
)
@pytest.mark.parametrize("calendar", [None, "standard"])
def test_a_frequency_covers_the_source_by_whole_periods(frequency, first, last, cells, calendar):
    times = stamps("1999-12-10T12", 407, "D", calendar)
    line = read_axis(on_times(times), "time")
    axis = target_axis(line, frequency).axis
    begin, end = line.clock.dates(axis.edges[[0, -1]])
    assert (str(begin)[:10], axis.size) == (first, cells)
    if frequency != "100D":
        assert str(end)[:10] == last
    assert axis.edges[0] <= line.axis.edges[0] < axis.edges[1]
    assert axis.edges[-2] < line.axis.edges[-1] <= axis.edges[-1]


def test_unknown_frequencies_and_targets_that_do_not_fit():
    line = read_axis(on_times(stamps("2001-01-01", 3, "MS")), "time")
    with pytest.raises(OptionError, match=r"expected a frequency such as '6h', 'D', .* received 'fortnight'"):
        target_axis(line, "fortnight")
    with pytest.raises(GridError, match=r"of n coordinates or of bounds \(n, 2\), received \(2, 3\)"):
        target_axis(line, np.zeros((2, 3)))
    layers = xr.Dataset(coords={"lev": ("lev", [1.0], {"bounds": "b"}), "b": (("lev", "bnds"), [[0.0, 2.0]])})
    with pytest.raises(GridError, match="expected a target with an axis 'time', received 'lev'"):
        target_axis(line, layers)
    with pytest.raises(GridError, match="that is a time, received an axis of numbers"):
        target_axis(line, np.array([[0.0, 1.0], [1.0, 2.0]]))


@pytest.mark.parametrize("kind", ["index", "values", "coordinate", "dataset", "bounds"])
def test_every_form_of_a_target_means_the_same_cells_and_keeps_its_labels(kind):
    line = read_axis(on_times(stamps("2001-01-01", 3, "MS")), "time")
    days = pd.date_range("2001-01-01", periods=90, freq="D")
    ds = on_times(days.values)
    edges = pd.date_range("2001-01-01", periods=91, freq="D").values
    forms = {"index": days, "values": days.values, "coordinate": ds.time, "dataset": ds, "bounds": pairs(edges)}
    aim = target_axis(line, forms[kind])
    assert np.array_equal(aim.axis.edges, target_axis(line, "D").axis.edges)
    made = new_axis_coordinates(on_times(stamps("2001-01-01", 3, "MS")), line, aim)
    half = np.timedelta64(12 if kind == "bounds" else 0, "h")
    assert (made["time"].values == days.values + half).all()
    assert (made["time_bnds"].values == pairs(edges)).all()


def test_calendars_are_never_changed():
    line = read_axis(on_times(stamps("2001-01-01", 3, "MS", "noleap")), "time")
    words = r"in the calendar 'noleap' of the data, received 'proleptic_gregorian'; .*ds\.convert_calendar"
    with pytest.raises(GridError, match=words):
        target_axis(line, pd.date_range("2001-01-01", periods=5, freq="D"))
    with pytest.raises(GridError, match="in the calendar 'noleap' of the data, received '360_day'"):
        target_axis(line, stamps("2001-01-01", 5, "D", "360_day"))


@pytest.mark.parametrize(
    ("mine", "other"), [(None, "standard"), ("standard", None), ("proleptic_gregorian", "standard")]
)
def test_calendars_that_agree_on_every_date_are_one(mine, other):
    line = read_axis(on_times(stamps("2000-01-01", 3, "MS", mine)), "time")
    aim = target_axis(line, stamps("2000-02-10", 5, "D", other))
    assert np.array_equal(aim.axis.edges, (40 + np.arange(6)) * DAY)
    new = new_axis_coordinates(on_times(stamps("2000-01-01", 3, "MS", mine)), line, aim)["time"]
    assert type(new.values[0]) is type(stamps("2000-01-01", 1, "D", mine)[0])
    early = read_axis(on_times(stamps("1500-01-01", 3, "MS", "standard")), "time")
    with pytest.raises(GridError, match="in the calendar 'standard' of the data, received 'proleptic_gregorian'"):
        target_axis(early, stamps("1500-01-01", 5, "D", "proleptic_gregorian"))


@pytest.mark.parametrize("calendar", [None, "noleap"])
def test_new_times_are_of_the_old_type_in_the_middle_of_their_bounds(calendar):
    ds = on_times(stamps("2001-01-01", 3, "MS", calendar))
    ds["time"].attrs.update(standard_name="time", long_name="when", axis="T", actual_range=[0, 1])
    ds["time"].encoding.update(units="months since 1960-01-01", calendar=calendar or "standard", dtype="int32")
    line = read_axis(ds, "time")
    made = new_axis_coordinates(ds, line, line.refine(2))
    time, bounds = made["time"], made["time_bnds"]
    assert type(time.values[0]) is type(ds.time.values[0])
    assert (time.values - bounds.values[:, 0] == bounds.values[:, 1] - time.values).all()
    assert (bounds.values[1:, 0] == bounds.values[:-1, 1]).all()
    assert time.attrs == {"standard_name": "time", "long_name": "when", "axis": "T", "bounds": "time_bnds"}
    counted = {"units": "days since 1960-01-01", "calendar": calendar or "standard", "dtype": np.dtype("f8")}
    assert time.encoding == counted
    assert bounds.encoding == time.encoding


def test_written_times_are_read_back(tmp_path):
    ds = on_times(stamps("2000-01-01", 3, "MS", "360_day"))
    ds["time"].encoding.update(units="days since 1990-01-01", dtype="int64")
    line = read_axis(ds, "time")
    made = xr.Dataset(coords=new_axis_coordinates(ds, line, line.refine(7)))
    made.to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc", decode_coords="all") as back:
        again = read_axis(back, "time")
    np.testing.assert_allclose(again.axis.edges, line.refine(7).axis.edges, rtol=0, atol=1e-3)
