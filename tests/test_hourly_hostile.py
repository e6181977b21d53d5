"""Hours of awkward input: numbers at the edges of their types, missing days, positions, axes and options."""

from __future__ import annotations

import warnings
from datetime import timedelta

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from command import command
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from test_hourly_variables import STANDARD, by_day, drawn

import downscale
from downscale.errors import GridError, InputError, OptionError
from downscale.fields.within_day import clip_to_means

METHODS = {"min": "minimum", "max": "maximum"}


def quiet(ds, *options, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return downscale.hourly(ds, *options, **named)


def series(dtype="f4", **fields):
    """Daily series at one place, with the names and units of ``STANDARD``."""
    size = len(next(iter(fields.values())))
    ds = xr.Dataset(coords={"time": pd.date_range("2001-06-01", periods=size), "lat": 45.0, "lon": 10.0})
    for name, values in fields.items():
        standard, units = STANDARD[name.removesuffix("min").removesuffix("max")]
        attrs = {"standard_name": standard, "units": units, "cell_methods": f"time: {METHODS.get(name[-3:], 'mean')}"}
        ds[name] = ("time", np.asarray(values, dtype), attrs)
    return ds


numbers = st.floats(-1e30, 1e30) | st.floats(-1e-37, 1e-37) | st.sampled_from(
    [0.0, -0.0, 1e-45, np.nan, np.inf, -np.inf, 273.15]
)  # fmt: skip
triples = st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(triples, st.sampled_from(["f4", "f8"]), st.sampled_from([2, 4, 24]))
def test_any_ordered_numbers_are_exact(values, dtype, steps):
    low, mean, high = np.sort(np.array(values, "f8"), axis=1).T
    ds = series(dtype, tas=mean, tasmin=low, tasmax=high)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fine = downscale.hourly(ds, 24 / steps)
        report = downscale.check_days(ds, fine)
    whole = np.isfinite(np.array(values)).all(axis=1)
    made = fine["tas"].values.reshape(-1, steps)
    # Days with an infinite value count as missing; the others do not depend on them.
    assert (np.isfinite(made) == whole[:, None]).all()
    assert report.passed == whole.any(), report
    assert (made[whole] >= ds["tasmin"].values[whole, None]).all()
    assert (made[whole] <= ds["tasmax"].values[whole, None]).all()


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(set(STANDARD) - {"tas"})), st.lists(numbers, min_size=1, max_size=8),
    st.sampled_from(["f4", "f8"]),
)  # fmt: skip
def test_means_of_any_numbers_are_exact(name, values, dtype):
    ds = series(dtype, **{name: values})
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fine = downscale.hourly(ds)
        report = downscale.check_days(ds, fine)
    whole = np.isfinite(np.array(values))
    assert (np.isfinite(fine[name].values.reshape(-1, 24)) == whole[:, None]).all()
    assert report.passed == whole.any(), report
    positive = np.array(values) >= 0
    if name != "tdps":
        assert (fine[name].values.reshape(-1, 24)[positive & whole] >= 0).all()


def test_infinite_values_are_missing_and_reported():
    ds = series(huss=[1e-3, 2e-3, np.inf, 2e-3])
    with pytest.warns(UserWarning, match="huss: expected finite values, received infinite ones"):
        fine = downscale.hourly(ds)
    assert np.isnan(fine["huss"].values[48:72]).all()
    gap = ds.where(np.isfinite(ds)).assign(huss=lambda d: d["huss"].assign_attrs(ds["huss"].attrs))
    np.testing.assert_array_equal(downscale.hourly(gap)["huss"], fine["huss"])
    assert downscale.check_days(ds, fine)
    fine["huss"][50] = np.inf
    assert downscale.check_days(ds, fine)["huss"].lost == 1
    assert "finite values at all steps" in downscale.check_days(ds, fine)["huss"].fault


@given(st.integers(0, 2**32), st.sampled_from([1e20, 1e30, 1e300]))
def test_proposals_that_are_far_too_large_keep_means_exact(seed, scale):
    rng = np.random.default_rng(seed)
    proposal, mean = scale * rng.standard_normal((3, 24, 4)), rng.uniform(0, 1, (3, 4))
    values, failed = clip_to_means(proposal, mean, 0.0)
    assert not failed.any()
    assert (values >= 0).all()
    np.testing.assert_allclose(values.mean(axis=1), mean, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "float16"])
def test_other_types(dtype):
    ds = series(dtype, tas=[120, 60, 7], tasmin=[100, 50, 7], tasmax=[150, 90, 8], pr=[0, 3, 100])
    fine = quiet(ds)
    assert {fine[name].dtype.kind for name in fine} == {"f"}
    assert downscale.check_days(ds, fine)


def test_members_of_a_family_may_lack_other_days():
    ds = drawn(3, days=9)
    lacking = ds.copy()
    for name in ("tas", "tasmin", "tasmax", "pr"):
        values = ds[name].values.copy()
        values[2:4, 0], values[:, 1, 1] = np.nan, np.nan
        lacking[name] = ds[name].copy(data=values)
    fine = quiet(lacking)
    for name in ("tdps", "hurs", "prsn"):
        assert np.isfinite(fine[name]).all(), name
        np.testing.assert_allclose(by_day(fine[name], ds).mean(axis=1), ds[name], rtol=1e-6)
    assert downscale.check_days(lacking, fine)
    assert ((fine["tdps"] <= fine["tas"]) | np.isnan(fine["tas"])).all()
    assert (fine["hurs"] <= 100).all()


@pytest.mark.parametrize("names", [["hurs", "hursmin"], ["hursmin"], ["hurs", "hursmax"]])
@pytest.mark.parametrize("days", [1, 3, 8])
def test_relative_humidity_is_at_most_full_without_a_maximum(names, days):
    ds = drawn(5, days=8)
    for kind, factor in {"min": 0.4, "max": 1.02}.items():
        values = np.minimum(ds["hurs"] * factor, 100).astype("f4")
        ds["hurs" + kind] = values.assign_attrs(ds["hurs"].attrs, cell_methods=f"time: {METHODS[kind]}")
    ds = ds[["tas", "tasmin", "tasmax", *names]]
    fine = quiet(ds)
    has_room = 1.0
    if names == ["hurs", "hursmin"]:
        has_room = (24 * (100 - ds["hurs"]) > 100 - ds["hursmin"]).values
        assert 0.8 < has_room.mean() < 1
    assert ((by_day(fine["hurs"], ds).max(axis=1) <= 100) | (has_room == 0)).all()
    assert (fine["hurs"] >= 0).all()
    assert downscale.check_days(ds, fine)
    np.testing.assert_array_equal(quiet(ds.chunk(time=days, lat=1))["hurs"], fine["hurs"])


def test_hours_on_cells_in_another_order_are_refused():
    ds = drawn(5)[["huss"]]
    fine = quiet(ds)
    with pytest.raises(GridError, match="received other values of 'lat'"):
        downscale.check_days(ds, fine.isel(lat=slice(None, None, -1)))
    assert downscale.check_days(ds, fine.assign_coords(lat=fine["lat"].astype("f4")))


@pytest.mark.parametrize("latitude", [-90.0, -85.0, -66.5, 0.0, 66.5, 80.0, 90.0])
def test_polar_night_and_midnight_sun(latitude):
    times = pd.date_range("2001-01-01", periods=365)
    attrs = {"standard_name": STANDARD["rsds"][0], "units": "W m-2", "cell_methods": "time: mean"}
    ds = xr.Dataset({"rsds": ("time", np.full(365, 20, "f4"), attrs)}, {"time": times, "lat": latitude, "lon": 179.0})
    fine = quiet(ds)
    assert downscale.check_days(ds, fine)
    steps = by_day(fine["rsds"], ds)
    assert (steps >= 0).all()
    if abs(latitude) >= 80:
        # Equal steps without sun.
        assert (np.ptp(steps, axis=1) == 0).any()
        assert (steps > 0).all(axis=1).sum() > 150


@pytest.mark.parametrize("kind", ["date line", "negative", "curvilinear", "stations", "rotated"])
def test_the_sun_follows_the_positions_of_cells(kind):
    """Noon is at the same time for one place in any form of its coordinates."""
    lon = np.array([170.0, 180.0, 190.0])
    ds = drawn(1, rows=3, columns=3)[["rsds"]].assign_coords(lat=[40.0, 45.0, 50.0], lon=lon)
    wanted = quiet(ds)["rsds"].transpose("time", ...).values
    if kind == "date line":
        other = ds.assign_coords(lon=[170.0, 180.0, -170.0])
    elif kind == "negative":
        other = ds.assign_coords(lon=lon - 360)
    else:
        rows, columns = np.meshgrid(ds["lat"], lon, indexing="ij")
        places = {"lat": (("y", "x"), rows), "lon": (("y", "x"), columns)}
        attrs = {"lat": ("latitude", "degrees_north"), "lon": ("longitude", "degrees_east")}
        other = ds.drop_vars(["lat", "lon"]).rename(lat="y", lon="x").assign_coords(places)
        for name, (standard, units) in attrs.items():
            other[name].attrs = {"standard_name": standard, "units": units}
        if kind == "stations":
            other = other.stack(station=("y", "x"), create_index=False)
        elif kind == "rotated":
            other = other.transpose("x", "time", "y")
    fine = quiet(other)["rsds"]
    made = fine.transpose("time", "y", "x").values if kind == "rotated" else fine.values
    np.testing.assert_allclose(made.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-4)
    assert downscale.check_days(other, quiet(other))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32), st.permutations(["time", "lat", "lon", "z"]), st.integers(1, 6),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)), st.sampled_from(["h", "90min", "8h"]),
    st.sampled_from([None, 2]),
)  # fmt: skip
def test_any_order_of_dimensions_and_any_chunks_give_the_same_bits(seed, order, days, chunks, step, members):
    ds = drawn(seed, days=6, gap=seed % 2 == 0).expand_dims(z=[1.0, 5.0], axis=1)
    plain = quiet(ds, step, members=members)
    pieces = dict(zip(("time", "lat", "lon", "z"), (days, *chunks), strict=True))
    other = quiet(ds.transpose(*order).chunk(pieces), step, members=members)
    # Rain without shared noise depends on the number of a cell, which follows the order of dimensions.
    names = [name for name in STANDARD if name not in ("pr", "prsn") or [*order].index("z") < order.index("lat")]
    names = [name for name in names if name not in ("pr", "prsn") or order.index("lat") < order.index("lon")]
    with dask.config.set(scheduler="sync"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in names:
            assert np.array_equal(other[name].transpose(*plain[name].dims).values, plain[name].values), name
        assert downscale.check_days(ds, other)


def test_empty_fields_and_odd_options_are_refused():
    ds = drawn(2)
    for empty in (ds.isel(time=slice(0)), ds.isel(time=slice(0)).chunk()):
        with pytest.raises(GridError, match="at least one day, received none"):
            downscale.hourly(empty)
    with pytest.raises(InputError, match="values of 'tas', received none along 'lat'"):
        downscale.hourly(ds.isel(lat=slice(0)))
    with pytest.raises(OptionError, match="data_vars to be names of variables, received 3"):
        downscale.hourly(ds, data_vars=3)
    with pytest.raises(OptionError, match="data_vars among"):
        downscale.check_days(ds, quiet(ds), data_vars="x")
    with pytest.raises(OptionError, match="step to divide a day"):
        downscale.hourly(ds, np.timedelta64("NaT"))


@pytest.mark.parametrize("step", [timedelta(hours=3), np.timedelta64(3, "h"), pd.Timedelta("3h"), "180min", 3.0])
def test_steps_may_be_time_spans(step):
    ds = drawn(2)[["tas"]]
    np.testing.assert_array_equal(downscale.hourly(ds, step)["tas"], downscale.hourly(ds, "3h")["tas"])


def test_only_chosen_variables_are_reported_as_left_out():
    ds = drawn(2).assign(snd=lambda d: d["pr"].assign_attrs(standard_name="surface_snow_thickness", units="m"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(downscale.hourly(ds, data_vars=["tas", "tas"]).data_vars) == ["tas"]
    with pytest.warns(UserWarning, match="left out snd"):
        downscale.hourly(ds, data_vars=["tas", "snd"])


def test_packed_files_with_gaps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ds = drawn(4)
    for name in ("tas", "tasmin", "tasmax", "pr", "rsds"):
        ds[name][:, 0, 0] = np.nan
    packed = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -32768}
    encoding = dict.fromkeys(("tas", "tasmin", "tasmax"), packed)
    encoding |= {"pr": {"dtype": "i2", "scale_factor": 1e-8, "_FillValue": -1},
                 "hurs": {"dtype": "u1", "scale_factor": 0.5, "_FillValue": 255}}  # fmt: skip
    ds.to_netcdf("day.nc", encoding=encoding)
    for output in ("hours.nc", "hours.zarr"):
        made = command("hourly", "day.nc", output)
        assert made.status == 0, made.err
        assert command("check", "day.nc", output, "--time").status == 0
    with xr.open_dataset("hours.nc", decode_cf=False) as written:
        assert not any("scale_factor" in written[name].attrs for name in written)
        assert written["tas"].dtype.kind == "f"
    refused("as packed; leave out packing", "hourly", "day.nc", "x.nc", "--packing", "int16", status=1)
    refused("expected --vars among", "check", "day.nc", "hours.nc", "--time", "--vars", "x")
