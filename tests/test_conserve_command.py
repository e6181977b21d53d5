"""Fine fields from any source get exact cell means: by the function, the accessor and the command, on all grids."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import dask
import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr
from command import command
from sample_fields import GRIDS, assert_same, coordinates, field_on, rain_on, region, same_bits, untouched, world
from test_referee import cdo, gaps

import downscale
from downscale.errors import BoundsError, ConservationError, GridError, InputError, OptionError
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid


def interpolated(coarse: xr.Dataset, fine: xr.Dataset) -> xr.Dataset:
    """What ``xr.interp`` gives at the centres of fine cells; it drops all bounds."""
    y, x = fine[next(iter(fine.data_vars))].dims[-2:]
    at = {dim: fine[dim] for dim in (y, x)}
    made = coarse.drop_vars([name for name in coarse.variables if name.endswith("_bnds")]).interp(
        at, kwargs={"fill_value": "extrapolate"}
    )
    for dim in (y, x):
        made[dim].attrs = {key: value for key, value in fine[dim].attrs.items() if key != "bounds"}
    return made.astype(coarse[next(iter(coarse.data_vars))].dtype)


def crossing(grid: RectilinearGrid) -> xr.Dataset:
    """Cells of about a third of the size of those of a grid, with edges anywhere."""
    axes = []
    for axis in (grid.y, grid.x):
        count = axis.size * 3 + 1
        axes.append(CellAxis(np.linspace(axis.edges[0], axis.edges[-1], count + 1), axis.kind, axis.closed))
    return xr.Dataset(coords=coordinates(RectilinearGrid(*axes)))


def proposal(coarse: xr.Dataset, nested: bool, grid: RectilinearGrid) -> xr.Dataset:
    """A fine field of the right cells and the wrong means."""
    name = next(iter(coarse.data_vars))
    options: Any = {"factor": 3} if nested else {"target_grid": crossing(grid)}
    fine = coarse.downscale(method="bilinear", conserve=None, **options)
    noise = np.random.default_rng(0).uniform(0.5, 1.5, fine[name].shape).astype(fine[name].dtype)
    return fine.assign({name: (fine[name] * noise).assign_attrs(fine[name].attrs)}).drop_attrs(deep=False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "crossing"])
@pytest.mark.parametrize("kind", sorted(GRIDS))
@pytest.mark.parametrize("constraint", ["additive", "multiplicative", "bounded"])
def test_every_cell_has_its_mean(kind, nested, dtype, constraint):
    grid = GRIDS[kind](6, 8)
    make = field_on if constraint == "additive" else rain_on
    coarse = make(grid, 2, dtype=dtype)
    fine = proposal(coarse, nested, grid)
    before = untouched(fine)
    assert not downscale.check_conservation(coarse, fine).passed
    made = downscale.conserve(fine, coarse, constraint)
    assert_same(fine, before)
    name = next(iter(coarse.data_vars))
    report = downscale.check_conservation(coarse, made)
    assert report.passed, report
    assert report[name].claim == "cell"
    assert report[name].max_relative_error < {"float32": 1e-7, "float64": 1e-13}[dtype]
    assert made[name].dtype == dtype
    assert made[name].dims == fine[name].dims
    assert made[name].attrs["units"] == fine[name].attrs["units"]
    assert made.attrs["history"].splitlines()[0].endswith(made.attrs["downscale_settings"])
    if constraint != "additive":
        assert float(made[name].min()) >= 0
    again = downscale.conserve(made, coarse, constraint)
    rounding = (1e-6 if dtype == "float32" else 1e-12) * float(abs(made[name]).max())
    np.testing.assert_allclose(again[name], made[name], rtol=0, atol=rounding)


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "crossing"])
@pytest.mark.parametrize("constraint", ["auto", "multiplicative"])
def test_chunks_change_no_bit_and_lazy_stays_lazy(nested, constraint):
    grid = world(6, 8)
    coarse = rain_on(grid, 4, dtype="float32", missing=0.1)
    fine = proposal(coarse, nested, grid)
    fine.pr[1, 4:7, 5:9] = np.nan
    made = downscale.conserve(fine, coarse, constraint)
    y, x = fine.pr.dims[-2:]
    for chunks in ({"time": 1}, {"time": 3, y: 5, x: 7}, {y: 6}):
        with dask.config.set(scheduler="sync"):
            lazy = downscale.conserve(fine.chunk(chunks), coarse.chunk({"time": 2, "lat": 4}), constraint)
            assert lazy.pr.chunks is not None
            assert same_bits(lazy.pr, made.pr), chunks
    half = downscale.conserve(fine.chunk({"time": 2}), coarse, constraint)
    assert half.pr.chunks is not None
    assert same_bits(half.pr, made.pr)


def test_the_order_of_the_axes_and_the_branch_of_longitudes_are_those_of_the_fine_field():
    coarse = field_on(world(6, 8), 2)
    plain = proposal(coarse, True, world(6, 8))
    expected = downscale.conserve(plain, coarse)
    turned = plain.isel(lat=slice(None, None, -1)).roll(lon=7, roll_coords=True)
    turned = turned.assign_coords(lon=(turned.lon + 180) % 360 - 180).drop_vars(["lon_bnds", "lat_bnds"]).sortby("lon")
    made = downscale.conserve(turned, coarse)
    np.testing.assert_array_equal(made.lat, turned.lat)
    np.testing.assert_array_equal(made.lon, turned.lon)
    back = made.assign_coords(lon=made.lon % 360).sortby("lon").sortby("lat")
    np.testing.assert_allclose(back.tas, expected.tas, rtol=1e-14)
    assert downscale.check_conservation(coarse, made).passed
    # New bounds belong to the cells, in the order of the fine field.
    np.testing.assert_allclose(made.lat_bnds.mean("bnds"), made.lat, atol=1e-12)
    np.testing.assert_allclose(made.lon_bnds.mean("bnds"), made.lon, atol=1e-12)
    np.testing.assert_allclose(made.areacella.sum(), 4 * np.pi * 6_371_000**2, rtol=1e-12)


def test_fields_without_bounds_get_those_of_the_coarse_cells():
    coarse = field_on(gaussian_rows(), 1)
    fine = interpolated(coarse, coarse.downscale(4))
    made = downscale.conserve(fine, coarse)
    assert "lat_bnds" in made.coords
    np.testing.assert_array_equal(made.lat_bnds, coarse.downscale(4).lat_bnds)
    assert downscale.check_conservation(coarse, made).passed


def gaussian_rows() -> RectilinearGrid:
    rows = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(8)[0]))
    edges = np.concatenate([[-90.0], 0.5 * (rows[:-1] + rows[1:]), [90.0]])
    return RectilinearGrid(CellAxis(edges, "latitude"), CellAxis(np.linspace(0, 360, 13), "longitude"))


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "crossing"])
def test_sums_over_cells_are_conserved_as_sums(nested):
    grid = region(6, 8)
    coarse = rain_on(grid, 2, name="people", standard_name="", units="1")
    coarse.people.attrs = {"units": "person", "cell_methods": "area: sum"}
    fine = proposal(coarse, nested, grid)
    fine.people.attrs = dict(coarse.people.attrs)
    fine.people[0, 4, 4] = np.nan
    made = downscale.conserve(fine, coarse)
    assert downscale.check_conservation(coarse, made).passed
    np.testing.assert_allclose(made.people.sum(["lat", "lon"]), coarse.people.sum(["lat", "lon"]), rtol=1e-12)


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "crossing"])
def test_masks_and_gaps(nested):
    """Means hold over valid cells; cells without a coarse value are missing; lost cells are counted."""
    grid = region(6, 8)
    coarse = field_on(grid, 2, missing=0.1)
    fine = proposal(field_on(grid, 2), nested, grid)
    mask = xr.ones_like(fine.tas.isel(time=0, drop=True))
    mask[:4, :9] = 0
    made = downscale.conserve(fine, coarse, mask=mask)
    report = downscale.check_conservation(coarse, made, mask=mask)
    assert report.passed, report
    assert np.isnan(made.tas.values[:, :4, :9]).all()
    assert report["tas"].cells_masked > 0
    holes = fine.copy(deep=True)
    holes.tas[:, 8, 9] = np.nan
    made = downscale.conserve(holes, coarse)
    report = downscale.check_conservation(coarse, made)
    assert report.passed
    assert report["tas"].cells_with_gaps > 0
    holes.tas[0, :8, :8] = np.nan
    with pytest.raises(ConservationError, match=r"[1-9][0-9]* cells lost"):
        downscale.conserve(holes, field_on(grid, 2))
    made = downscale.conserve(holes, field_on(grid, 2), check="skip")
    assert downscale.check_conservation(field_on(grid, 2), made)["tas"].cells_lost > 0


def test_other_variables_units_names_and_times():
    coarse = field_on(region(5, 6), 2)
    fine = proposal(coarse, True, region(5, 6))
    celsius = fine.assign(tas=(fine.tas - 273.15).assign_attrs(fine.tas.attrs, units="degC"), other=fine.tas * 2)
    made = downscale.conserve(celsius, coarse)
    np.testing.assert_array_equal(made.other, celsius.other)
    np.testing.assert_allclose(made.tas + 273.15, downscale.conserve(fine, coarse).tas, rtol=1e-12)
    array = downscale.conserve(fine.tas.rename("theirs"), coarse.tas)
    assert array.name == "theirs"
    made = downscale.conserve(fine, coarse)
    np.testing.assert_array_equal(array, made.tas)
    np.testing.assert_array_equal(fine.downscale.conserve(coarse).tas, made.tas)
    with pytest.raises(InputError, match="expected a variable that both fields have, received 'tas' and 'mine'"):
        downscale.conserve(fine.rename(tas="mine"), coarse)
    with pytest.raises(InputError, match="expected units of the fine field that fit 'K', received 'mm'"):
        downscale.conserve(fine.assign(tas=fine.tas.assign_attrs(units="mm")), coarse)
    with pytest.raises(GridError, match="equal coordinates 'time'"):
        downscale.conserve(fine.assign_coords(time=fine.time.values + timedelta(days=1)), coarse)
    members = fine.expand_dims(realization=[0, 1]) * xr.DataArray([1.0, 1.1], dims="realization")
    members.tas.attrs = fine.tas.attrs
    made = downscale.conserve(members, coarse)
    assert made.tas.dims == members.tas.dims
    assert downscale.check_conservation(coarse, made).passed


def test_a_curvilinear_field_of_nested_cells():
    lon, lat = np.meshgrid(np.linspace(0, 30, 7), np.linspace(40, 60, 6))
    lon = lon + 0.3 * lat
    coarse = xr.Dataset(
        {"tas": (("y", "x"), 280 + np.random.default_rng(0).standard_normal(lon.shape), {"units": "K"})},
        {"lat": (("y", "x"), lat, {"units": "degrees_north", "standard_name": "latitude"}),
         "lon": (("y", "x"), lon, {"units": "degrees_east", "standard_name": "longitude"})},
    )  # fmt: skip
    fine = coarse.downscale(2, method="bilinear", conserve=None)
    made = downscale.conserve(fine, coarse)
    assert downscale.check_conservation(coarse, made).passed
    assert downscale.check_conservation(coarse, downscale.conserve(fine.chunk({"y": 3}), coarse)).passed


def test_bounds_and_constraints():
    grid = region(5, 6)
    coarse = rain_on(grid, 2)
    fine = proposal(coarse, True, grid)
    capped = downscale.conserve(fine, coarse, bounds=(0, float(coarse.pr.max()) * 1.01))
    assert float(capped.pr.max()) <= float(coarse.pr.max()) * 1.01
    free = downscale.conserve(fine - 5, coarse, bounds=None)
    assert float(free.pr.min()) < 0
    with pytest.raises(BoundsError, match="within the bounds"):
        downscale.conserve(fine, coarse, bounds=(0, float(coarse.pr.max()) / 2))
    with pytest.raises(OptionError, match="expected bounds with constraint='bounded', received none"):
        downscale.conserve(proposal(field_on(grid, 1), True, grid), field_on(grid, 1), "bounded")
    with pytest.raises(OptionError, match="expected constraint='bounded' with bounds, received 'additive'"):
        downscale.conserve(fine, coarse, "additive", bounds=(0, None))
    with pytest.raises(OptionError, match=r"expected constraint to be one of 'auto', .*, received 'ratio'"):
        downscale.conserve(fine, coarse, "ratio")
    with pytest.raises(GridError, match="at least as many rows and columns as the coarse one"):
        downscale.conserve(coarse, fine)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"boundz": 1}, "expected an argument among 'constraint', 'bounds', .*, received 'boundz'"),
        ({"factor": 3}, "received 'factor'"),
        ({"conserve": None, "climatology": "no.nc"}, "received 'conserve', 'climatology'"),
        ({"bounds": {"tass": (0, None)}}, "expected bounds of variables among 'tas', received 'tass'"),
        ({"quantity": {"tass": "extensive"}}, "expected quantity of variables among 'tas', received 'tass'"),
    ],
)
def test_arguments_and_variables_that_it_does_not_know_are_refused(options, words):
    coarse = field_on(region(4, 5), 1)
    with pytest.raises(OptionError, match=words):
        proposal(coarse, True, region(4, 5)).downscale.conserve(coarse, **options)


# Three tools that interpolate, and CDO as a referee of the result.


def remapbil(coarse: Path, fine: Path, out: Path) -> None:
    cdo(f"remapbil,{fine}", "-selname,tas", coarse, out)


def interp(coarse: Path, fine: Path, out: Path) -> None:
    with downscale.open_dataset(coarse) as x, downscale.open_dataset(fine) as y:
        interpolated(x[["tas"]].load(), y[["tas"]]).to_netcdf(out)


def bicubic(coarse: Path, fine: Path, out: Path) -> None:
    with xr.open_dataset(coarse) as x, xr.open_dataset(fine) as y:
        maps = torch.from_numpy(x.tas.values)[:, None]
        size = y.tas.shape[-2:]
        values = torch.nn.functional.interpolate(maps, size=size, mode="bicubic", align_corners=False)[:, 0]
        y[["tas"]].assign(tas=(y.tas.dims, values.numpy(), x.tas.attrs)).to_netcdf(out)


@pytest.mark.parametrize("target", [4, "0.6x0.7"], ids=["nested", "crossing"])
@pytest.mark.parametrize("tool", [remapbil, interp, bicubic])
def test_what_other_tools_make_comes_back_in_cdo(tmp_path, tool, target):
    sample = downscale.sample.open("north_america").isel(time=[0, -1])
    options: Any = {"factor": target} if target == 4 else {"target_grid": target}
    downscale.to_netcdf(sample, tmp_path / "coarse.nc")
    downscale.to_netcdf(sample.downscale(method="conservative", **options), tmp_path / "cells.nc")
    tool(tmp_path / "coarse.nc", tmp_path / "cells.nc", tmp_path / "fine.nc")
    files = tmp_path / "fine.nc", tmp_path / "coarse.nc", tmp_path / "out.nc"
    assert command("check", files[1], files[0]).status == 1
    shown = command("conserve", *files)
    assert shown.status == 0, shown.err
    assert "passed" in shown.out
    assert command("check", files[1], files[2]).status == 0
    with netCDF4.Dataset(files[2]) as file:
        certificate = json.loads(file.conservation_certificate)
        assert certificate["variables"]["tas"]["max_relative_error"] < 1e-7
        assert certificate["variables"]["tas"]["compared"] == "cells"
    cdo(f"remapcon,{files[1]}", "-selname,tas", files[2], tmp_path / "back.nc")
    with downscale.open_dataset(files[1]) as coarse:
        inside = _covered(tmp_path / "back.nc", coarse.tas)
        assert inside < 1e-6


def _covered(back: Path, coarse: xr.DataArray) -> float:
    return gaps(back, coarse.load())


def write(ds: xr.Dataset, path: Path, **encoding: Any) -> Path:
    ds.to_netcdf(path, encoding={"tas": encoding}, unlimited_dims=["time"])
    return path


def test_the_file_keeps_type_chunks_compression_and_attributes(tmp_path):
    grid = world(12, 24)
    coarse = field_on(grid, 3, dtype="float32")
    fine = proposal(coarse, True, grid)
    fine.tas.attrs["comment"] = "by a network"
    fine.attrs["institution"] = "ours"
    downscale.to_netcdf(coarse, tmp_path / "coarse.nc")
    write(fine, tmp_path / "fine.nc", zlib=True, complevel=4, shuffle=True, chunksizes=(1, 18, 36))
    files = tmp_path / "fine.nc", tmp_path / "coarse.nc", tmp_path / "out.nc"
    assert command("conserve", *files, "--dry-run").status == 0
    assert not files[2].exists()
    assert command("conserve", *files).status == 0
    with netCDF4.Dataset(files[2]) as file:
        assert file["tas"].dtype == np.float32
        assert file["tas"].chunking() == [1, 18, 36]
        assert file["tas"].filters()["complevel"] == 4
        assert file["tas"].comment == "by a network"
        assert file.institution == "ours"
        assert file.dimensions["time"].isunlimited()
        assert "downscale" in file.history
        assert "lat_bnds" in file.variables
        assert "areacella" in file.variables
        assert "cell conservation passed" in file["tas"].conservation
    said = command("conserve", *files)
    assert said.status == 2
    assert "out.nc" in said.complaint
    shown = command("conserve", *files, "--overwrite", "--json", "--complevel", 0)
    assert json.loads(shown.out)["passed"]
    with netCDF4.Dataset(files[2]) as file:
        assert not file["tas"].filters()["zlib"]


def test_packed_files_are_written_as_floats_and_packed_on_request(tmp_path):
    grid = world(12, 24)
    coarse = field_on(grid, 2, dtype="float32")
    fine = proposal(coarse, True, grid)
    downscale.to_netcdf(coarse, tmp_path / "coarse.nc")
    write(fine, tmp_path / "fine.nc", dtype="int16", scale_factor=0.01, add_offset=300.0, _FillValue=-32768)
    files = tmp_path / "fine.nc", tmp_path / "coarse.nc", tmp_path / "out.nc"
    shown = command("conserve", *files)
    assert shown.status == 0
    assert "--packing int16" in shown.out
    refused = command("conserve", *files, "--overwrite", "--packing", "int16")
    assert refused.status == 1
    assert "as packed" in refused.complaint
    assert command("conserve", *files, "--overwrite", "--packing", "int16", "--tolerance", "1e-4").status == 0


def test_failures_leave_no_file(tmp_path):
    grid = region(6, 8)
    coarse = field_on(grid, 2)
    fine = proposal(coarse, True, grid)
    fine.tas[0, :3, :3] = np.nan
    downscale.to_netcdf(coarse, tmp_path / "coarse.nc")
    fine.to_netcdf(tmp_path / "fine.nc")
    said = command("conserve", tmp_path / "fine.nc", tmp_path / "coarse.nc", tmp_path / "out.nc")
    assert said.status == 1
    assert "1 cells lost" in said.complaint
    said = command("conserve", tmp_path / "coarse.nc", tmp_path / "fine.nc", tmp_path / "out.nc")
    assert said.status == 2
    assert "pass the fine field first" in said.complaint
    said = command("conserve", tmp_path / "fine.nc", tmp_path / "none.nc", tmp_path / "out.nc")
    assert said.status == 2
    said = command("conserve", tmp_path / "fine.nc", tmp_path / "coarse.nc", tmp_path / "fine.nc", "--overwrite")
    assert said.status == 2
    said = command("conserve", tmp_path / "fine.nc", tmp_path / "coarse.nc", tmp_path / "out.nc", "--constraint", "x")
    assert said.status == 2
    assert "--constraint" in said.complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coarse.nc", "fine.nc"]


@pytest.mark.parametrize("lost", [False, True])
def test_a_tolerance_below_the_rounding_is_told_apart_from_lost_cells(lost):
    grid = region(6, 8)
    coarse = field_on(grid, 1, dtype="float32")
    fine = proposal(coarse, False, grid)
    fine.tas[0, :5, :5] = np.nan if lost else 280
    words = "complete" if lost else "rounding of float32: pass a fine field in float64, or a larger tolerance"
    with pytest.raises(ConservationError, match=words):
        downscale.conserve(fine, coarse, tolerance=1e-12)


def test_a_zarr_store(tmp_path):
    pytest.importorskip("zarr")
    coarse = field_on(region(6, 8), 2, dtype="float32")
    proposal(coarse, False, region(6, 8)).to_netcdf(tmp_path / "fine.nc")
    downscale.to_netcdf(coarse, tmp_path / "coarse.nc")
    shown = command("conserve", tmp_path / "fine.nc", tmp_path / "coarse.nc", tmp_path / "out.zarr")
    assert shown.status == 0, shown.err
    with xr.open_zarr(tmp_path / "out.zarr", decode_coords="all") as made:
        assert downscale.check_conservation(coarse, made).passed


def _with_days(daily):
    """Return a daily field with bounds of its days, and their first times."""
    times = daily.time.values
    bounds = np.array([[first, first + timedelta(days=1)] for first in times])
    daily = daily.assign_coords(time_bnds=(("time", "bnds"), bounds))
    return daily.assign_coords(time=daily.time.assign_attrs(bounds="time_bnds")), times


@pytest.mark.parametrize("constraint", ["additive", "multiplicative", "bounded"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "crossing"])
def test_means_over_periods_of_several_fine_times(nested, constraint):
    """Daily fine fields get the means of pentads, in space and time together."""
    grid = region(5, 6)
    daily = (field_on if constraint == "additive" else rain_on)(grid, 10, seed=4)
    name = next(iter(daily.data_vars))
    daily, times = _with_days(daily)
    fine = proposal(daily, nested, grid)
    pentads = daily[[name]].coarsen(time=5).mean(keep_attrs=True) * 1.1
    pentads[name].attrs = daily[name].attrs
    edges = np.array([[times[0], times[5]], [times[5], times[9] + timedelta(days=1)]])
    pentads = pentads.assign_coords(
        time=("time", times[[2, 7]], {"bounds": "time_bnds"}), time_bnds=(("time", "bnds"), edges),
        lat_bnds=daily.lat_bnds, lon_bnds=daily.lon_bnds,
    )  # fmt: skip
    assert not downscale.check_conservation(pentads, fine).passed
    made = downscale.conserve(fine, pentads, constraint)
    assert made.sizes["time"] == 10
    report = downscale.check_conservation(pentads, made)
    assert report.passed, report
    if constraint != "additive":
        assert float(made[name].min()) >= 0
    lazy = downscale.conserve(fine.chunk({"time": 3}), pentads, constraint)
    assert same_bits(lazy[name], made[name])


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "crossing"])
def test_whole_numbers_get_the_means_of_periods(nested):
    """Whole numbers become floating-point numbers; those of codes are left alone."""
    grid = region(5, 6)
    daily, times = _with_days(field_on(grid, 4, seed=4))
    fine = proposal(daily, nested, grid)
    days = fine.assign(tas=fine.tas.round().astype("i2").assign_attrs(fine.tas.attrs))
    days["kind"] = days.tas.astype("i1").assign_attrs(flag_values=[0, 1], flag_meanings="sea land")
    pairs = daily[["tas"]].coarsen(time=2).mean(keep_attrs=True) + 1
    pairs.tas.attrs = daily.tas.attrs
    edges = np.array([[times[0], times[2]], [times[2], times[3] + timedelta(days=1)]])
    pairs = pairs.assign_coords(
        time=("time", times[[0, 2]], {"bounds": "time_bnds"}), time_bnds=(("time", "bnds"), edges),
        lat_bnds=daily.lat_bnds, lon_bnds=daily.lon_bnds,
    )  # fmt: skip
    assert not downscale.check_conservation(pairs, days).passed
    made = downscale.conserve(days, pairs)
    assert made.tas.dtype == np.float32
    report = downscale.check_conservation(pairs, made)
    assert report.passed, report
    np.testing.assert_array_equal(made.kind, days.kind)


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "crossing"])
def test_daily_values_out_of_bounds_are_counted_under_means_within_them(nested):
    grid = region(5, 6)
    daily, times = _with_days(field_on(grid, 4, seed=4))
    attrs = {"standard_name": "cloud_area_fraction", "units": "%"}
    daily = daily.rename(tas="clt")
    daily["clt"] = (50 + 0 * daily.clt).assign_attrs(attrs)
    fine = proposal(daily, nested, grid)
    swing = xr.DataArray([-500.0, 500.0, -500.0, 500.0], dims="time")
    days = fine.assign(clt=(fine.clt + swing).assign_attrs(attrs))
    edges = np.array([[times[0], times[2]], [times[2], times[3] + timedelta(days=1)]])
    pairs = daily.isel(time=[0, 2]).assign_coords(
        time=("time", times[[0, 2]], {"bounds": "time_bnds"}), time_bnds=(("time", "bnds"), edges)
    )
    made = downscale.conserve(days, pairs, "additive")
    report = downscale.check_conservation(pairs, made)
    assert not report.passed
    assert report["clt"].values_out_of_bounds == made.clt.size
    fraction = made.assign(clt=(made.clt / 100).assign_attrs(attrs, units="1")).chunk({"time": 1})
    assert downscale.check_conservation(pairs, fraction)["clt"].values_out_of_bounds == made.clt.size
    assert downscale.check_conservation(pairs, made, bounds=None).passed
    one = xr.zeros_like(fine.clt.isel(time=0, drop=True), bool).drop_attrs()
    one[2, 3] = True
    assert downscale.check_conservation(pairs, made, mask=one)["clt"].values_out_of_bounds == 4
    assert downscale.check_conservation(pairs, downscale.conserve(days, pairs)).passed


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "crossing"])
def test_no_times_leave_nothing_to_check(nested):
    coarse = field_on(region(4, 5), 2)
    fine = proposal(coarse, nested, region(4, 5)).isel(time=slice(0, 0))
    for one in (fine, fine.chunk()):
        made = downscale.conserve(one, coarse.isel(time=slice(0, 0)))
        assert made.tas.shape == fine.tas.shape
        report = downscale.check_conservation(coarse.isel(time=slice(0, 0)), made.load())
        assert report["tas"].cells_checked == 0
        assert not report.passed


def test_fine_times_across_two_periods_are_refused():
    grid = region(4, 4)
    daily, times = _with_days(field_on(grid, 6))
    edges = [times[0], times[2] + timedelta(hours=12), times[5] + timedelta(days=1)]
    coarse = daily.isel(time=[1, 4]).assign_coords(
        time=("time", times[[1, 4]], {"bounds": "time_bnds"}),
        time_bnds=(("time", "bnds"), np.array([edges[:2], edges[1:]])),
    )
    with pytest.raises(GridError, match="within one coarse period each"):
        downscale.conserve(proposal(daily, True, grid), coarse)
