"""Bounds that are fields: fine variables in order, each with its own cell means, on any grid, mask, chunk and type."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr
from command import command
from conftest import shared_data
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from lazy_files import unreadable
from sample_fields import coordinates, field_on, region, world
from strategies import factor_pairs, gaussian_latitudes, generator, grids, masks, seeds

import downscale
from downscale.cf.orderings import known_orderings, ordered_quantity
from downscale.engine.limits import NO_FIELD
from downscale.errors import DownscaleError
from downscale.grid.latlon import RectilinearGrid
from downscale.kernels.limit import clip_cells
from downscale.kernels.windows import CellFractions

NAMES = {
    "tas": {"standard_name": "air_temperature", "units": "K", "cell_methods": "time: mean"},
    "tasmin": {"standard_name": "air_temperature", "units": "K", "cell_methods": "time: minimum"},
    "tasmax": {"standard_name": "air_temperature", "units": "K", "cell_methods": "time: maximum"},
    "pr": {"standard_name": "precipitation_flux", "units": "kg m-2 s-1", "cell_methods": "time: mean"},
    "prsn": {"standard_name": "snowfall_flux", "units": "kg m-2 s-1", "cell_methods": "time: mean"},
}
ORDERS = {"tasmin": (None, "tas"), "tasmax": ("tas", None), "prsn": (0, "pr")}


def day(grid: Any, times: int = 3, dtype: str = "float64", seed: int = 0, missing: float = 0.0) -> xr.Dataset:
    """Coarse daily fields in order, rough enough that fine fields without an order are not."""
    rng, base = generator(seed), field_on(grid, times, dtype=dtype, seed=seed, missing=missing)
    shape, dims = base.tas.shape, base.tas.dims
    hole = np.where(np.isnan(base.tas.values), np.nan, 0.0)
    tas, rain = 280 + 8 * rng.normal(size=shape), np.maximum(rng.gamma(0.5, 1e-4, shape) - 2e-5, 0)
    small = rng.gamma(0.4, 2.0, shape)
    values = {
        "tas": tas, "tasmin": tas - small, "tasmax": tas + rng.gamma(0.4, 2.0, shape),
        "pr": rain, "prsn": rain * np.round(rng.uniform(-0.3, 1.3, shape).clip(0, 1), 1),
    }  # fmt: skip
    fields = {name: (dims, (array + hole).astype(dtype), NAMES[name]) for name, array in values.items()}
    return xr.Dataset(fields, base.coords)


def disorder(fine: xr.Dataset) -> dict[str, int]:
    """Number of values out of order by variable."""
    return {
        "tasmin": int((fine.tasmin > fine.tas).sum()), "tasmax": int((fine.tasmax < fine.tas).sum()),
        "prsn": int((fine.prsn > fine.pr).sum()) + int((fine.prsn < 0).sum()),
    }  # fmt: skip


def mask_on(grid: Any, factors: tuple[int, int], valid: np.ndarray) -> xr.DataArray:
    fine = grid.refine(*factors)
    coords = {name: value for name, value in coordinates(fine).items() if not name.endswith("_bnds")}
    return xr.DataArray(valid.astype("f8"), coords, tuple(coords), "mask")


IN_ORDER = dict.fromkeys(ORDERS, 0)
METHODS = ("sobolev", "conservative", "bilinear", "bicubic", "cascade")


@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(grids(2, 7), factor_pairs, seeds, st.sampled_from(METHODS), st.sampled_from(["float32", "float64"]), st.data())
@pytest.mark.laws
def test_fine_fields_are_in_order_and_conserve_every_mean(grid, factors, seed, method, dtype, data):
    ds = day(grid, 2, dtype, seed, data.draw(st.sampled_from([0.0, 0.2])))
    options: dict[str, Any] = {"members": 2} if method == "cascade" else {}
    valid = data.draw(masks(tuple(n * f for n, f in zip(grid.shape, factors, strict=True))))
    if valid.any() and not valid.all():
        options["mask"] = mask_on(grid, factors, valid)
    y, x = ds.tas.dims[1:]
    factor = {y: factors[0], x: factors[1]}
    fine = ds.downscale(factor, method, bounds=ORDERS, **options)
    assert disorder(fine) == IN_ORDER
    report = downscale.check_conservation(ds, fine, bounds=ORDERS, mask=options.get("mask"))
    assert report.passed, report
    assert report["tasmin"].orderings == ("tasmin <= tas",)
    plain = ds.downscale(factor, method, **options)
    np.testing.assert_array_equal(fine.tas, plain.tas)
    np.testing.assert_array_equal(fine.pr, plain.pr)
    lazy = ds.chunk({"time": 1, y: data.draw(st.integers(1, grid.shape[0]))})
    again = lazy.downscale(factor, method, bounds=ORDERS, **options)
    for name in NAMES:
        np.testing.assert_array_equal(again[name], fine[name])


@settings(max_examples=150, deadline=None)
@given(seeds, st.integers(1, 5), st.integers(1, 5), st.booleans(), st.booleans())
@pytest.mark.laws
def test_values_are_those_of_the_projection(seed, rows, columns, has_lower, has_upper):
    # The projection clip(y + t, l, u), with t by bisection.
    rng, shape = generator(seed), (1, rows, columns)
    fraction = rng.uniform(0.1, 1, shape)
    fraction /= fraction.sum()
    fine, upper = rng.normal(size=shape), rng.normal(0.5, 1, shape)
    lower = upper - rng.gamma(1, 2, shape)
    low = lower if has_lower else np.full(shape, -np.inf)
    high = upper if has_upper else np.full(shape, np.inf)
    mean = (fraction * fine).sum()
    least, most = ((fraction * side).sum() for side in (low, high))
    target = min(max(mean, least), most)
    fine += target - mean
    left, right = -50.0, 50.0
    for _ in range(200):
        middle = (left + right) / 2
        is_above = (fraction * np.clip(fine + middle, low, high)).sum() > target
        left, right = (left, middle) if is_above else (middle, right)
    wanted = np.clip(fine + middle, low, high)
    is_within = ((fine >= low) & (fine <= high)).all()
    numbers = np.zeros(1, int), np.zeros(1), np.zeros((1, 2), int), np.zeros(1, int)
    fractions = CellFractions(np.ones(rows), np.ones(columns), fraction[0], np.empty((0, 0)))
    clip_cells(
        np.full((1, 1, 1), target), fine, lower if has_lower else NO_FIELD, upper if has_upper else NO_FIELD,
        (-np.inf, np.inf), fractions, 0, 1, 1e-12, *numbers,
    )  # fmt: skip
    np.testing.assert_allclose(fine, fine if is_within else wanted, rtol=0, atol=1e-9)
    assert (fine >= low).all()
    assert (fine <= high).all()
    assert abs((fraction * fine).sum() - target) < 1e-12
    assert numbers[0][0] == numbers[3][0] == 0


def test_an_order_is_needed_here():
    assert min(disorder(day(region()).downscale(4)).values()) > 0


def test_means_out_of_order_have_priority_and_are_counted_and_located():
    ds = day(region())
    ds.tasmin[1, 3, 5] = ds.tas[1, 3, 5] + 0.5
    ds.tasmin[2, 3, 6] = ds.tas[2, 3, 6] + 0.25
    with pytest.warns(UserWarning, match=r"^tasmin: .* received one 0\.5 above at .*33\.5.*15\.5 \(2 cells") as caught:
        fine = ds.downscale(2, bounds=ORDERS)
    assert len(caught) == 1
    assert "keep their means" in str(caught[0].message)
    beyond = fine.tasmin > fine.tas
    assert int(beyond.sum()) == 8
    np.testing.assert_allclose((fine.tasmin - fine.tas).values[1, 6:8, 10:12], 0.5)
    report = downscale.check_conservation(ds, fine, bounds=ORDERS)
    assert report.passed
    assert (report["tasmin"].cells_out_of_order, report["tasmin"].values_out_of_order) == (2, 0)
    assert report["tasmin"].where_out_of_order["lat"] == 33.5
    assert "tasmin <= tas holds but in 2 coarse cells" in repr(report)


def test_the_check_finds_values_out_of_order():
    ds = day(region())
    fine = ds.downscale(2, bounds=ORDERS)
    assert downscale.check_conservation(ds, fine, orderings="auto").passed
    fine.tasmin[0, 0, 0] += 3
    fine.tasmin[0, 0, 1] -= 3
    fine.tas[0, 0, 0] = fine.tasmin[0, 0, 0] - 1e-3
    report = downscale.check_conservation(ds, fine, orderings="auto")
    assert not report["tasmin"].passed
    assert report["tasmin"].values_out_of_order == 1
    fine = ds.downscale(2)
    report = downscale.check_conservation(ds, fine, orderings="auto")
    assert report["prsn"].values_out_of_order == disorder(fine)["prsn"] > 0
    assert "prsn <= pr, received" in report["prsn"].fault
    assert downscale.check_conservation(ds, fine).passed


def test_members_are_in_order_one_by_one_and_belong_together():
    ds = day(region()).astype("f4")
    fine = ds.downscale(4, "cascade", members=3, seed=5, orderings="auto")
    assert fine.sizes["realization"] == 3
    assert disorder(fine) == IN_ORDER
    # Equal coarse fields with an order get equal noise.
    twins = ds[["tas"]].assign(tasmin=ds.tas.assign_attrs(NAMES["tasmin"]))
    fine = twins.downscale(4, "cascade", members=2, orderings="auto")
    np.testing.assert_allclose(fine.tasmin, fine.tas, rtol=1e-6)


def test_units_and_types_may_differ():
    ds = day(region()).astype("f4")
    ds["tas"] = (ds.tas.astype("f8") - 273.15).assign_attrs({**NAMES["tas"], "units": "degC"})
    fine = ds.downscale(4, bounds={"tasmin": (None, "tas")})
    assert (fine.tas.dtype, fine.tasmin.dtype) == ("float64", "float32")
    assert int((fine.tasmin.astype("f8") > fine.tas + 273.15).sum()) == 0
    assert downscale.check_conservation(ds, fine, bounds={"tasmin": (None, "tas")}).passed


@pytest.mark.parametrize("flip", [False, True])
def test_a_given_field_bounds_a_variable(flip, tmp_path):
    ds = day(region())
    ceiling = ds.downscale(2).tas
    ceiling = ceiling[:, ::-1, ::-1] if flip else ceiling
    fine = ds[["tasmin"]].downscale(2, bounds={"tasmin": (None, ceiling)})
    assert int((fine.tasmin > ceiling).sum()) == 0
    np.testing.assert_array_equal(fine.tasmin, ds.downscale(2, bounds=ORDERS).tasmin)
    ceiling.to_netcdf(tmp_path / "ceiling.nc")
    named = ds[["tasmin"]].downscale(2, bounds={"tasmin": (None, str(tmp_path / "ceiling.nc"))})
    np.testing.assert_array_equal(named.tasmin, fine.tasmin)
    assert downscale.check_conservation(ds[["tasmin"]], fine, bounds={"tasmin": (None, ceiling)}).passed
    lowest = ceiling.max("time")
    static = ds[["tasmin"]].chunk(time=1).downscale(2, bounds={"tasmin": (None, lowest)})
    assert int((static.tasmin > lowest).sum()) == 0


def test_target_cells_that_cut_coarse_cells_are_in_order_too():
    ds = day(region(), dtype="float32")
    fine = ds.downscale(target_grid="0.3x0.7", bounds=ORDERS)
    assert min(disorder(ds.downscale(target_grid="0.3x0.7")).values()) > 0
    assert disorder(fine) == IN_ORDER
    np.testing.assert_array_equal(fine.tas, ds.downscale(target_grid="0.3x0.7").tas)
    assert downscale.check_conservation(ds, fine, orderings="auto").passed
    lazy = ds.chunk(time=1).downscale(target_grid="0.3x0.7", bounds=ORDERS)
    np.testing.assert_array_equal(lazy.tasmin, fine.tasmin)


@pytest.mark.parametrize("target", ["6h", "2D"])
def test_an_order_along_time_and_then_over_maps(target):
    ds = day(region(6, 8), 8, "float32")
    ds = ds.assign_coords(time=xr.date_range("2001-03-01", periods=8, freq="D"))
    # Without bounds by variable, steps within days keep the minima and maxima of days instead.
    order = {"orderings": "auto"} if target == "2D" else {"bounds": ORDERS}
    fine = ds.downscale(target_grid={"time": target}, factor={"lat": 2, "lon": 2}, **order)
    assert disorder(fine) == IN_ORDER
    line = ds.chunk(time=3).downscale(target_grid={"time": target}, **order)
    assert disorder(line) == IN_ORDER
    np.testing.assert_array_equal(line.tasmin, ds.downscale(target_grid={"time": target}, **order).tasmin)
    if target == "6h":
        assert downscale.check_conservation(ds, fine, orderings="auto").passed


def test_sums_over_periods_are_in_order():
    attrs = {"units": "mm", "cell_methods": "time: sum"}
    ds = day(region(4, 4), 6)[["pr", "prsn"]]
    ds = ds.assign_coords(time=xr.date_range("2001-03-01", periods=6, freq="D"))
    for name, standard in (("pr", "precipitation_amount"), ("prsn", "snowfall_amount")):
        ds[name].attrs = {**attrs, "standard_name": standard}
    fine = ds.downscale(target_grid={"time": "3h"}, orderings="auto")
    assert int((fine.prsn > fine.pr).sum()) == 0
    np.testing.assert_allclose(fine.prsn.values.reshape(6, 8, 4, 4).sum(1), ds.prsn, rtol=1e-12, atol=1e-18)


def test_learned_fields_are_in_order(tmp_path):
    ds = day(world(), 2, "float32")[["pr", "prsn"]]
    for name in ds:
        ds[name] = (ds[name] * 3600).assign_attrs({**NAMES[name], "units": "mm h-1"})
    fine = xr.merge([ds[["pr"]].downscale(4, "rain", check="skip")])
    snow = ds[["prsn"]].downscale(4, bounds={"prsn": (0, fine.pr)})
    assert int((snow.prsn > fine.pr).sum()) == 0
    both = ds.assign(pr=ds.pr, prsn=ds.prsn.assign_attrs(standard_name="snowfall_flux"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = downscale.plan(unreadable(both), 4, orderings="auto")
    assert "prsn <= pr: ordered by their names" in plan.notes
    plan = downscale.plan(unreadable(both), 4, bounds={"prsn": (0, "pr")})
    assert "prsn <= pr: ordered by bounds" in plan.notes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bounds": {"tas": (None, "tasmax"), "tasmax": (None, "tas")}}, "without a cycle"),
        ({"bounds": {"tas": (None, "tas")}}, "itself"),
        ({"bounds": {"tasmin": (None, "t2m")}}, "none of them"),
        ({"bounds": ("0", "1")}, "received '0', which is none of them"),
        ({"bounds": {"tasmin": (None, "pr")}}, "units that fit 'K'"),
        ({"bounds": {"tasmin": (None, "tas")}, "data_vars": ["tasmin"]}, "add it to data_vars"),
        ({"bounds": {"tasmin": (None, "tas")}, "conserve": None}, "conserve='cell'"),
        ({"orderings": "auto", "conserve": "total"}, "conserve='cell'"),
        ({"orderings": "auto", "footprint": "gaussian:100km"}, "footprint"),
        ({"orderings": "yes"}, "orderings"),
        ({"bounds": {"tasmin": (None, xr.DataArray(np.zeros((5, 5)), dims=("lat", "lon")))}},
         "bounds of 'tasmin': expected horizontal"),
        ({"bounds": {"tasmin": (None, field_on(region(3, 3), 1).tas[0])}}, "fine grid of"),
    ],
)  # fmt: skip
def test_what_is_no_order_is_refused_without_reading(options, words):
    with pytest.raises(DownscaleError, match=words) as caught:
        unreadable(day(region())).downscale(2, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bound", ["tas", xr.DataArray(0.0)])
def test_means_given_to_fine_fields_take_no_fields_as_bounds(bound):
    ds = day(region())
    with pytest.raises(DownscaleError, match="expected numbers as bounds of 'tasmin', received"):
        downscale.conserve(ds.downscale(2), ds, bounds={"tasmin": (None, bound)})


def test_dimensions_must_fit():
    ds = day(region())
    ds["levels"] = ds.tas.expand_dims(plev=3).assign_attrs(standard_name="temperature_of_air_at_levels")
    with pytest.raises(DownscaleError, match=r"'levels' with 'plev'; select one"):
        ds.downscale(2, bounds={"tasmin": (None, "levels")})
    fine = ds.downscale(2, bounds={"levels": (None, "tasmax")})
    assert int((fine.levels > fine.tasmax).sum()) == 0


def test_a_field_on_gaussian_rows_or_turned_longitudes_is_placed_and_one_on_shifted_cells_refused():
    ds = day(RectilinearGrid(gaussian_latitudes(8), world().x))
    ceiling = ds.downscale(2).tas
    fine = ds.downscale(2, bounds=ORDERS)
    turned = ceiling.assign_coords(lon=(ceiling.lon + 180) % 360 - 180).sortby("lon")
    for placed in (ceiling, turned, ceiling[:, ::-1].astype("f8")):
        again = ds.downscale(2, bounds={"tasmin": (None, placed)}, data_vars="tasmin")
        np.testing.assert_array_equal(again.tasmin, fine.tasmin)
    shifted = ceiling.assign_coords(lon=ceiling.lon + 1)
    with pytest.raises(DownscaleError, match="a field on other cells"):
        ds.downscale(2, bounds={"tasmin": (None, shifted)}, data_vars="tasmin")


def test_a_field_without_some_times_is_refused():
    ds = day(region())
    ceiling = ds.downscale(2).tas.isel(time=slice(1, None))
    with pytest.raises(DownscaleError, match="all times of the variable, received a field without 1 of 3"):
        ds.downscale(2, bounds={"tasmin": (None, ceiling)})


@pytest.mark.parametrize(
    ("name", "attrs", "quantity"),
    [
        ("tn", {"units": "degC"}, "air_temperature|minimum"),
        ("tasmax", {"units": "K", "standard_name": "air_temperature"}, "air_temperature|maximum"),
        ("x", {"standard_name": "air_temperature", "cell_methods": "area: mean time: maximum (interval: 1 h)"},
         "air_temperature|maximum"),
        ("tas", {"units": "K", "cell_methods": "time: standard_deviation"}, None),
        ("tas", {"units": "m"}, None),
        ("prsn", {"units": "mm day-1"}, "snowfall_flux"),
        ("prsn", {"units": "mm"}, "snowfall_amount"),
        ("d2m", {"units": "K"}, "dew_point_temperature"),
    ],
)  # fmt: skip
def test_quantities_with_their_statistic(name, attrs, quantity):
    assert ordered_quantity(xr.DataArray(0.0, name=name, attrs=attrs)) == quantity


def test_two_candidates_are_not_guessed():
    ds = day(region()).assign(tas2=lambda ds: ds.tas)
    found, notes = known_orderings(ds, list(ds))
    assert {str(pair) for pair in found} == {"prsn <= pr", "tasmin <= tasmax"}
    assert notes[0] == "tasmin: not ordered, tas and tas2 are both air_temperature"


def test_without_the_mean_extremes_are_in_order():
    found, _ = known_orderings(day(region())[["tasmin", "tasmax"]], ["tasmin", "tasmax"])
    assert [str(pair) for pair in found] == ["tasmin <= tasmax"]


@pytest.mark.parametrize("options", [["--orderings", "auto"], ["--bounds", "tasmin=:tas,tasmax=tas:,prsn=0:pr"]])
@pytest.mark.parametrize("blocks", [[], ["--blocks", "1"]])
def test_files_of_the_command_line_are_in_order(options, blocks, tmp_path):
    ds = day(region(), dtype="float32").assign_coords(time=xr.date_range("2001-03-01", periods=3, freq="D"))
    ds.to_netcdf(tmp_path / "in.nc")
    out = tmp_path / ("out" if blocks else "out.nc")
    said = command("apply", tmp_path / "in.nc", out, "--factor", 2, *options, *blocks)
    assert said.status == 0, said.err
    files = sorted(out.glob("*.nc")) if blocks else [out]
    with xr.open_mfdataset(files) if len(files) > 1 else xr.open_dataset(out) as fine:
        assert disorder(fine) == IN_ORDER
        assert "orderings=" in fine.attrs["history"]
        assert '"orderings": ["tasmin <= tas"]' in fine.attrs["conservation_certificate"]
    if not blocks:
        assert command("check", tmp_path / "in.nc", out, *options).status == 0
        plain = tmp_path / "plain.nc"
        assert command("apply", tmp_path / "in.nc", plain, "--factor", 2).status == 0
        said = command("check", tmp_path / "in.nc", plain, *options)
        assert said.status == 1
        assert "out of order" in said.out + said.err


def test_real_dew_points_and_snow():
    with xr.open_dataset(shared_data("temperature_humidity_wind_arpege_nw_20180501_0p1deg.nc")) as ds:
        ds = ds[["t2m", "d2m"]].isel(lat=slice(0, 56)).load()
    for factor in (2, 4):
        coarse = downscale.coarsen(ds, factor)
        for method, options in (("sobolev", {}), ("cascade", {"members": 2})):
            fine = coarse.downscale(factor, method, orderings="auto", **options)
            plain = coarse.downscale(factor, method, **options)
            assert int((plain.d2m > plain.t2m).sum()) > 0
            assert int((fine.d2m > fine.t2m).sum()) == 0
            assert downscale.check_conservation(coarse, fine, orderings="auto").max_relative_error < 1e-6
