"""Along time: monthly means of daily values are those that were given, in every calendar, for any chunking."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st

from downscale.errors import BoundsError, GridError, InputError, OptionError
from downscale.fields.aggregate import Aggregation
from downscale.request import Request
from downscale.steps.axis_downscale import downscale_axis, plan_axis

pytestmark = pytest.mark.usefixtures("one_thread")
MEAN = Request(method="conservative")
CALENDARS = (None, "noleap", "360_day", "all_leap", "julian")


def months(calendar=None, count=14, shape=(3, 4), dtype="f8", seed=0):
    """A series of monthly maps in mid-month stamps, with a yearly cycle."""
    if calendar is None:
        times = pd.date_range("1999-11-01", periods=count, freq="MS").values + np.timedelta64(14, "D")
    else:
        times = xr.date_range("1999-11-01", periods=count, freq="MS", calendar=calendar, use_cftime=True).values
    rng = np.random.default_rng(seed)
    cycle = 280 + 12 * np.sin(2 * np.pi * np.arange(count) / 12)[:, None, None]
    values = (cycle + 3 * rng.standard_normal((count, *shape))).astype(dtype)
    coords = {"time": times, "lat": np.arange(shape[0]) * 2.0, "lon": np.arange(shape[1]) * 3.0}
    return xr.Dataset({"t": (("time", "lat", "lon"), values, {"units": "K"})}, coords)


def monthly_means(daily):
    """Plain means over the days of each month, in float64, by nothing of the package."""
    index = daily["time"].dt.year * 12 + daily["time"].dt.month
    return daily.astype("f8").groupby(index).mean().values


def linear(monthly, daily):
    """Interpolation between mid-month values, held at the ends, by nothing of the package."""
    start = daily["time"].values[0]
    day, middle = (np.array([gap.total_seconds() for gap in ds["time"].values - start]) for ds in (daily, monthly))
    made = np.apply_along_axis(lambda one: np.interp(day, middle, one), 0, monthly.values.astype("f8"))
    return xr.DataArray(made, {"time": daily["time"]}, monthly.dims)


def relative(one, other):
    return float(np.nanmax(np.abs(one - other) / np.abs(other)))


@pytest.mark.parametrize("calendar", CALENDARS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("f4", 1e-6), ("f8", 1e-12)])
@pytest.mark.parametrize("method", ["sobolev", "conservative", "bilinear", "bicubic"])
def test_monthly_means_of_daily_values_are_exact(calendar, dtype, tolerance, method):
    ds = months(calendar, dtype=dtype)
    daily = downscale_axis(ds, "time", target="D", request=Request(method=method))
    assert daily["t"].dtype == dtype
    assert relative(monthly_means(daily["t"]), ds["t"].values.astype("f8")) < tolerance
    assert daily.sizes["time"] == {"360_day": 420, "noleap": 426, None: 427}.get(calendar, 427)


def test_a_method_without_the_law_misses_the_means():
    ds = months()
    daily = downscale_axis(ds, "time", target="D", request=Request(method="bilinear", conserve=None))
    assert relative(monthly_means(daily["t"]), ds["t"].values) > 1e-3


@given(st.integers(1, 40), st.sampled_from(CALENDARS), st.integers(2, 20), st.integers(0, 99))
def test_equal_parts_of_months_keep_their_means(factor, calendar, count, seed):
    ds = months(calendar, count, (1, 2), seed=seed)
    fine = downscale_axis(ds, "time", factor=factor)
    assert fine.sizes["time"] == factor * count
    parts = fine["t"].values.reshape(count, factor, 1, 2)
    np.testing.assert_allclose(parts.mean(axis=1), ds["t"].values, rtol=1e-12)


@given(st.sampled_from(["D", "MS", "7D", "QS-DEC", "6h", "YS"]), st.sampled_from(CALENDARS), st.integers(0, 99))
def test_any_periods_over_the_whole_record_keep_its_integral(frequency, calendar, seed):
    """Total law along the axis: what target cells hold, by the seconds that the record covers, is what months hold."""
    ds = months(calendar, 5, (1, 1), seed=seed)
    course = plan_axis(ds, "time", target=frequency)
    made = downscale_axis(ds, "time", target=frequency)["t"].values[:, 0, 0]
    covered = course.subcells.covered_fraction * course.target.axis.measure
    assert covered.sum() == pytest.approx(course.source.axis.measure.sum(), rel=1e-12)
    whole = (ds["t"].values[:, 0, 0] * course.source.axis.measure).sum()
    assert (made * covered).sum() == pytest.approx(whole, rel=1e-12)


def test_the_way_back_gives_the_months_and_their_stamps():
    ds = months("noleap")
    daily = downscale_axis(ds, "time", target="D")
    back = downscale_axis(daily, "time", target=ds, request=MEAN)
    np.testing.assert_allclose(back["t"], ds["t"], rtol=1e-13)
    assert (back["time"].values == ds["time"].values).all()


def test_a_real_noleap_year_of_daily_data_and_back():
    """Means of a real daily series: exact where linear interpolation misses by a kelvin, and nearer to the truth."""
    with xr.open_dataset(shared_data("nasty_noleap_tasmax_daily_10km_2095.nc")) as file:
        ds = file[["tasmax"]].isel(lat=slice(0, None, 5), lon=slice(0, None, 5)).load()
    ds["tasmax"].attrs["cell_methods"] = "time: mean"
    monthly = downscale_axis(ds, "time", target="MS", request=MEAN)
    np.testing.assert_allclose(monthly["tasmax"], monthly_means(ds["tasmax"]), rtol=1e-6)
    daily = downscale_axis(monthly, "time", target="D")
    assert daily["time"].dt.calendar == "noleap"
    assert relative(monthly_means(daily["tasmax"]), monthly["tasmax"].values.astype("f8")) < 1e-6
    middle = linear(monthly["tasmax"], daily)
    assert np.nanmax(np.abs(monthly_means(middle) - monthly["tasmax"].values)) > 1.0
    smooth = ds["tasmax"].astype("f8").rolling(time=15, center=True).mean().values

    def rmse(made):
        return float(np.sqrt(np.nanmean((made.values - smooth) ** 2)))

    assert rmse(daily["tasmax"]) < 0.95 * rmse(middle)


def test_real_months_of_thirty_days_with_a_land_mask():
    with xr.open_dataset(shared_data("nasty_ocean_tos_ipsl_360day_masked.nc"), decode_coords="all") as file:
        ds = file.isel(lat=slice(60, 70), lon=slice(0, 40)).load()
    daily = downscale_axis(ds, "time", target="D")
    assert daily.sizes["time"] == 720
    assert (daily["time"].dt.day.values.reshape(24, 30) == np.arange(1, 31)).all()
    back = monthly_means(daily["tos"])
    np.testing.assert_array_equal(np.isnan(back), ds["tos"].isnull())
    assert relative(back, ds["tos"].values.astype("f8")) < 1e-6


def test_real_winds_through_three_leap_years():
    with xr.open_dataset(shared_data("wind_navy_global_2p5deg_monthly.nc"), decode_coords="all") as file:
        ds = file[["uwnd"]].isel(lat=slice(10, 60, 10), lon=slice(0, None, 12)).load()
    daily = downscale_axis(ds, "time", target="D")
    assert daily.sizes["time"] == 4018
    back = monthly_means(daily["uwnd"])
    assert np.abs(back - ds["uwnd"].values).max() <= 1e-6 * np.abs(ds["uwnd"].values).max()


def test_real_rain_sums_of_months_become_sums_of_days_that_are_never_negative():
    path = shared_data("precipitation_fraser_daily_1986-2018_0p1deg.nc")
    with xr.open_dataset(path, decode_coords="all") as file:
        ds = file.isel(lat=slice(0, 14, 4), lon=slice(0, 31, 8)).sel(time=slice("1988-01-01", "1992-12-31")).load()
    monthly = downscale_axis(ds, "time", target="MS", request=MEAN)
    np.testing.assert_allclose(monthly["pr"], ds["pr"].resample(time="MS").sum(), rtol=1e-6)
    daily = downscale_axis(monthly, "time", target="D")
    assert daily["time"].size == ds["time"].size == 1827
    assert float(daily["pr"].min()) >= 0
    np.testing.assert_allclose(daily["pr"].astype("f8").resample(time="MS").sum(), monthly["pr"], rtol=1e-6)
    assert float(downscale_axis(monthly, "time", target="D", request=Request(bounds=None))["pr"].min()) < 0


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 4),
    st.sampled_from([{"target": "D"}, {"target": "10D"}, {"factor": 5}, {"target": "QS"}]),
    st.booleans(),
)
def test_any_chunking_gives_the_same_bits_and_stays_lazy(cuts, across, how, holes):
    count = sum(cuts)
    ds = months("noleap", max(count, 2), (3, 4), "f4")
    cuts = cuts if count >= 2 else [2]
    if holes:
        ds["t"][1, 0, 0], ds["t"][:, 1, 1] = np.nan, np.nan
    request = Request(bounds=(250, 320))
    whole = downscale_axis(ds, "time", **how, request=request)
    lazy = downscale_axis(ds.chunk({"time": tuple(cuts), "lat": across}), "time", **how, request=request)
    assert isinstance(lazy["t"].data, da.Array)
    np.testing.assert_array_equal(lazy["t"].values, whole["t"].values)


def test_nothing_is_computed_before_it_is_asked_for_and_chunks_along_time_stay():
    def fail(block):
        raise AssertionError("computed")

    ds = months("noleap", 24).chunk({"time": 6})
    ds["t"] = ds["t"].copy(data=ds["t"].data.map_blocks(fail, dtype="f8"))
    daily = downscale_axis(ds, "time", target="D")
    assert daily["t"].chunks[0] == (181, 184, 181, 184)
    with pytest.raises(AssertionError, match="computed"):
        daily["t"].compute(scheduler="synchronous")


@pytest.mark.parametrize(
    "dims", [("lat", "lon", "time"), ("lat", "time", "lon"), ("time", "lon", "lat"), ("lon", "time", "lat")]
)
def test_the_order_of_dimensions_is_kept_and_changes_no_value(dims):
    ds = months()
    plain = downscale_axis(ds, "time", target="D")["t"]
    turned = downscale_axis(ds.transpose(*dims), "time", target="D")["t"]
    assert turned.dims == dims
    np.testing.assert_array_equal(turned.transpose("time", "lat", "lon"), plain)


def test_other_dimensions_lead_and_a_single_series_will_do():
    ds = months()
    plain = downscale_axis(ds, "time", target="D")["t"]
    many = ds.expand_dims(member=3).transpose("time", "member", "lat", "lon")
    members = downscale_axis(many, "time", target="D")["t"]
    assert members.dims == ("time", "member", "lat", "lon")
    np.testing.assert_array_equal(members.isel(member=2), plain)
    one = ds["t"].isel(lat=1, lon=2)
    daily = downscale_axis(one, "time", target="D")
    assert isinstance(daily, xr.DataArray)
    assert (daily.name, daily.dims) == ("t", ("time",))
    np.testing.assert_array_equal(daily, plain.isel(lat=1, lon=2))
    np.testing.assert_array_equal(downscale_axis(one.chunk(time=3), "time", target="D"), daily)


def test_a_missing_month_stays_missing_and_moves_no_other():
    ds = months()
    ds["t"][5] = np.nan
    daily = downscale_axis(ds, "time", target="D")["t"]
    back = monthly_means(daily)
    assert np.isnan(back[5]).all()
    assert int(daily.isnull().sum()) == 30 * 12  # April 2000
    keep = np.arange(14) != 5
    np.testing.assert_allclose(back[keep], ds["t"].values[keep], rtol=1e-12)


def test_a_trend_goes_on_into_the_end_months():
    """Windows shift inward at ends; held end values lose half a step there, a higher order the least."""
    ds = months("360_day")
    ds["t"] = ds["t"].copy(data=np.broadcast_to(np.arange(14.0)[:, None, None], ds["t"].shape))
    for order, most in ((None, 0.28), (1.25, 0.11)):
        daily = downscale_axis(ds, "time", target="D", request=Request(order=order, bounds=None))["t"].values[:, 0, 0]
        error = np.abs(daily - ((np.arange(420) + 0.5) / 30 - 0.5))
        assert error[[0, -1]].max() < most
        assert error[90:-90].max() < 0.01
    assert relative(monthly_means(downscale_axis(ds + 1, "time", target="D")["t"]), ds["t"].values + 1) < 1e-12


def test_bounds_are_imposed_on_days_and_impossible_ones_named():
    ds = months()
    inside = downscale_axis(ds, "time", target="D", request=Request(bounds=(float(ds["t"].min()), None)))
    assert float(inside["t"].min()) >= float(ds["t"].min())
    assert relative(monthly_means(inside["t"]), ds["t"].values) < 1e-12
    with pytest.raises(BoundsError, match=r"t: expected coarse values within the bounds \[275, none\]"):
        downscale_axis(ds, "time", target="D", request=Request(bounds=(275, None)))


def test_partly_covered_periods_are_means_of_what_is_covered_or_missing():
    times = pd.date_range("2001-01-11T12", periods=60, freq="D")
    ds = xr.Dataset({"t": ("time", np.arange(60.0))}, {"time": times})
    monthly = downscale_axis(ds, "time", target="MS", request=MEAN)["t"]
    np.testing.assert_allclose(monthly, [10.0, 34.5, 54.0])
    strict = downscale_axis(ds, "time", target="MS", request=Request(method="conservative", na_thres=0.0))["t"]
    assert np.isnan(strict.values).tolist() == [True, False, True]


def test_codes_are_never_averaged():
    ds = months()
    ds["kind"] = ("time", np.arange(14, dtype="i2"), {"flag_values": np.arange(14)})
    daily = downscale_axis(ds, "time", target="D")
    assert daily["kind"].dtype == "i2"
    stretches = daily["kind"].groupby(daily["time"].dt.year * 12 + daily["time"].dt.month)
    assert [set(v.values) for _, v in stretches] == [{i} for i in range(14)]
    with pytest.raises(GridError, match="expected a target within the axis for the codes 'kind'"):
        downscale_axis(ds[["kind"]], "time", target=pd.date_range("1999-10-01", periods=90, freq="D"))


def test_what_lies_beside_the_axis_is_kept_and_what_lies_along_it_is_named():
    ds = months().assign(orog=(("lat", "lon"), np.ones((3, 4))), label=("time", list("abcdefghijklmn")))
    ds = ds.assign_coords(season=("time", np.arange(14)), height=2.0)
    ds.attrs["title"], ds.encoding["unlimited_dims"] = "A", {"time"}
    ds["t"].attrs["cell_methods"] = "time: mean"
    ds["t"].encoding.update(grid_mapping="crs", scale_factor=0.1)
    before = ds.copy(deep=True)
    with pytest.warns(UserWarning, match="dropped season, label: not on the new axis 'time'"):
        daily = downscale_axis(ds, "time", target="D")
    assert ds.identical(before)
    assert {"orog", "height", "lat", "lon", "time_bnds"} <= set(daily.variables)
    assert daily["t"].attrs == ds["t"].attrs
    assert daily["t"].encoding["grid_mapping"] == "crs"
    assert "scale_factor" not in daily["t"].encoding
    assert daily.attrs == {"title": "A"}
    assert daily.encoding["unlimited_dims"] == {"time"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = downscale_axis(ds.drop_vars("season"), "time", target="D", request=Request(data_vars="t"))
    assert set(chosen.data_vars) == {"t", "orog"}


def test_sums_of_means_are_means():
    ds = months()
    ds["t"].attrs["cell_methods"] = "time: sum within days time: mean over days"
    assert not plan_axis(ds, "time", target="D").jobs["t"].extensive
    ds["t"].attrs["cell_methods"] = "time: sum"
    assert plan_axis(ds, "time", target="D").jobs["t"].extensive
    assert not plan_axis(ds, "time", target="D", request=Request(quantity="intensive")).jobs["t"].extensive
    ds["t"].attrs["cell_methods"] = "time: point"
    with pytest.warns(UserWarning, match="t: 'point' values along 'time' are taken for means over its cells"):
        plan_axis(ds, "time", target="D")


def test_the_words_for_the_history():
    ds = months()
    assert plan_axis(ds, "time", factor=30).description == "time x30"
    assert plan_axis(ds, "time", target="D").description == "time -> D (427 cells)"
    assert plan_axis(ds, "time", target=ds).description == "time -> target (14 cells)"


def test_the_law_is_checked_in_the_engine_over_the_true_lengths():
    job = plan_axis(months("noleap"), "time", target="D").jobs["t"]
    assert isinstance(job.cells, Aggregation)
    shares = job.cells.y_fraction.reshape(14, 31)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-14)
    assert (np.count_nonzero(shares, axis=1) == [30, 31, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]).all()


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (OptionError, "expected factor or target along 'time', received neither", {}),
        (OptionError, "expected factor or target along 'time', received both", {"factor": 2, "target": "D"}),
        (
            OptionError,
            "expected conserve='cell' or None along 'time' with 'bilinear', received 'total'",
            {"factor": 2, "request": Request(method="bilinear", conserve="total")},
        ),
        (OptionError, "expected bounds of 0 or none for sums", {"factor": 2, "request": Request(
            quantity="extensive", bounds=(0, 400))}),
        (InputError, "expected a numeric variable with dimension 'time', received 'x'", {
            "factor": 2, "request": Request(data_vars=["x"])}),
        (GridError, "expected a target that overlaps the time range", {
            "target": pd.date_range("2020-01-01", periods=4, freq="D")}),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met(error, words, options):
    with pytest.raises(error, match=words):
        downscale_axis(months(), "time", **options)


def test_models_for_maps_are_refused_along_an_axis():
    class Model:
        factor, halo, multiple_of, laws = (2, 2), (0, 0), 1, frozenset()

        def __call__(self, coarse, place):
            return coarse

    with pytest.raises(OptionError, match=r"expected a method among .* along 'time', received 'Model', which is"):
        downscale_axis(months(), "time", factor=2, request=Request(method=Model()))
