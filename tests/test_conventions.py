"""What comes out speaks the dialect of what went in: order, branch, units, calendars, attributes, data types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from result_grids import GRIDS, curvilinear, latlon, members, times
from sample_fields import coordinates, field_on, plane, rain_on, region, same_bits, world
from strategies import factor_pairs, grids

import downscale
from downscale.grid.latlon import RectilinearGrid
from downscale.output import to_netcdf

DTYPES = {
    "float32": "float32", "float64": "float64", "float16": "float32", "int8": "float32", "int16": "float32",
    "uint16": "float32", "int32": "float64", "int64": "float64",
}  # fmt: skip


def longitudes(values: Any, **attrs: str) -> xr.Dataset:
    """A small field whose longitudes are these, without bounds."""
    rows, columns = 6, len(values)
    tas = np.random.default_rng(0).normal(280, 5, (rows, columns))
    coords = {"lat": np.arange(30.0, 36), "lon": ("lon", np.asarray(values, dtype=float), attrs)}
    return xr.Dataset({"tas": (("lat", "lon"), tas)}, coords)


def edges_of(fine: xr.Dataset, name: str) -> np.ndarray:
    bounds = fine[f"{name}_bnds"].values
    return np.append(bounds[:, 0], bounds[-1, 1])


@given(grids(1, 6), factor_pairs)
def test_cells_are_cut_in_place(grid, factor):
    """Bounds adjoin, hold their centres, run as the input ran, and every coarse edge is still an edge."""
    ds = field_on(grid, 1)
    y, x = ds.tas.dims[1:]
    fine = ds.downscale({y: factor[0], x: factor[1]}, "conservative")
    for name, axis, cut in ((y, grid.y, factor[0]), (x, grid.x, factor[1])):
        bounds = fine[f"{name}_bnds"].values
        np.testing.assert_array_equal(bounds[1:, 0], bounds[:-1, 1])
        np.testing.assert_allclose(bounds.mean(axis=1), fine[name], rtol=0, atol=1e-9 * np.abs(bounds).max())
        np.testing.assert_allclose(edges_of(fine, name)[::cut], axis.edges, rtol=1e-12, atol=1e-9)
        assert (fine[name].values[-1] > fine[name].values[0]) == axis.ascending or fine[name].size == 1
        assert fine[name].attrs["bounds"] == f"{name}_bnds"
        assert fine[name].attrs["units"] == ds[name].attrs["units"]


def test_a_factor_of_one_changes_no_coordinate_and_no_value():
    for grid in (world(), region(), plane()):
        ds = field_on(grid, missing=0.1)
        fine = ds.downscale(1)
        assert same_bits(fine.tas, ds.tas) or np.allclose(fine.tas, ds.tas, rtol=1e-15, equal_nan=True)
        for name in coordinates(grid):
            np.testing.assert_allclose(fine[name], ds[name], rtol=1e-15)


def test_the_order_of_latitudes_is_the_inputs():
    south_up = field_on(region())
    north_up = south_up.isel(lat=slice(None, None, -1))
    a, b = south_up.downscale(2), north_up.downscale(2)
    np.testing.assert_allclose(b.lat, a.lat[::-1])
    np.testing.assert_allclose(b.tas, a.tas.isel(lat=slice(None, None, -1)), rtol=1e-12)


@pytest.mark.parametrize("west", [0.0, -180.0, -90.0, 100.0])
def test_the_world_may_begin_anywhere(west):
    """Turning the input turns the output: the seam is no place."""
    ds = field_on(world(), missing=0.05)
    columns = round(west / 22.5)
    turned = ds.roll(lon=-columns, roll_coords=False).assign_coords(lon=ds.lon + columns * 22.5).drop_vars("lon_bnds")
    fine, wanted = turned.downscale(2), ds.downscale(2)
    np.testing.assert_allclose(fine.tas, np.roll(wanted.tas, -2 * columns, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(edges_of(fine, "lon")[[0, -1]], [columns * 22.5, columns * 22.5 + 360], atol=1e-9)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.arange(350, 371, 2.0) % 360, 0.0, 360.0),
        ((np.arange(170, 191, 2.0) + 180) % 360 - 180, -180.0, 180.0),
        (((np.arange(170, 191, 2.0) + 180) % 360 - 180)[::-1], -180.0, 180.0),
        (np.roll(np.arange(0.0, 360, 10), 7), 0.0, 360.0),
        (np.roll(np.arange(-180.0, 180, 10), 7)[::-1], -180.0, 180.0),
    ],
)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_region_over_the_seam_keeps_its_branch(values, low, high, factor):
    ds = longitudes(values, units="degrees_east")
    fine = ds.downscale({"lon": factor})
    assert float(fine.lon.min()) >= low
    assert float(fine.lon.max()) <= high
    assert int((np.abs(np.diff(fine.lon)) > 180).sum()) == 1
    np.testing.assert_allclose(fine.lon_bnds.mean("bnds"), fine.lon, atol=1e-9)
    straight = ds.assign_coords(lon=np.unwrap(ds.lon.values, period=360)).downscale({"lon": factor})
    np.testing.assert_allclose(fine.tas, straight.tas, rtol=1e-12)
    # Modulo a circle it is the straight one.
    np.testing.assert_allclose(np.cos(np.deg2rad(fine.lon - straight.lon.values)), 1.0, atol=1e-12)
    assert fine.downscale.check(ds).passed
    if factor == 1:
        np.testing.assert_allclose(fine.lon, ds.lon)


def test_a_region_beyond_the_circle_stays_there():
    ds = longitudes(np.arange(350.0, 372, 2))
    fine = ds.downscale(2)
    assert float(fine.lon.max()) == 370.5
    assert fine.downscale.check(ds).passed


@pytest.mark.parametrize(("units", "unit"), [("m", 1.0), ("km", 1000.0), ("metres", 1.0), ("kilometers", 1000.0)])
def test_projected_grids_in_metres_and_kilometres(units, unit):
    ds = field_on(plane())
    moved = ds.assign_coords({n: ds[n].copy(data=ds[n].values / unit) for n in coordinates(plane())})
    for name in "yx":
        moved[name].attrs["units"] = units
    fine, wanted = moved.downscale(4), ds.downscale(4)
    np.testing.assert_allclose(fine.tas, wanted.tas, rtol=1e-12)
    np.testing.assert_allclose(fine.y * unit, wanted.y, rtol=1e-12)
    np.testing.assert_allclose(fine.areacella, 250.0 * 250.0)
    assert fine.x.attrs["units"] == units
    assert "crs" not in fine.coords


def test_the_grid_mapping_goes_along():
    mapping = xr.Variable((), 0, {"grid_mapping_name": "lambert_azimuthal_equal_area"})
    ds = field_on(plane()).assign_coords(laea=mapping)
    ds.tas.attrs["grid_mapping"] = "laea"
    fine = ds.downscale(2)
    assert fine.tas.attrs["grid_mapping"] == "laea"
    assert fine.laea.attrs == mapping.attrs
    plain = field_on(region()).downscale(2)
    # CDO takes axes with any grid mapping for those of a projection.
    assert "grid_mapping" not in plain.tas.attrs
    assert "crs" not in plain.variables


def test_a_real_rotated_pole():
    ds = downscale.open_dataset(shared_data("nasty_rotated_pole_mslp.nc"), chunks=None)
    fine = ds.downscale(2)
    name = "air_pressure_at_sea_level"
    assert fine[name].dims == ("grid_latitude", "grid_longitude")
    assert fine[name].attrs["grid_mapping"] == "rotated_latitude_longitude"
    assert fine.rotated_latitude_longitude.attrs == ds.rotated_latitude_longitude.attrs
    for axis in ("grid_latitude", "grid_longitude"):
        assert fine[axis].attrs["standard_name"] == axis
        assert fine[axis].attrs["units"] == "degrees"
    assert fine.time.identical(ds.time.drop_vars(["grid_latitude", "grid_longitude"], errors="ignore")) or (
        fine.time.values == ds.time.values
    )
    assert "crs" not in fine.variables
    assert fine.downscale.check(ds).passed


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_data_type_is_kept_where_it_can_hold_means(dtype):
    ds = field_on(region()).astype(dtype) if dtype != "int8" else (field_on(region()) - 270).clip(0, 100).astype(dtype)
    for obj in (ds, ds.chunk(time=1)):
        fine = obj.downscale(2)
        assert fine.tas.dtype == DTYPES[dtype]
        assert fine.tas.compute().dtype == DTYPES[dtype]
        assert fine.downscale.check(ds).passed


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard"])
def test_calendars_and_bounds_of_time_are_kept(calendar):
    times = xr.date_range("2000-02-27", periods=3, calendar=calendar, use_cftime=calendar != "standard")
    bounds = np.stack([times, times.shift(1, "D")], axis=1)
    ds = field_on(region()).assign_coords(time=times, time_bnds=(("time", "bnds"), bounds), height=2.0)
    ds.time.attrs = {"bounds": "time_bnds", "standard_name": "time"}
    ds.time.encoding = {"units": "days since 1850-01-01", "calendar": calendar, "dtype": np.dtype("float64")}
    fine = ds.downscale(2)
    for name in ("time", "time_bnds", "height"):
        assert fine[name].variable.identical(ds[name].variable)
    assert fine.time.encoding == ds.time.encoding
    assert fine.indexes["time"].equals(ds.indexes["time"])


def test_attributes_are_kept_and_history_is_prepended():
    ds = rain_on(region(), cell_methods="area: mean", valid_min=0.0, actual_range=[0.0, 9.0], comment="mine")
    ds.attrs = {"title": "t", "history": "made yesterday", "Conventions": "CF-1.6"}
    fine = ds.downscale(2)
    assert {name: fine.pr.attrs[name] for name in ("standard_name", "comment", "units")} == {
        "standard_name": "precipitation_flux", "comment": "mine", "units": "kg m-2 s-1"
    }  # fmt: skip
    assert not {"valid_min", "actual_range"} & set(fine.pr.attrs), "true of the coarse values only"
    first, last = fine.attrs["history"].split("\n")
    assert last == "made yesterday"
    for words in ("downscale 0.", "lat x2, lon x2", "method=sobolev", "taps=7 order=1.25", "conserve=cell"):
        assert words in first
        assert words in fine.attrs["downscale_settings"] or words == "downscale 0."
    assert fine.attrs["title"] == "t"


def test_attributes_are_dropped_on_request():
    ds = field_on(region())
    assert "units" not in ds.downscale(2, keep_attrs=False).tas.attrs
    with downscale.set_options(keep_attrs=False):
        assert "units" not in ds.downscale(2).tas.attrs
    assert ds.downscale(2).tas.attrs["units"] == "K"


def test_variables_off_the_horizontal_pass_through():
    ds = field_on(region()).assign(n=("time", [1, 2, 3], {"valid_min": 0}), word="text", crs2=((), 0, {"a": 1}))
    fine = ds.downscale(2)
    for name in ("n", "word", "crs2"):
        assert fine[name].variable.identical(ds[name].variable)


def test_variables_that_fit_no_more_are_dropped_aloud():
    ds = field_on(region()).assign(zonal=("lat", np.ones(12)), when=(("lat", "lon"), np.zeros((12, 16), "M8[ns]")))
    with pytest.warns(UserWarning, match="dropped zonal, when: not on the new grid"):
        fine = ds.downscale(2)
    assert not {"zonal", "when"} & set(fine.variables)
    assert set(ds.downscale(2, data_vars=["tas"]).data_vars) == {"tas"}


def test_areas_of_the_coarse_cells_are_replaced():
    """A file that is opened without decoding holds them, and its bounds, as plain variables."""
    ds = field_on(region())
    area = downscale.cell_area(ds)
    plain = ds.assign(areacella=area, area2=area.rename("area2")).reset_coords(["lat_bnds", "lon_bnds"])
    fine = plain.downscale(2)
    np.testing.assert_array_equal(fine.areacella, downscale.cell_area(fine))
    assert list(fine.data_vars) == ["tas"]
    assert set(downscale.check_conservation(plain, fine.reset_coords("areacella")).variables) == {"tas"}
    xr.testing.assert_equal(fine.lat_bnds, ds.downscale(2).lat_bnds)


def test_other_names_of_axes():
    ds = field_on(region()).rename(lat="latitude", lon="longitude", lat_bnds="bounds_lat", lon_bnds="longitude_bounds")
    ds.latitude.attrs["bounds"], ds.longitude.attrs["bounds"] = "bounds_lat", "longitude_bounds"
    fine = ds.rename(bnds="nv").downscale(2)
    assert fine.bounds_lat.dims == ("latitude", "nv")
    assert fine.longitude.attrs["bounds"] == "longitude_bounds"
    np.testing.assert_allclose(fine.bounds_lat[0], [30.0, 30.5])


def test_node_registered_rows_are_half_cells_at_the_poles():
    lat = np.linspace(90, -90, 19)
    ds = longitudes(np.arange(0.0, 360, 10)).isel(lat=0, drop=True).expand_dims(lat=lat).copy(deep=True)
    fine = ds.downscale(2)
    np.testing.assert_allclose(edges_of(fine, "lat")[:4], [90, 87.5, 85, 80])
    for obj in (ds, ds.tas):
        assert obj.downscale(2).downscale.check(obj).passed
    np.testing.assert_allclose(fine.areacella.sum(), 4 * np.pi * 6_371_000.0**2, rtol=1e-12)


def test_horizontal_dimensions_alone_are_enough():
    ds = field_on(region()).isel(time=0, drop=True)
    assert same_bits(ds.downscale(2).tas, field_on(region()).downscale(2).tas[0])
    assert isinstance(RectilinearGrid(region().y, region().x), RectilinearGrid)


def downscaled() -> dict[str, xr.Dataset]:
    """Results of the package itself, as they come, on the grids that need no files."""
    rain = rain_on(world(), dtype="float32", missing=0.1)
    return {
        "made_world": field_on(world(), missing=0.1).downscale(2), "made_plane": field_on(plane()).downscale(2),
        "made_rain": rain.downscale({"lat": 3, "lon": 2}),
        "made_target": field_on(region()).downscale(target_grid="0.4x0.3"), "made_latlon": latlon().downscale(2),
    }  # fmt: skip


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """What the compliance checker says of each file by how grave it is; all files in one go."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    checker = shutil.which("compliance-checker", path=places)
    if checker is None:
        pytest.skip("compliance-checker is not installed")
    folder = tmp_path_factory.mktemp("written")
    for name, made in GRIDS.items():
        to_netcdf(made(), folder / f"{name}.nc")
        to_netcdf(made(), folder / f"{name}_packed.nc", packing="int16")
    for name, fine in downscaled().items():
        to_netcdf(fine, folder / f"{name}.nc")
    line = [checker, "--test=cf:1.11", "--criteria=normal", "--format=json_new", "--output=-"]
    done = subprocess.run([*line, *map(str, sorted(folder.glob("*.nc")))], capture_output=True, text=True)
    facts = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])
    return {
        Path(file).stem: {
            grave: [message for check in found["cf:1.11"][f"{grave}_priorities"] for message in check["msgs"]]
            for grave in ("high", "medium")
        }
        for file, found in facts.items()
    }


MADE = ("made_world", "made_plane", "made_rain", "made_target", "made_latlon")


@pytest.mark.parametrize("name", [*GRIDS, *(f"{name}_packed" for name in GRIDS), *MADE])
def test_files_of_every_grid_pass_the_compliance_checker(verdicts, name):
    assert verdicts[name]["high"] == []
    # Scales of temperature are the input's to name, and a mesh without one-dimensional axes has no order of them.
    known = ("units_metadata", "recommended order") if "curvilinear" in name else ("units_metadata",)
    assert [line for line in verdicts[name]["medium"] if not any(word in line for word in known)] == []


def attributes(path: Path) -> dict[str, dict[str, Any]]:
    with netCDF4.Dataset(path) as file:
        return {name: {key: v.getncattr(key) for key in v.ncattrs()} for name, v in file.variables.items()}


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_reads_back_as_it_was(tmp_path, name):
    ds = GRIDS[name]()
    to_netcdf(ds, tmp_path / "a.nc")
    back = downscale.open_dataset(tmp_path / "a.nc", chunks=None).load()
    xr.testing.assert_equal(back, ds)
    assert set(back.coords) == set(ds.coords)
    for key in ("long_name", "comment", "cell_methods", "standard_name", "units"):
        assert back.tas.attrs[key] == ds.tas.attrs[key]
    for coordinate in ds.coords:
        assert back[coordinate].dtype == ds[coordinate].dtype


@pytest.mark.parametrize("name", ["rotated", "equal_area", "conic", "stereographic", "curvilinear"])
def test_fields_name_their_place_and_companions_do_not(tmp_path, name):
    to_netcdf(GRIDS[name](), tmp_path / "a.nc")
    found = attributes(tmp_path / "a.nc")
    assert set(found["tas"]["coordinates"].split()) == {"lat", "lon", "height"}
    assert found["tas"]["cell_measures"] == "area: areacella"
    assert found["tas"].get("grid_mapping") == (None if name == "curvilinear" else "crs")
    assert found["areacella"]["coordinates"].split() == ["lat", "lon"], "a height has no part in an area"
    for companion in ("lat_bnds", "lon_bnds", "time_bnds"):
        assert found[companion] == {}
    assert "coordinates" not in found.get("crs", {})
    for variable, attrs in found.items():
        assert ("_FillValue" in attrs) == (variable == "tas"), variable
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        assert "coordinates" not in file.ncattrs()


def test_a_file_that_was_opened_in_words_is_written_in_words(tmp_path):
    """Opened without coordinates: what attributes name is found again, and what they name in vain is dropped."""
    to_netcdf(curvilinear(), tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc", decode_coords=False) as plain:
        assert "coordinates" in plain.tas.attrs
        to_netcdf(plain.load(), tmp_path / "b.nc")
        to_netcdf(plain.drop_vars(["height", "areacella"]), tmp_path / "c.nc")
    one, other = attributes(tmp_path / "a.nc"), attributes(tmp_path / "b.nc")
    assert {name: set(attrs) for name, attrs in one.items()} == {name: set(attrs) for name, attrs in other.items()}
    left = attributes(tmp_path / "c.nc")["tas"]
    assert left["coordinates"].split() == ["lat", "lon"]
    assert "cell_measures" not in left


def test_codes_are_of_the_type_of_their_variable(tmp_path):
    to_netcdf(members(), tmp_path / "a.nc")
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        assert file["mask"].flag_values.dtype == file["mask"].dtype == np.int8
        assert file["realization"].units == "1"
        assert file["tas"].dimensions == ("realization", "time", "lat", "lon")


def test_attributes_that_name_ranges_go_and_flags_stay(tmp_path):
    ds = latlon()
    ds.tas.attrs.update(valid_min=0.0, valid_max=1.0, valid_range=[0.0, 1.0], actual_range=[0.0, 1.0], nothing=None)
    ds.tas.attrs["a list"] = ["x", "y"]
    ds["code"] = ("lat", np.arange(6, dtype="i2"), {"valid_min": 0, "flag_values": [0, 1], "flag_meanings": "a b"})
    to_netcdf(ds, tmp_path / "a.nc")
    found = attributes(tmp_path / "a.nc")
    assert not {"valid_min", "valid_max", "valid_range", "actual_range", "nothing"} & set(found["tas"])
    assert list(found["tas"]["a list"]) == ["x", "y"]
    assert found["code"]["valid_min"].dtype == np.int16
    assert "valid_min" in ds.tas.attrs, "the given object is as it was"


CALENDARS = ("noleap", "360_day", "standard", "proleptic_gregorian", "julian", "all_leap")


@pytest.mark.parametrize("calendar", CALENDARS)
@pytest.mark.parametrize("dtype", ["f8", "i4", "i8", "f4"])
@pytest.mark.parametrize("units", ["days since 1850-01-01", "hours since 1979-01-01", None])
def test_times_are_stored_as_they_were(tmp_path, calendar, dtype, units):
    """Units, calendar and whole numbers of the input; whole numbers only where they hold every date."""
    ds = latlon().assign_coords(times(calendar))
    kept = {"units": units, "calendar": calendar, "dtype": np.dtype(dtype)}
    ds.time.encoding = {} if units is None else kept
    ds.time_bnds.encoding = {"units": "seconds since 1900-01-01", "calendar": calendar}
    to_netcdf(ds, tmp_path / "a.nc")
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        raw, edges = file["time"], file["time_bnds"]
        assert raw.units == (units or "hours since 1850-01-01"), "noon is no whole day"
        assert raw.calendar == calendar or (units is None and raw.calendar == "proleptic_gregorian")
        whole = units is not None and units.startswith("hours") and dtype.startswith("i")
        assert raw.dtype == edges.dtype == (dtype if whole else "f8")
        assert edges.ncattrs() == []
        step = 24 if raw.units.startswith("hours") else 1
        np.testing.assert_allclose(edges[:, 1] - edges[:, 0], step, rtol=1e-12)
        np.testing.assert_allclose(raw[:] - edges[:, 0], step / 2, rtol=1e-9)
    back = downscale.open_dataset(tmp_path / "a.nc", chunks=None)
    assert (back.time.values == ds.time.values).all()
    assert (back.time_bnds.values == ds.time_bnds.values).all()


def test_a_calendar_of_another_object_is_not_believed(tmp_path):
    ds = latlon()
    ds.time.encoding["calendar"] = "360_day"
    to_netcdf(ds, tmp_path / "a.nc")
    assert attributes(tmp_path / "a.nc")["time"]["calendar"] == "noleap"
    numpy = latlon().assign_coords(times("standard"))
    numpy.time.encoding["calendar"] = "noleap"
    to_netcdf(numpy, tmp_path / "b.nc")
    assert attributes(tmp_path / "b.nc")["time"]["calendar"] == "proleptic_gregorian"


def test_two_dates_on_one_record(tmp_path):
    """A forecast: the day it was made, and how far it reaches."""
    ds = latlon()
    made = xr.Variable((), ds.time.values[0], {"standard_name": "forecast_reference_time", "long_name": "made"})
    reach = xr.Variable("time", np.array([6, 30, 54], "m8[h]").astype("m8[ns]"), {"standard_name": "forecast_period"})
    ds = ds.assign_coords(reference=made, reach=reach)
    to_netcdf(ds, tmp_path / "a.nc")
    back = downscale.open_dataset(tmp_path / "a.nc", chunks=None, decode_timedelta=True)
    assert back.reference.item() == ds.reference.item()
    np.testing.assert_array_equal(back.reach, ds.reach)
    assert back.attrs["time_coverage_start"] == "2000-02-01T00:00:00Z"
