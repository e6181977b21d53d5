"""downscale and coarsen: lazy, pure, lawful, and true to what the input says of itself."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_fields import GRIDS, assert_same, field_on, plane, rain_on, region, relief_on, same_bits, untouched, world
from schedulers import computations
from strategies import factor_pairs, grids, seeds

import downscale
from downscale import TerrainPenalty
from downscale.errors import BoundsError, DownscaleError, InputError, OptionError, ShapeError

METHODS = ("sobolev", "conservative", "bilinear", "bicubic")


def exploding(ds: xr.Dataset) -> xr.Dataset:
    """The same Dataset with lazy fields whose blocks raise when they are computed."""

    def boom(block: np.ndarray) -> np.ndarray:
        raise AssertionError("a block was computed")

    made = {}
    for name, v in ds.data_vars.items():
        zeros = da.from_array(np.zeros(v.shape, v.dtype), chunks=(1, *v.shape[1:]))
        made[name] = xr.Variable(v.dims, zeros.map_blocks(boom, meta=np.empty(0, v.dtype)), v.attrs)
    return ds.assign(made)


def requests(grid: Any) -> dict[str, dict[str, Any]]:
    relief = relief_on(grid).chunk()
    return {
        "plain": {},
        "terrain": {
            "orog": relief, "lapse_rate": relief.orog * 1e-6, "relief_smoothing": 1.0,
            "terrain_penalty": TerrainPenalty(1e-5),
        },
        "total": {"method": "bilinear", "conserve": "total"},
        "none": {"method": "bicubic", "conserve": None},
        "chunks": {"output_chunks": {"time": 2}},
    }


@pytest.mark.parametrize("options", ["plain", "terrain", "total", "none", "chunks"])
def test_nothing_computes_at_call_time(options):
    ds = exploding(field_on(world()))
    with computations(0):
        fine = ds.downscale(2, **requests(world())[options])
        coarse = fine.downscale.coarsen(2)
        downscale.cell_area(fine)
    assert isinstance(coarse.tas.data, da.Array)
    with pytest.raises(AssertionError, match="a block was computed"):
        fine.compute()


def test_one_computation_does_all(monkeypatch):
    ds = rain_on(world()).chunk(time=1, lat=5)
    with computations(1) as scheduler:
        dask.compute(ds.downscale(2))
    assert scheduler.count == 1


def test_codes_are_lazy_too():
    codes = (("time", "lat", "lon"), np.ones((3, 12, 16), "i1"), {"flag_values": [1]})
    ds = exploding(field_on(world()).assign(code=codes))
    with computations(0):
        fine = ds.downscale(2)
        fine.downscale.coarsen(2)
    assert fine.code.dtype == np.int8


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", ["dataset", "array"])
def test_the_input_is_never_modified(lazy, kind, tmp_path):
    ds = rain_on(world(), missing=0.1).assign(
        code=(("lat", "lon"), np.ones((12, 16), "i1"), {"flag_values": [1], "valid_range": [0, 2]}), n=5
    )
    ds.pr.encoding = {"dtype": "int16", "scale_factor": 0.1, "source": "somewhere.nc"}
    ds.lat.encoding = {"_FillValue": 1e20}
    ds = ds.chunk(time=1) if lazy else ds
    obj: Any = ds if kind == "dataset" else ds.pr
    before = untouched(obj)
    fine = obj.downscale(2, orog=relief_on(world()), lapse_rate=-6.5e-3)
    obj.downscale.plan(2)
    obj.downscale.coarsen(2)
    obj.downscale.check(fine)
    kept = untouched(fine)
    downscale.to_netcdf(fine, tmp_path / "fine.nc", coarse=obj)
    assert_same(fine, kept)
    downscale.to_netcdf(obj, tmp_path / "coarse.nc")
    assert_same(obj, before)


@given(grids(1, 7), factor_pairs, st.sampled_from(METHODS), st.sampled_from([0.0, 0.3]), seeds)
def test_coarsening_gives_the_input_back(grid, factor, method, missing, seed):
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-6)):
        ds = field_on(grid, 2, missing=missing, seed=seed, dtype=dtype)
        factors = dict(zip(ds.tas.dims[1:], factor, strict=True))
        fine = ds.downscale(factors, method)
        back = fine.downscale.coarsen(factors)
        assert back.tas.dtype == dtype
        np.testing.assert_allclose(back.tas, ds.tas, rtol=tolerance)
        for name in set(ds.coords) - {"time"}:
            np.testing.assert_allclose(back[name], ds[name], atol=1e-9)
        assert back.time.drop_vars("crs", errors="ignore").identical(ds.time)


@pytest.mark.parametrize("where", sorted(GRIDS))
@pytest.mark.parametrize("lazy", [False, True])
def test_sums_over_cells_are_shared_out(where, lazy):
    """An extensive quantity: the parts add up to the whole, however unequal their areas."""
    ds = rain_on(GRIDS[where](), missing=0.1, cell_methods="time: mean area: sum", standard_name="", units="kg s-1")
    obj = ds.chunk(time=1) if lazy else ds
    fine = obj.downscale(3)
    sums = fine.pr.values.reshape(3, 12, 3, 16, 3).sum(axis=(2, 4))
    np.testing.assert_allclose(sums, ds.pr, rtol=1e-12, atol=1e-12)
    assert fine.downscale.check(ds).passed
    whole = obj.fillna(0.0)
    np.testing.assert_allclose(whole.downscale.coarsen(2).pr.sum(), float(ds.pr.sum()), rtol=1e-12)


def test_an_extensive_field_in_proportion_to_area_stays_so():
    area = downscale.cell_area(field_on(world())).drop_attrs(deep=False)
    fine = (area * 2.0).rename("mass").downscale(2, quantity="extensive", bounds=None)
    np.testing.assert_allclose(fine, 2.0 * downscale.cell_area(fine), rtol=1e-12)
    whole = (area * 2.0).rename("mass").downscale(2, "bilinear", quantity="extensive", conserve="total")
    np.testing.assert_allclose(whole.sum(), 2.0 * area.sum(), rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_conserve_says_what_is_kept(method):
    ds = field_on(world(), missing=0.1)
    cell, total, free = (ds.downscale(2, method, conserve=law) for law in ("cell", "total", None))
    assert cell.downscale.check(ds).passed
    assert downscale.check_conservation(ds, total, law="total").passed
    exact = method in ("sobolev", "conservative")
    assert bool(total.downscale.check(ds)) == bool(free.downscale.check(ds)) == exact
    assert bool(downscale.check_conservation(ds, free, law="total")) == exact


def test_none_leaves_bilinear_as_it_is():
    """Interpolation between cell centres, by numpy's own."""
    ds = field_on(region(), 1).isel(lat=[0], time=0, drop=True)
    fine = ds.downscale({"lon": 4}, "bilinear", conserve=None)
    np.testing.assert_allclose(fine.tas[0], np.interp(fine.lon, ds.lon, ds.tas[0]), rtol=1e-12)


def test_total_is_restored_where_a_kernel_cannot_keep_it():
    """A lapse rate that varies and target cells that are not equal break the law of any kernel."""
    ds, relief = field_on(world()), relief_on(world())
    fine = ds.downscale(2, orog=relief, lapse_rate=relief.orog * 1e-6 - 6e-3, conserve="total")
    assert downscale.check_conservation(ds, fine, law="total").passed
    lat = np.sort(np.concatenate([np.linspace(-90, 90, 13), np.linspace(-90, 75, 12) + 4]))
    bounds = xr.Variable(("lat", "bnds"), np.stack([lat[:-1], lat[1:]], axis=1))
    target = ds.downscale(2).coords.to_dataset().drop_vars(["lat", "lat_bnds", "areacella"])
    target = target.assign_coords(lat=("lat", bounds.values.mean(axis=1), ds.lat.attrs), lat_bnds=bounds)
    fine = ds.downscale(target_grid=target, conserve="total")
    np.testing.assert_array_equal(fine.lat_bnds, bounds)
    assert downscale.check_conservation(ds, fine, law="total").passed
    assert ds.downscale(target_grid=target).downscale.check(ds).passed


def test_maps_without_a_value_and_infinities_do_not_spoil_the_total():
    ds = field_on(world())
    ds["tas"][0] = np.nan
    ds["tas"][1, 2, 3] = np.inf
    with pytest.warns(UserWarning, match="tas: expected finite values, received infinite ones"):
        fine = ds.downscale(2, "bilinear", conserve="total")
    assert bool(fine.tas[0].isnull().all())
    assert int(fine.tas[1].isnull().sum()) == 4
    assert downscale.check_conservation(ds.where(np.isfinite(ds)), fine, law="total").passed


@given(st.sampled_from(sorted(GRIDS)), st.sampled_from(METHODS), seeds)
@settings(max_examples=10)
def test_bounds_hold_with_the_cell_law(where, method, seed):
    ds = rain_on(GRIDS[where](6, 7), 2, missing=0.1, seed=seed, dtype="float32")
    fine = ds.downscale(4, method)
    assert float(fine.pr.min()) >= 0
    report = fine.downscale.check(ds)
    assert report.passed
    assert report.max_relative_error <= 1e-6
    assert float(ds.downscale(4, method, bounds=None).pr.min()) < 0 or method in ("conservative", "bilinear")


def test_bounds_by_name_and_by_hand():
    ds = rain_on(region()).assign(tas=field_on(region()).tas)
    fine = ds.downscale(2, bounds={"tas": (270.0, None)})
    assert float(fine.tas.min()) >= 270
    assert float(fine.pr.min()) >= 0
    with pytest.raises(BoundsError, match=r"pr: expected coarse values within the bounds \[none, 1\]"):
        ds.downscale(2, bounds={"pr": (-np.inf, 1)})


def test_codes_are_repeated_never_averaged():
    codes = np.random.default_rng(0).integers(0, 5, (12, 16)).astype("int16")
    land = codes > 2
    ds = field_on(region()).assign(
        kind=(("lat", "lon"), codes, {"flag_values": [0, 1, 2, 3, 4], "flag_meanings": "a b c d e", "valid_max": 4}),
        land=(("lon", "lat"), land.T),
    )
    for fine in (ds.downscale(3), ds.chunk(lat=5).downscale(3)):
        np.testing.assert_array_equal(fine.kind, codes.repeat(3, 0).repeat(3, 1))
        np.testing.assert_array_equal(fine.land, land.T.repeat(3, 0).repeat(3, 1))
        assert (fine.kind.dtype, fine.land.dtype, fine.land.dims) == (np.int16, np.bool_, ("lon", "lat"))
        back = fine.downscale.coarsen(3)
        assert same_bits(back.kind, ds.kind)
        assert same_bits(back.land, ds.land)


def test_a_block_of_codes_takes_the_one_with_the_largest_area():
    """Near a pole the rows differ: two polar cells of code 1 are smaller than two of code 2."""
    codes = xr.DataArray(
        np.array([[1.0, 1.0, 3.0, np.nan], [2.0, 2.0, np.nan, np.nan]]),
        {"lat": ("lat", [85.0, 75.0], {"units": "degrees_north"}), "lon": [5.0, 15.0, 25.0, 35.0]},
        ("lat", "lon"), "code", {"flag_values": [1, 2, 3]},
    )  # fmt: skip
    assert codes.downscale.coarsen(2).values.tolist() == [[2.0, 3.0]]
    nothing = codes.where(codes == 0)
    assert np.isnan(nothing.downscale.coarsen(2)).all()


def test_a_nested_target_grid_is_an_answer_too(tmp_path):
    ds = field_on(world(), missing=0.1)
    fine = ds.downscale({"lat": 2, "lon": 4})
    for target in (fine, fine.tas, fine.isel(lat=slice(None, None, -1)), fine.assign_coords(lon=fine.lon - 360)):
        bare = target.drop_vars("lon_bnds", errors="ignore")
        found = ds.downscale(target_grid=bare).tas
        np.testing.assert_array_equal(found.lat, bare.lat)
        np.testing.assert_array_equal(found.lon, bare.lon)
        back = found.sortby("lat").assign_coords(lon=fine.lon)
        xr.testing.assert_allclose(back, fine.tas.sortby("lat"))
    fine.coords.to_dataset().drop_vars(["areacella", "time"]).to_netcdf(tmp_path / "grid.nc")
    assert same_bits(ds.downscale(target_grid=tmp_path / "grid.nc").tas, fine.tas)


def test_one_of_factor_and_target_grid_is_wanted():
    ds = field_on(world())
    with pytest.raises(OptionError, match="expected factor or target_grid, received both"):
        ds.downscale(2, target_grid=field_on(world(24, 32)))
    with pytest.raises(OptionError, match="expected factor or target_grid, received neither; try factor=4"):
        ds.downscale()


def test_a_field_that_is_all_relief_is_recovered_exactly():
    """y = U x + Gamma (z - U A z) and x = Gamma A z give y = Gamma z."""
    relief = relief_on(world(), (3, 3))
    coarse = relief.rename(orog="tas").downscale.coarsen(3) * -6.5e-3
    coarse.tas.attrs = {"units": "K"}
    fine = coarse.downscale(3, orog=relief, lapse_rate=-6.5e-3, relief_smoothing=0)
    np.testing.assert_allclose(fine.tas, -6.5e-3 * relief.orog, atol=1e-11)


@pytest.mark.parametrize("where", sorted(GRIDS))
def test_terrain_leaves_the_budgets_alone(where):
    grid = GRIDS[where]()
    ds, relief = field_on(grid, missing=0.1), relief_on(grid)
    penalty = TerrainPenalty(1e-6, 6.5e-3, iterations=4)
    for rate in (None, -6.5e-3, relief.orog * 1e-6 - 6e-3):
        fine = ds.downscale(2, orog=relief, lapse_rate=rate, terrain_penalty=penalty)
        assert fine.downscale.check(ds).passed
        assert not same_bits(fine.tas, ds.downscale(2).tas)


def test_the_orography_may_come_in_any_form(tmp_path):
    ds, relief = field_on(world()), relief_on(world())
    relief.to_netcdf(tmp_path / "relief.nc")
    wanted = ds.downscale(2, orog=relief, lapse_rate=-6.5e-3)
    finer = relief.downscale(2, "conservative")
    forms = (relief.orog, relief.chunk(lat=5), str(tmp_path / "relief.nc"), tmp_path / "relief.nc", finer)
    for form in forms:
        fine = ds.downscale(2, orog=form, lapse_rate=-6.5e-3)
        np.testing.assert_allclose(fine.tas, wanted.tas, rtol=1e-12)
    upside_down = relief.isel(lat=slice(None, None, -1))
    assert same_bits(ds.downscale(2, orog=upside_down, lapse_rate=-6.5e-3).tas, wanted.tas)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"factor": 0}, ShapeError, "expected factor to be a whole number of at least 1, received 0"),
        ({"factor": -2}, ShapeError, "received -2"),
        ({"factor": 2.5}, ShapeError, r"received 2\.5"),
        ({"factor": "x"}, ShapeError, "received 'x'"),
        ({"factor": {"latitude": 2}}, ShapeError, "expected factor for the dimensions 'lat', 'lon', 'time', received"),
        ({"method": "cubic"}, OptionError, "expected method to be one of 'sobolev', .*received 'cubic'"),
        ({"method": 3}, OptionError, "or an object with the protocol of a method, received int"),
        ({"metod": "sobolev"}, OptionError, "expected an argument among 'factor', .*'keep_attrs', .*received 'metod'"),
        ({"conserve": "mass"}, OptionError, "expected conserve to be one of 'cell', 'total', None, received 'mass'"),
        ({"check": "never"}, OptionError, "expected check to be one of 'raise', 'warn', 'log', 'skip'"),
        ({"quantity": "big"}, OptionError, "expected quantity to be one of 'intensive', 'extensive'"),
        ({"tolerance": 0}, OptionError, "expected tolerance to be a positive number, received 0"),
        ({"tolerance": "x"}, OptionError, "expected tolerance to be a positive number, received 'x'"),
        ({"bounds": "positive"}, OptionError, "expected bounds to be 'auto', None or a pair"),
        ({"bounds": {"t2m": (0, None)}}, OptionError, "expected bounds of variables among 'tas', received 't2m'"),
        ({"bounds": (3, 1)}, OptionError, "expected the lower bound below the upper"),
        ({"bounds": (0, None), "conserve": None}, OptionError, "expected conserve='cell' with bounds, received"),
        ({"bounds": (0, 5), "quantity": "extensive"}, OptionError, "tas: expected bounds of 0 or none for sums over"),
        ({"data_vars": "pr"}, InputError, "expected a variable among 'tas', received 'pr'"),
        ({"lapse_rate": -6e-3}, OptionError, "expected orog with lapse_rate, received none"),
        ({"terrain_penalty": 3}, OptionError, "expected terrain_penalty to be a TerrainPenalty, received int"),
        ({"terrain_penalty": TerrainPenalty(1.0), "conserve": None}, OptionError, "terrain_penalty, received None"),
        ({"taps": 4}, OptionError, "odd"),
        ({"order": 0.5}, OptionError, "order"),
    ],
)  # fmt: skip
def test_wrong_requests_get_one_line(options, error, match):
    with pytest.raises(error, match=match) as caught:
        field_on(world()).downscale(**{"factor": 2, **options})
    assert issubclass(error, DownscaleError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", ["fast", np.nan, [1, 2]])
def test_a_lapse_rate_is_a_number_or_a_field(rate):
    with pytest.raises(OptionError, match="expected lapse_rate to be"):
        field_on(world()).downscale(2, orog=relief_on(world()), lapse_rate=rate)


def test_only_xarray_objects_are_taken():
    for function in (lambda x: downscale.downscale(x, 2), lambda x: downscale.coarsen(x, 2), downscale.cell_area):
        with pytest.raises(InputError, match="expected an xarray Dataset or DataArray, received ndarray"):
            function(np.ones((4, 4)))


def test_a_dataset_without_fields_is_refused():
    with pytest.raises(InputError, match="expected a numeric variable with dimensions 'lat', 'lon', received"):
        field_on(world()).drop_vars("tas").downscale(2)


def test_coarsening_wants_a_multiple():
    with pytest.raises(ShapeError, match="expected a latitude axis of a multiple of 5 cells, received 12; crop it"):
        field_on(world()).downscale.coarsen(5)
    assert field_on(plane()).downscale.coarsen({"y": 4}).sizes["y"] == 3


def test_the_cells_of_the_world_are_its_surface():
    for ds in (field_on(world()), field_on(world()).downscale(3)):
        np.testing.assert_allclose(downscale.cell_area(ds).sum(), 4 * np.pi * 6_371_000.0**2, rtol=1e-12)
    fine = field_on(world()).downscale(3)
    np.testing.assert_array_equal(fine.areacella, downscale.cell_area(fine))
    assert fine.areacella.attrs["units"] == "m2"


def test_real_ocean_with_a_mask_and_another_calendar():
    path = shared_data("nasty_ocean_tos_ipsl_360day_masked.nc")
    ds = downscale.open_dataset(path).isel(time=slice(0, 2))
    fine = ds.downscale(2).load()
    report = fine.downscale.check(ds)
    assert report.passed
    assert report["tos"].cells_masked == int(ds.tos.isnull().sum())
    assert fine.time.dt.calendar == "360_day"
