"""What comes out speaks the dialect of what went in: order, branch, units, calendars, attributes, data types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from sample_fields import coordinates, field_on, plane, rain_on, region, same_bits, world
from strategies import factor_pairs, grids

import downscale
from downscale.grid.latlon import RectilinearGrid

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
    assert plain.tas.attrs["grid_mapping"] == "crs"
    assert plain.crs.attrs == {"grid_mapping_name": "latitude_longitude", "earth_radius": 6_371_000.0}


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
