"""The sun: geometry in any calendar, integrals over steps between sunrise and sunset, and pvlib as a referee."""

from __future__ import annotations

import cftime
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from downscale.errors import ShapeError
from downscale.fields.sun import (
    declination,
    equation_of_time,
    hour_angles,
    mean_cosine_zenith,
    seconds_of_day,
    year_angles,
)

CALENDARS = ("standard", "noleap", "all_leap", "360_day", "julian")


def steps_of(first, count, minutes):
    begin = np.datetime64(first, "m") + minutes * np.arange(count)
    return begin, begin + np.timedelta64(minutes, "m")


@given(st.integers(0, 364), st.sampled_from([5, 30, 60, 180, 720, 1440]), st.floats(-90, 90), st.floats(-400, 400))
def test_means_are_those_of_many_samples(day, minutes, latitude, longitude):
    begin, end = steps_of(np.datetime64("2001-01-01") + day, 1440 // minutes, minutes)
    mean = mean_cosine_zenith(begin, end, [latitude], [longitude])[:, 0, 0]
    count = 2000
    fractions = (np.arange(count) + 0.5) / count
    angles = year_angles(begin + (end - begin) // 2)
    hours = hour_angles(angles, seconds_of_day(begin))[:, None] + 2 * np.pi * minutes / 1440 * fractions
    lat, slope = np.deg2rad(latitude), declination(angles)[:, None]
    cosine = np.sin(lat) * np.sin(slope) + np.cos(lat) * np.cos(slope) * np.cos(hours + np.deg2rad(longitude))
    np.testing.assert_allclose(mean, np.maximum(cosine, 0).mean(axis=1), atol=2e-3 * minutes / 1440 + 1e-6)


@given(st.integers(0, 364), st.sampled_from([30, 60, 180, 720]), st.floats(-90, 90), st.floats(-180, 180))
def test_steps_add_up_to_the_day(day, minutes, latitude, longitude):
    first = np.datetime64("2001-01-01") + day
    whole = mean_cosine_zenith(*steps_of(first, 1, 1440), [latitude], [longitude])
    parts = mean_cosine_zenith(*steps_of(first, 1440 // minutes, minutes), [latitude], [longitude])
    assert (parts >= 0).all()
    # The sun moves by less than 0.41 degrees per day, its time by 30 seconds.
    np.testing.assert_allclose(parts.mean(axis=0), whole[0], atol=4e-3)


def test_noon_is_highest_and_night_is_dark():
    begin, end = steps_of("2001-06-21", 24, 60)
    mean = mean_cosine_zenith(begin, end, [52.0, -75.0, 80.0], [0.0, 90.0, 180.0])
    assert mean[:, 0].argmax(axis=0).tolist() in ([11, 5, 23], [12, 6, 0])
    assert (mean[:2, 0, 0] == 0).all()
    assert (mean[:, 1] == 0).all()
    assert (mean[:, 2] > 0).all()


@pytest.mark.parametrize("calendar", CALENDARS)
def test_seasons_follow_the_calendar(calendar):
    months = [cftime.datetime(2001, month, 1, calendar=calendar) for month in range(1, 13)]
    slope = np.rad2deg(declination(year_angles(np.array(months))))
    assert abs(slope[6] - 23.1) < 0.6
    assert abs(slope[0] + 23.05) < 0.2
    begin = np.array([cftime.datetime(2001, 2, 28, hour, calendar=calendar) for hour in range(23)])
    end = np.array([cftime.datetime(2001, 2, 28, hour + 1, calendar=calendar) for hour in range(23)])
    mean = mean_cosine_zenith(begin, end, [10.0], [20.0])
    expected = mean_cosine_zenith(*steps_of("2001-02-28", 23, 60), [10.0], [20.0])
    np.testing.assert_allclose(mean, expected, atol=0.02)


def test_dates_of_both_kinds_agree():
    stamps = np.array(["2001-03-04T05:06:07", "2004-12-31T23:59:59"], "M8[s]")
    dates = np.array([cftime.datetime(2001, 3, 4, 5, 6, 7, calendar="standard"),
                      cftime.datetime(2004, 12, 31, 23, 59, 59, calendar="standard")])  # fmt: skip
    np.testing.assert_allclose(year_angles(stamps), year_angles(dates), rtol=1e-12)
    np.testing.assert_allclose(seconds_of_day(stamps), seconds_of_day(dates))


def test_cells_of_a_mesh_are_those_of_the_grid():
    begin, end = steps_of("2001-10-10", 24, 60)
    lat, lon = np.array([-90.0, -30.0, 0.0, 66.0, 90.0]), np.array([-170.0, 0.0, 10.0, 359.0])
    grid = mean_cosine_zenith(begin, end, lat, lon)
    assert np.array_equal(mean_cosine_zenith(begin, end, *np.meshgrid(lat, lon, indexing="ij")), grid)
    assert np.array_equal(mean_cosine_zenith(begin[3:9], end[3:9], lat[1:3], lon[2:]), grid[3:9, 1:3, 2:])


def test_positions_of_other_shapes_are_refused():
    with pytest.raises(ShapeError, match="latitude and longitude"):
        mean_cosine_zenith(*steps_of("2001-01-01", 1, 60), np.zeros((2, 2)), np.zeros(3))


def test_pvlib_agrees():
    solarposition = pytest.importorskip("pvlib.solarposition", reason="pvlib, the referee, is not installed")
    pd = pytest.importorskip("pandas")
    days = np.arange(np.datetime64("2001-01-01"), np.datetime64("2002-01-01"))
    number = np.arange(1, 366)
    angles = year_angles(days)
    np.testing.assert_allclose(declination(angles), solarposition.declination_spencer71(number), atol=1e-12)
    minutes = equation_of_time(angles) / (2 * np.pi) * 1440
    np.testing.assert_allclose(minutes, solarposition.equation_of_time_spencer71(number), atol=0.02)
    # The exact algorithm, every minute of some days, averaged over hours.
    for day, latitude, longitude in (
        ("2001-03-20", 52.5, 13.4),
        ("2004-06-21", 70.0, -150.0),
        ("2003-12-01", -33.0, 151.0),
    ):
        times = pd.date_range(f"{day}T00:00:30", periods=1440, freq="min", tz="UTC")
        zenith = solarposition.get_solarposition(times, latitude, longitude)["zenith"].to_numpy()
        expected = np.maximum(np.cos(np.deg2rad(zenith)), 0).reshape(24, 60).mean(axis=1)
        mean = mean_cosine_zenith(*steps_of(day, 24, 60), [latitude], [longitude])[:, 0, 0]
        assert np.abs(mean - expected).max() < 5e-3
