"""Radiation, rain, wind and humidity within days: means exact, limits and orders met, the same bits in any chunks."""

from __future__ import annotations

import warnings

import cftime
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import downscale
from downscale.errors import GridError, InputError, OptionError

STANDARD = {
    "tas": ("air_temperature", "K"), "rsds": ("surface_downwelling_shortwave_flux_in_air", "W m-2"),
    "rsdsdiff": ("surface_diffuse_downwelling_shortwave_flux_in_air", "W m-2"),
    "rsdt": ("toa_incoming_shortwave_flux", "W m-2"), "pr": ("precipitation_flux", "kg m-2 s-1"),
    "prsn": ("snowfall_flux", "kg m-2 s-1"), "sfcWind": ("wind_speed", "m s-1"),
    "tdps": ("dew_point_temperature", "K"), "hurs": ("relative_humidity", "%"), "huss": ("specific_humidity", "1"),
}  # fmt: skip
DIMS = ("time", "lat", "lon")
CALENDARS = ("standard", "noleap", "360_day")


def drawn(seed=0, days=5, calendar="numpy", rows=3, columns=2, gap=False):
    """Daily fields of all variables in float32, in order, all of them possible."""
    rng, shape = np.random.default_rng(seed), (days, rows, columns)
    lat, lon = np.linspace(-50, 50, rows), np.linspace(5, 300, columns)
    tas = 283 + 4 * rng.standard_normal(shape)
    rsds, pr, wind = rng.uniform(0, 120, shape), 3e-5 * rng.exponential(1, shape), rng.gamma(3, 1, shape)
    pr *= rng.random(shape) < 0.6
    values = {
        "tas": tas, "tasmin": tas - rng.uniform(1, 5, shape), "tasmax": tas + rng.uniform(1, 5, shape),
        "rsds": rsds, "rsdsdiff": rsds * rng.random(shape), "rsdt": rsds + 20, "pr": pr, "prsn": pr * rng.random(shape),
        "sfcWind": wind, "sfcWindmax": wind * rng.uniform(1.3, 2, shape), "tdps": tas - rng.exponential(2, shape),
        "hurs": rng.uniform(10, 100, shape), "huss": rng.uniform(1e-4, 1e-2, shape),
    }  # fmt: skip
    if calendar == "numpy":
        dates = np.datetime64("2003-02-26", "ns") + np.arange(days) * np.timedelta64(1, "D")
    else:
        first = cftime.datetime(2003, 2, 26, calendar=calendar)
        dates = np.array([first + np.timedelta64(day, "D").item() for day in range(days)])
    ds = xr.Dataset(coords={"time": dates, "lat": lat, "lon": lon})
    ds["time"].encoding["units"] = "days since 1970-01-01"
    for name, field in values.items():
        kind = next((method for method in ("min", "max") if name.endswith(method)), "mean")
        standard, units = STANDARD[name.removesuffix("min").removesuffix("max")]
        method = {"min": "minimum", "max": "maximum"}.get(kind, kind)
        attrs = {"standard_name": standard, "units": units, "cell_methods": f"time: {method}"}
        ds[name] = (DIMS, field.astype("f4"), attrs)
    return ds.isel(time=[day for day in range(days) if day != 2]) if gap else ds


def by_day(field, ds):
    """The steps of each day of a field, shape (days, steps, rows, columns)."""
    values = field.transpose("time", ...).values.astype("f8")
    return values.reshape(ds.sizes["time"], -1, *values.shape[1:])


def quiet(ds, *options, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return downscale.hourly(ds, *options, **named)


@given(
    st.integers(0, 2**32), st.sampled_from(["numpy", *CALENDARS]), st.sampled_from(["h", "3h", "12h"]), st.booleans()
)
def test_means_are_exact_and_orders_met(seed, calendar, step, gap):
    ds = drawn(seed, calendar=calendar, gap=gap)
    fine = quiet(ds, step)
    for name in STANDARD:
        steps = by_day(fine[name], ds)
        assert fine[name].dtype == "f4"
        scale = np.abs(ds[name].values.astype("f8"))
        assert (np.abs(steps.mean(axis=1) - ds[name].values) <= 1e-6 * scale).all(), name
        if name not in ("tas", "tdps"):
            assert (steps >= 0).all(), name
    assert (fine["tdps"] <= fine["tas"]).all()
    assert (fine["prsn"] <= fine["pr"]).all()
    assert (fine["rsdsdiff"] <= fine["rsds"]).all()
    assert (fine["hurs"] <= 100).all()
    assert (by_day(fine["sfcWind"], ds).max(axis=1) <= ds["sfcWindmax"].values).all()


def test_wind_reaches_its_maximum():
    ds = drawn(3)[["sfcWind", "sfcWindmax"]]
    fine = downscale.hourly(ds)
    assert list(fine.data_vars) == ["sfcWind"] or set(fine.data_vars) - {"time_bnds"} == {"sfcWind"}
    assert np.array_equal(by_day(fine["sfcWind"], ds).max(axis=1), ds["sfcWindmax"].values)


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3))
def test_chunks_do_not_change_a_bit(seed, days, rows):
    ds = drawn(seed, days=8)
    whole = quiet(ds)
    parts = quiet(ds.chunk(time=days, lat=rows, lon=1))
    for name in STANDARD:
        assert parts[name].chunks is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert np.array_equal(parts[name].values, whole[name].values), name


def test_members_differ_and_each_conserves_days():
    ds = drawn(1)[["pr", "prsn", "tas"]]
    fine, again = quiet(ds, members=3, seed=5), quiet(ds.chunk(time=2), members=3, seed=5)
    assert fine["realization"].values.tolist() == [0, 1, 2]
    assert fine["pr"].sizes["realization"] == 3
    assert "realization" not in fine["tas"].dims
    assert np.array_equal(fine["pr"], again["pr"])
    assert (fine["prsn"] <= fine["pr"]).all()
    members = [by_day(fine["pr"].isel(realization=number), ds) for number in range(3)]
    for member in members:
        np.testing.assert_allclose(member.mean(axis=1), ds["pr"], rtol=1e-6)
    assert not np.array_equal(members[0], members[1])
    assert not np.array_equal(quiet(ds, seed=6)["pr"], quiet(ds, seed=5)["pr"])
    # The first member is that of a request without members.
    assert np.array_equal(quiet(ds, seed=5)["pr"], fine["pr"].isel(realization=0).transpose("time", "lat", "lon"))


def test_timing_of_dense_cells_is_shared_in_any_chunks():
    near = drawn(12, rows=40, columns=30)[["pr"]]
    near["pr"] = (near["pr"] * 0 + 1e-5).assign_attrs(near["pr"].attrs)
    near = near.assign_coords(lat=np.linspace(47, 50, 40), lon=np.linspace(-1, 1, 30))
    far = near.assign_coords(lat=np.linspace(-80, 80, 40), lon=np.linspace(0, 300, 30))
    hours = [by_day(quiet(ds)["pr"], ds) for ds in (near, far)]
    shared, alone = (np.corrcoef(one[:, :, 1:].ravel(), one[:, :, :-1].ravel())[0, 1] for one in hours)
    assert shared > 0.7
    assert abs(alone) < 0.1
    assert np.array_equal(quiet(near.chunk(time=2, lat=7, lon=11))["pr"], quiet(near)["pr"])
    layers = near.expand_dims(height=[2.0, 10.0], axis=1)
    both = quiet(layers.transpose("lat", "time", "height", "lon"))["pr"]
    one, other = (by_day(both.isel(height=k), near) for k in (0, 1))
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.2


def test_rain_is_intermittent_and_radiation_dark_at_night():
    ds = drawn(2, days=20)
    fine = quiet(ds)
    hours = by_day(fine["pr"], ds)
    wet_days = np.broadcast_to((ds["pr"].values > 0)[:, None], hours.shape)
    assert 0.2 < (hours[wet_days] == 0).mean() < 0.8
    assert ((by_day(fine["rsds"], ds) == 0).sum(axis=1) >= 8).all()


def test_amounts_add_up_to_those_of_days():
    ds = drawn(4)[["pr", "rsds"]]
    ds["pr"] = (ds["pr"] * 86400).assign_attrs(
        standard_name="precipitation_amount", units="mm", cell_methods="time: sum"
    )
    ds["rsds"] = (ds["rsds"] * 86400).assign_attrs(ds["rsds"].attrs, units="J m-2", cell_methods="time: sum")
    fine = quiet(ds)
    for name in ds.data_vars:
        np.testing.assert_allclose(by_day(fine[name], ds).sum(axis=1), ds[name], rtol=1e-6)
        assert fine[name].attrs["cell_methods"] == "time: sum"
    rates = quiet(drawn(4)[["pr", "rsds"]])
    np.testing.assert_allclose(fine["pr"], rates["pr"] * 3600, rtol=1e-5)


def test_snow_in_other_units_has_the_timing_of_rain():
    ds = drawn(5)[["pr", "prsn"]]
    other = ds.copy()
    other["prsn"] = (ds["prsn"] * 86400).assign_attrs(standard_name="snowfall_flux", units="mm day-1")
    fine, same = quiet(other), quiet(ds)
    np.testing.assert_allclose(fine["prsn"], same["prsn"] * 86400, rtol=1e-5)
    alone = quiet(ds[["prsn"]])
    np.testing.assert_allclose(by_day(alone["prsn"], ds).mean(axis=1), ds["prsn"], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("tdps", lambda ds: ds["tas"] + 1, "above that of temperature on 30 days"),
        ("prsn", lambda ds: ds["pr"] + 1e-6, "more falls than of all precipitation on 30 days"),
        ("pr", lambda ds: ds["pr"] - 1, "negative on 30 days"),
        ("hurs", lambda ds: ds["hurs"] + 100, "below 0 or above 100 % on 30 days"),
        ("huss", lambda ds: -ds["huss"], "negative on 30 days"),
        ("rsds", lambda ds: ds["rsds"] + 2000, "more than the sun supplies on 30 days"),
    ],
)
def test_means_win_where_days_contradict(name, change, words):
    ds = drawn(6)
    names = {"tdps": ["tas", "tdps"], "prsn": ["pr", "prsn"]}.get(name, [name])
    ds = ds[names].assign({name: change(ds).astype("f4").assign_attrs(ds[name].attrs)})
    with pytest.warns(UserWarning, match=f"{name}: .*{words}.* on 2003-02-26 at -50 N, 5 E"):
        fine = downscale.hourly(ds)
    np.testing.assert_allclose(by_day(fine[name], ds).mean(axis=1), ds[name], rtol=1e-5)


def test_customary_names_are_found_without_standard_names():
    ds = drawn(7)
    for name in ds.data_vars:
        units = ds[name].attrs["units"]
        ds[name].attrs = {"units": units}
    fine, marked = quiet(ds), quiet(drawn(7))
    for name in STANDARD:
        assert np.array_equal(fine[name], marked[name]), name
    longwave = drawn(7)[["rsds"]].rename(rsds="rlds")
    longwave["rlds"].attrs = {"units": "W m-2"}
    with pytest.raises(InputError, match="daily variable"):
        downscale.hourly(longwave)


def test_radiation_needs_positions():
    ds = drawn(8)[["rsds"]].isel(lat=0, lon=0, drop=True)
    with pytest.raises(GridError, match="latitudes and longitudes"):
        downscale.hourly(ds)


def test_options_that_are_not_legal_are_refused():
    ds = drawn(8)[["pr"]]
    with pytest.raises(OptionError, match="members"):
        downscale.hourly(ds, members=0)
    with pytest.raises(OptionError, match="seed"):
        downscale.hourly(ds, seed=-1)
    with pytest.raises(InputError, match="realization"):
        downscale.hourly(ds.expand_dims(realization=2), members=2)
    largest = ds.assign(prmax=ds["pr"].assign_attrs(cell_methods="time: maximum"))
    with pytest.warns(UserWarning, match="left out prmax"):
        assert "prmax" not in downscale.hourly(largest)


def test_gaps_stay_gaps():
    ds = drawn(9)
    ds = ds.assign({name: ds[name].where(ds["lat"] < 40).assign_attrs(ds[name].attrs) for name in ds})
    fine = quiet(ds)
    for name in STANDARD:
        missing = np.isnan(by_day(fine[name], ds))
        assert np.array_equal(missing, np.broadcast_to(np.isnan(ds[name].values)[:, None], missing.shape)), name


def test_relative_humidity_falls_as_temperature_rises():
    ds = drawn(10, days=10)[["tas", "tasmin", "tasmax", "hurs"]]
    for name, value in {"tas": 283, "tasmin": 278, "tasmax": 289, "hurs": 60}.items():
        ds[name] = (ds[name] * 0 + value).assign_attrs(ds[name].attrs)
    fine = quiet(ds)
    air, humidity = by_day(fine["tas"], ds), by_day(fine["hurs"], ds)
    # Two hours may be equally warm but for rounding.
    driest = np.take_along_axis(air, humidity.argmin(axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(driest, air.max(axis=1), atol=1e-3)
    alone = quiet(ds[["hurs"]])
    assert by_day(alone["hurs"], ds).std(axis=1).mean() < humidity.std(axis=1).mean()


def test_rain_learns_from_a_record_of_hours():
    rng = np.random.default_rng(0)
    days, cells = 200, 10
    times = np.datetime64("2001-01-01", "ns") + np.arange(24 * days) * np.timedelta64(1, "h")
    attrs = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1"}
    steady = np.repeat(rng.exponential(1e-4, (days, 1, cells)), 24, axis=1).reshape(-1, cells)
    noise = steady * rng.uniform(0.8, 1.2, steady.shape)
    record = xr.Dataset({"pr": (("time", "cell"), noise, attrs)}, {"time": times})
    ds = drawn(11)[["pr"]]
    fine, default = quiet(ds, climatology=record), quiet(ds)
    wet = np.broadcast_to((ds["pr"].values > 0)[:, None], by_day(fine["pr"], ds).shape)
    assert (by_day(fine["pr"], ds)[wet] == 0).mean() < 0.05
    assert (by_day(default["pr"], ds)[wet] == 0).mean() > 0.2
    np.testing.assert_allclose(by_day(fine["pr"], ds).mean(axis=1), ds["pr"], rtol=1e-6)
