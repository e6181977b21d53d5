"""Any rectilinear target, nested or not, finer or coarser: budgets, coordinates, masks, and an independent referee."""

from __future__ import annotations

import netCDF4
import numpy as np
import pytest
import xarray as xr
from command import command
from conftest import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_fields import (
    assert_same,
    coordinates,
    field_on,
    plane,
    rain_on,
    region,
    relief_on,
    same_bits,
    untouched,
    world,
)
from strategies import cuttings, grids, seeds
from test_referee import cdo, smooth

import downscale
from downscale import TerrainPenalty
from downscale.errors import GridError, InputError, OptionError, ShapeError
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import Subcells

METHODS = ("sobolev", "conservative", "bilinear", "bicubic")


def grid_of(lat: tuple[float, float, int], lon: tuple[float, float, int]) -> xr.Dataset:
    axes = CellAxis(np.linspace(*lat), "latitude"), CellAxis(np.linspace(*lon), "longitude")
    return xr.Dataset(coords=coordinates(RectilinearGrid(*axes)))


# A target for the world and one for a region (30-42 N, 10-26 E), none of which nests.
TARGETS = {
    "world": {
        "finer": grid_of((-90, 90, 38), (0, 360, 50)),
        "coarser": grid_of((90, -90, 8), (-180, 180, 12)),
        "a region": grid_of((10.3, 41.7, 45), (-25.5, 33.1, 71)),
    },
    "region": {
        "finer": grid_of((30, 42, 32), (10, 26, 50)),
        "coarser": grid_of((42, 30, 6), (10, 26, 8)),
        "beyond": grid_of((25, 50, 60), (0.3, 30.2, 80)),
        "within": grid_of((33.2, 40.1, 25), (371.7, 383.3, 31)),
    },
}
SOURCES = {"world": world(18, 36), "region": region()}
CASES = [(source, target) for source, targets in TARGETS.items() for target in targets]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("source", "target"), CASES)
def test_the_budget_of_what_is_covered_is_kept(source, target, method):
    coarse = rain_on(SOURCES[source], 2, missing=0.1)
    fine = coarse.downscale(target_grid=TARGETS[source][target], method=method)
    report = downscale.check_conservation(coarse, fine)
    assert report.passed, report
    assert report["pr"].max_relative_error < 1e-12
    assert float(fine.pr.min()) >= 0
    assert fine.pr.shape[1:] == TARGETS[source][target].lat_bnds.shape[:1] + TARGETS[source][target].lon_bnds.shape[:1]


def test_a_leak_is_found_where_grids_share_no_inner_edge():
    coarse = field_on(region())
    fine = coarse.downscale(target_grid=TARGETS["region"]["finer"])
    fine["tas"][1, 3, 4] *= 1 + 1e-4
    report = downscale.check_conservation(coarse, fine)
    assert not report.passed
    assert "2000-01-02" in str(report["tas"].where_relative["time"])


def test_the_law_holds_for_every_region_that_both_grids_know():
    """Cells of 1 and of 0.75 degrees share an edge every 3 degrees: 16 such regions here."""
    coarse = field_on(world(18, 36))
    target = grid_of((-90, 90, 25), (0, 360, 49))
    fine = coarse.downscale(target_grid=target)
    report = downscale.check_conservation(coarse, fine)["tas"]
    assert report.cells_checked == 3 * 6 * 12
    back = downscale.coarsen(fine, {"lat": 4, "lon": 4})
    blocks = downscale.coarsen(coarse, {"lat": 3, "lon": 3})
    np.testing.assert_allclose(back.tas, blocks.tas, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("source", "target"), CASES)
def test_a_mean_of_full_cells_is_no_fuller(source, target, method):
    """Rounded means of ones lie above one as often as below: a fraction above 1 is refused by whoever reads it."""
    coarse = rain_on(SOURCES[source], 2)
    covered = np.random.default_rng(8).uniform(size=coarse.pr.shape) < 0.7
    # Enough of either together for a coarser cell.
    covered[0], covered[1, :, : covered.shape[2] // 2] = True, False
    attrs = {"standard_name": "cloud_area_fraction", "units": "1"}
    coarse = xr.Dataset({"clt": coarse.pr.copy(data=np.where(covered, 1.0, 0.0)).assign_attrs(attrs)})
    fine = coarse.downscale(target_grid=TARGETS[source][target], method=method)
    assert float(fine.clt.max()) == 1
    assert float(fine.clt.min()) == 0
    assert float(fine.clt[0].min()) >= 1 - 1e-15
    assert downscale.check_conservation(coarse, fine).passed


@given(grids(2, 7), grids(2, 9), seeds, st.sampled_from(["sobolev", "conservative"]), st.sampled_from([0.0, 0.2]))
@settings(max_examples=40)
def test_any_pair_of_grids_keeps_the_law(source, there, seed, method, missing):
    if source.y.kind != there.y.kind:
        return
    coarse = rain_on(source, 2, seed=seed, missing=missing)
    target = xr.Dataset(coords=coordinates(there))
    try:
        for one, other in ((source.y, there.y), (source.x, there.x)):
            Subcells.between(one, other)
    except GridError:
        with pytest.raises(GridError, match="overlaps"):
            coarse.downscale(target_grid=target, method=method)
        return
    fine = coarse.downscale(target_grid=target, method=method)
    report = downscale.check_conservation(coarse, fine)["pr"]
    assert report.max_relative_error < 1e-9
    assert report.cells_lost == report.cells_invented == report.values_out_of_bounds == 0


def test_outside_is_missing_and_cells_that_stick_out_hold_the_mean_of_what_is_inside():
    coarse = field_on(region(), 1).isel(time=0)
    target = grid_of((29.5, 43.5, 8), (9, 27, 10))
    fine = coarse.downscale(target_grid=target, method="conservative")
    inside = np.zeros(fine.tas.shape, dtype=bool)
    inside[:7, :9] = True
    assert (np.isfinite(fine.tas) == inside).all()
    covered = np.diff(np.sin(np.deg2rad([30, 31, 31.5])))
    np.testing.assert_allclose(fine.tas[0, 0], np.average(coarse.tas[:2, 0], weights=covered), rtol=1e-12)
    whole = coarse.downscale(target_grid=target, method="conservative", na_thres=0.0)
    assert int(np.isfinite(whole.tas).sum()) == 5 * 7


def test_the_result_lies_on_the_very_coordinates_of_the_target():
    coarse, target = field_on(region()), TARGETS["region"]["coarser"].rename(lat="y_lat", lon="x_lon")
    target["y_lat"].attrs["long_name"] = "rows from north to south"
    nested = field_on(region()).downscale(2).isel(lat=slice(None, None, -1)).rename(lat="latitude", lon="longitude")
    for there, names in ((target, ("y_lat", "x_lon")), (nested, ("latitude", "longitude"))):
        fine = coarse.downscale(target_grid=there)
        assert fine.tas.dims == ("time", *names)
        for name in names:
            np.testing.assert_array_equal(fine[name], there[name])
            assert fine[name].attrs["standard_name"] == there[name].attrs["standard_name"]
            bounds = [np.sort(ds[ds[name].attrs["bounds"]], axis=1) for ds in (fine, there)]
            np.testing.assert_allclose(*bounds, atol=1e-12)
    assert coarse.downscale(target_grid=target).y_lat.attrs["long_name"] == "rows from north to south"


def test_a_nested_target_is_the_factor_in_its_own_order():
    coarse = field_on(world(12, 16))
    plain = coarse.downscale(2)
    turned = plain.isel(lat=slice(None, None, -1)).roll(lon=5, roll_coords=True)
    turned = turned.assign_coords(lon=(turned.lon + 180) % 360 - 180, lon_bnds=turned.lon_bnds)
    fine = coarse.downscale(target_grid=turned.drop_vars("lon_bnds"))
    expected = plain.tas.isel(lat=slice(None, None, -1)).roll(lon=5, roll_coords=False)
    np.testing.assert_array_equal(fine.tas, expected)
    np.testing.assert_array_equal(fine.lon, turned.lon)


def test_unequal_nested_cells_are_predicted_as_what_they_are():
    """A field that is smooth in the coordinate: parts of a third and two thirds differ from halves."""
    lon = CellAxis(np.arange(0.0, 41.0), "longitude")
    fine_lon = CellAxis(np.sort(np.concatenate([lon.edges, lon.edges[:-1] + 1 / 3])), "longitude")
    lat = CellAxis(np.array([0.0, 1.0]), "latitude")
    truth = (fine_lon.edges[1:] ** 3 - fine_lon.edges[:-1] ** 3) / (3 * np.diff(fine_lon.edges))
    mean = (lon.edges[1:] ** 3 - lon.edges[:-1] ** 3) / 3
    coarse = xr.Dataset({"x": (("lat", "lon"), mean[None])}, coordinates(RectilinearGrid(lat, lon)))
    target = xr.Dataset(coords=coordinates(RectilinearGrid(lat, fine_lon)))
    fine = coarse.downscale(target_grid=target, order=2.0, bounds=None)
    np.testing.assert_allclose(fine.x[0, 8:-8], truth[8:-8], rtol=1e-3)
    assert np.abs(coarse.downscale(2, order=2.0, bounds=None).x[0, 8:-8] / truth[8:-8] - 1).max() > 1e-2


@pytest.mark.parametrize("text", ["0.5x0.4", "3x5", " 0.7 X 1.5 "])
def test_a_resolution_is_a_target(text):
    rows, columns = map(float, text.lower().split("x"))
    fine = field_on(world(18, 36)).downscale(target_grid=text)
    assert fine.sizes["lon"] == round(360 / columns)
    assert fine.sizes["lat"] == np.ceil(180 / rows - 1e-6)
    assert float(fine.lon[0]) == pytest.approx(columns / 2)
    regional = field_on(region()).downscale(target_grid=text)
    assert np.allclose((regional.lat_bnds.values[:-1] + 90) / rows % 1 % (1 - 1e-9), 0, atol=1e-6)


def test_a_file_is_a_target(tmp_path):
    coarse = field_on(region())
    TARGETS["region"]["finer"].assign(x=("lat", np.zeros(31))).to_netcdf(tmp_path / "target.nc")
    fine = coarse.downscale(target_grid=tmp_path / "target.nc")
    xr.testing.assert_equal(fine, coarse.downscale(target_grid=TARGETS["region"]["finer"]))


@given(st.data(), seeds)
@settings(max_examples=10)
def test_any_chunking_gives_the_same_bits_and_stays_lazy(data, seed):
    coarse = rain_on(region(), 4, seed=seed, missing=0.2, dtype="float32")
    target = TARGETS["region"][data.draw(st.sampled_from(sorted(TARGETS["region"])))]
    eager = coarse.downscale(target_grid=target)
    cut = {dim: tuple(data.draw(cuttings(size))) for dim, size in (("time", 4), ("lat", 12), ("lon", 16))}
    lazy = coarse.chunk(cut).downscale(target_grid=target)
    assert lazy.pr.chunks is not None
    assert lazy.pr.dtype == "float32"
    assert same_bits(lazy.pr, eager.pr)


def test_the_input_is_not_modified():
    coarse = field_on(region())
    before = untouched(coarse)
    coarse.downscale(target_grid=TARGETS["region"]["beyond"], mask=relief_on(region()).orog >= 0)
    assert_same(coarse, before)


def test_sums_over_cells_stay_sums():
    coarse = rain_on(region(), 2, missing=0.1, cell_methods="area: sum")
    for target in TARGETS["region"].values():
        fine = coarse.downscale(target_grid=target)
        assert downscale.check_conservation(coarse, fine).passed
    inside = coarse.downscale(target_grid=TARGETS["region"]["finer"]).pr
    np.testing.assert_allclose(inside.sum(("lat", "lon")), coarse.pr.sum(("lat", "lon")), rtol=1e-12)


@pytest.mark.parametrize("target", [None, "finer", "within"])
def test_sums_under_a_mask_lose_nothing(target):
    """What a coarse cell holds lies in its valid parts, however few they are."""
    coarse = rain_on(region(), 2, missing=0.1, cell_methods="area: sum")
    options = {"factor": 3} if target is None else {"target_grid": TARGETS["region"][target]}
    grid = coarse.downscale(**options).pr[0].drop_vars("time")
    mask = xr.ones_like(grid, dtype=bool)
    mask[1::3, 1::3] = False
    fine = coarse.downscale(mask=mask, **options)
    assert downscale.check_conservation(coarse, fine, mask=mask).passed
    if target is None:
        blocks = fine.pr.values.reshape(2, 12, 3, 16, 3)
        np.testing.assert_allclose(np.nansum(blocks, axis=(2, 4)), coarse.pr.fillna(0.0), rtol=1e-12)
        np.testing.assert_allclose(downscale.coarsen(fine, 3).pr, coarse.pr, rtol=1e-12)
    leaking = fine.copy(deep=True)
    leaking["pr"] *= 1.001
    assert not downscale.check_conservation(coarse, leaking, mask=mask).passed


def test_blocks_of_which_too_much_is_missing_are_blank_on_request():
    fine = field_on(region(), 1)
    fine["tas"][0, :2, :1] = np.nan
    fine["tas"][0, 2, 0] = np.nan
    counts = [int(downscale.coarsen(fine, 2, na_thres=t).tas.isnull().sum()) for t in (0.0, 0.3, 0.6, 1.0)]
    assert counts == [2, 1, 0, 0]
    with pytest.raises(OptionError, match="expected na_thres to be a number from 0 to 1, received 2"):
        fine.downscale.coarsen(2, na_thres=2)


@pytest.mark.parametrize("method", METHODS)
def test_a_mask_keeps_the_law_over_what_is_valid(method):
    coarse = rain_on(region(), 2, missing=0.05)
    mask = relief_on(region(), (3, 3)).orog > 150
    fine = coarse.downscale(3, mask=mask, method=method)
    assert (np.isnan(fine.pr.isel(time=0)) | mask.values).all()
    assert downscale.check_conservation(coarse, fine, mask=mask).passed
    area = downscale.cell_area(fine)
    block = np.s_[6:9, 9:12]
    valid = np.isfinite(fine.pr.values[0][block])
    assert 0 < valid.sum() < 9
    mean = np.average(fine.pr.values[0][block][valid], weights=area.values[block][valid])
    assert mean == pytest.approx(float(coarse.pr[0, 2, 3]), rel=1e-12)


def test_masks_come_as_fractions_percentages_and_truths_on_other_grids():
    coarse = field_on(region(), 1)
    share = xr.DataArray(np.random.default_rng(3).uniform(size=(24, 32)), coords={}, dims=("lat", "lon"))
    # A part of every coarse cell is valid.
    share[::2, ::2] = 0.9
    fine = coarse.downscale(2)
    share = share.assign_coords(lat=fine.lat, lon=fine.lon)
    percent = (100 * share).assign_attrs(units="%", standard_name="land_area_fraction").to_dataset(name="sftlf")
    turned = (share > 0.5).isel(lat=slice(None, None, -1))
    expected = coarse.downscale(2, mask=share)
    assert int(expected.tas.isnull().sum()) == int((share <= 0.5).sum())
    for mask in (percent, turned, turned.astype(int)):
        xr.testing.assert_equal(coarse.downscale(2, mask=mask).tas, expected.tas)


def test_a_cell_without_any_valid_part_is_told_and_counted():
    coarse = field_on(region(), 1)
    mask = xr.ones_like(coarse.downscale(2).tas[0].drop_vars("time"))
    mask[4:6, 6:8] = 0
    with pytest.warns(UserWarning, match="tas: coarse cells with a value have no valid fine cell under mask="):
        coarse.downscale(2, mask=mask, quantity="extensive")
    fine = coarse.downscale(2, mask=mask)
    assert downscale.check_conservation(coarse, fine)["tas"].cells_lost == 1
    report = downscale.check_conservation(coarse, fine, mask=mask)
    assert (report.passed, report["tas"].cells_masked) == (True, 1)


def test_masks_and_thresholds_with_a_target_that_cuts_cells():
    coarse = rain_on(region(), 2, missing=0.1)
    target = grid_of((42, 30, 9), (10, 25, 11))
    some, half, whole = (coarse.downscale(target_grid=target, na_thres=t).pr.notnull().sum() for t in (1.0, 0.2, 0.0))
    assert int(some) > int(half) > int(whole)
    kept = coarse.downscale(target_grid=target, na_thres=0.2)
    assert downscale.check_conservation(coarse, kept, na_thres=0.2).passed
    assert not downscale.check_conservation(coarse, kept).passed
    mask = xr.DataArray(np.ones((8, 10), dtype=bool), {"lat": target.lat, "lon": target.lon}, ("lat", "lon"))
    mask[2, 3] = False
    masked = coarse.downscale(target_grid=target, mask=mask)
    assert np.isnan(masked.pr[:, 2, 3]).all()
    assert int(masked.pr.isnull().sum()) == 2 + int(coarse.downscale(target_grid=target).pr.isnull().sum())


def test_relief_is_added_on_the_pieces():
    coarse, relief = smooth(region(), "float64"), relief_on(region(), (6, 6))
    target = TARGETS["region"]["finer"]
    fine = coarse.downscale(target_grid=target, orog=relief, lapse_rate=-6.5e-3)
    assert downscale.check_conservation(coarse, fine).passed
    assert float(np.abs(fine.tas - coarse.downscale(target_grid=target).tas).max()) > 0.5


def test_what_a_target_cannot_be_is_refused():
    coarse, finer, penalty = field_on(region()), TARGETS["region"]["finer"], TerrainPenalty(1e-6)
    cases = [
        ({"target_grid": 7}, OptionError, "expected target_grid to be a Dataset, a DataArray, a file"),
        ({"target_grid": "0.5x0"}, OptionError, 'two positive numbers such as "0.25x0.25", received'),
        ({"target_grid": "1e-9x1"}, OptionError, "at most 200000 cells along an axis"),
        ({"target_grid": "nowhere.nc"}, InputError, "target_grid: expected an existing file, received nowhere.nc"),
        ({"target_grid": coarse, "factor": 2}, OptionError, "expected factor or target_grid, received both"),
        ({"target_grid": field_on(region(south=60.0))}, GridError, "overlaps the latitude range 30 to 42"),
        ({"target_grid": field_on(plane())}, GridError, "received one on metres of a projection"),
        ({"target_grid": finer, "conserve": "total"}, OptionError, "nested target grid with conserve"),
        ({"target_grid": finer, "terrain_penalty": penalty}, OptionError, "nested target grid with terrain_penalty"),
        ({"factor": 2, "na_thres": 1.5}, OptionError, "na_thres to be a number from 0 to 1, received 1.5"),
        ({"factor": 2, "mask": 3}, InputError, "expected mask to be a Dataset, a DataArray or a file, received int"),
        ({"factor": 2, "mask": coarse.tas}, GridError, "mask: expected two dimensions"),
        ({"factor": 2, "mask": -coarse.tas[0]}, InputError, "mask: expected True and False, or a fraction"),
    ]  # fmt: skip
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            coarse.downscale(**options)
    with pytest.raises(OptionError, match=r"divides 360 degrees, received '1x0.7'; the nearest is 0\.7003"):
        field_on(world()).downscale(target_grid="1x0.7")
    codes = coarse.assign(kind=coarse.tas.astype("i2").assign_attrs(flag_values=[1, 2]))
    with pytest.raises(GridError, match="nested target for the codes 'kind'"):
        codes.downscale(target_grid=TARGETS["region"]["finer"])
    with pytest.raises(ShapeError, match="nested target grid for this method"):
        coarse.downscale(target_grid=TARGETS["region"]["finer"], method=downscale.nn.SobolevUpsample(region(), 2))


@pytest.mark.parametrize(("source", "target"), CASES)
def test_cdo_remapcon_agrees(tmp_path, source, target):
    """First-order conservative weights in both directions, global and regional, whatever lies outside."""
    coarse, there = smooth(SOURCES[source], "float64"), TARGETS[source][target]
    downscale.to_netcdf(coarse, tmp_path / "in.nc")
    fine = coarse.downscale(target_grid=there, method="conservative")
    downscale.to_netcdf(xr.zeros_like(fine), tmp_path / "grid.nc")
    cdo(f"remapcon,{tmp_path / 'grid.nc'}", "-selname,tas", tmp_path / "in.nc", tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        theirs = np.ma.filled(file["tas"][:].astype("f8"), np.nan)
    ours = fine.tas.values
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    assert np.nanmax(np.abs(ours / theirs - 1)) < 1e-6


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("temperature_wind_precip_era5_global_1deg.nc", "2.5x2.5"),
        ("temperature_wind_precip_era5_global_1deg.nc", "0.7x0.75"),
        ("temperature_era5_uk_0p25deg_201903_d01-20.nc", "0.1x0.13"),
        ("temperature_era5_uk_0p25deg_201903_d01-20.nc", "1.1x0.9"),
        ("nasty_ocean_tos_ipsl_360day_masked.nc", "0.8x1.5"),
        ("nasty_ocean_tos_ipsl_360day_masked.nc", "4x4"),
    ],
)
def test_cdo_remapcon_agrees_on_real_fields(tmp_path, name, target):
    ds = downscale.open_dataset(shared_data(name), chunks=None)
    variable = "tos" if "tos" in ds else "t2m"
    coarse = ds[[variable]].isel(time=slice(0, 1)).astype("f8")
    downscale.to_netcdf(coarse, tmp_path / "in.nc")
    fine = coarse.downscale(target_grid=target, method="conservative")
    report = downscale.to_netcdf(fine, tmp_path / "fine.nc", coarse=coarse)
    assert report.passed
    cdo(f"remapcon,{tmp_path / 'fine.nc'}", f"-selname,{variable}", tmp_path / "in.nc", tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        theirs = np.ma.filled(file[variable][:].astype("f8"), np.nan)
    ours = fine[variable].values
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    assert np.nanmax(np.abs(ours / theirs - 1)) < 1e-6


def test_a_file_with_a_time_axis_only_is_taken_as_the_object(tmp_path):
    """Days of a file that knows no place: the field is made along time, on its own cells."""
    edges = xr.date_range("2001-02-01", periods=4, freq="MS").values
    monthly = field_on(region(), dtype="float64").isel(time=slice(0, 3)).assign_coords(
        time=("time", edges[:-1], {"standard_name": "time", "bounds": "time_bnds"}),
        time_bnds=(("time", "bnds"), np.stack([edges[:-1], edges[1:]], axis=1)),
    )
    daily = monthly.downscale(target_grid={"time": "D"})
    times = xr.Dataset(coords={name: daily[name].variable for name in ("time", "time_bnds")})
    for ds in (times, monthly):
        ds.time.encoding["units"] = "hours since 2000-01-01"
    times.to_netcdf(tmp_path / "days.nc")
    made = monthly.downscale(target_grid=tmp_path / "days.nc")
    assert same_bits(made.tas, monthly.downscale(target_grid=times).tas)
    assert same_bits(made.tas, monthly.downscale(target_grid=str(tmp_path / "days.nc")).tas)
    assert made.downscale.check(monthly).passed
    monthly.to_netcdf(tmp_path / "months.nc")
    said = command("apply", tmp_path / "months.nc", tmp_path / "out.nc", "--target", tmp_path / "days.nc")
    assert said.status == 0, said.err
    with downscale.open_dataset(tmp_path / "out.nc") as back:
        np.testing.assert_array_equal(back.time, times.time)


def test_a_file_that_is_none_is_refused_as_a_target(tmp_path):
    with pytest.raises(InputError, match=r"target_grid: expected .*days\.nc"):
        field_on(region()).downscale(target_grid=tmp_path / "days.nc")
