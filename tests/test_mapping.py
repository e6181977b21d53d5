"""Where cells lie on the earth: rotated poles, projections, and what is written of them."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from sample_fields import field_on, plane

import downscale
from downscale.cf import mapping as mapping_module
from downscale.cf.horizontal import horizontal
from downscale.cf.mapping import ROTATED, GridMapping, mapping_of, positions
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sphere import polygon_area, unit_vectors
from downscale.io.write import write_checked

ROTATED_FILES = ("nasty_rotated_pole_mslp.nc", "temperature_ukv_1p5km_rotated_20091119.nc")
CONIC = "+proj=lcc +lat_1=33 +lat_2=45 +lat_0=39 +lon_0=-96 +ellps=WGS84"


def rotated(pole_lat: float = 39.25, pole_lon: float = -162.0, own: float = 0.0) -> GridMapping:
    pole = {"grid_north_pole_latitude": pole_lat, "grid_north_pole_longitude": pole_lon}
    return GridMapping("pole", {"grid_mapping_name": ROTATED, **pole, "north_pole_grid_longitude": own})


@given(st.floats(-90, 90), st.floats(-180, 180), st.floats(-180, 180))
def test_rotated_poles_are_where_the_referee_has_them(pole_lat, pole_lon, own):
    mapping = rotated(pole_lat, pole_lon, own)
    x, y = np.meshgrid(np.linspace(-170, 170, 9), np.linspace(-80, 80, 7))
    lon, lat = mapping.locator()(x, y)
    crs = pyproj.CRS.from_cf({**mapping.attrs, "earth_radius": 6371229.0})
    expected = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    np.testing.assert_allclose(unit_vectors(lon, lat), unit_vectors(*expected), rtol=0, atol=1e-9)
    assert lon.min() >= -180
    assert lon.max() < 180


@pytest.mark.parametrize("name", ROTATED_FILES)
def test_rotated_files_get_true_positions_whose_cells_surround_them(name):
    source = downscale.open_dataset(shared_data(name)).isel(time=0, missing_dims="ignore")
    coarse, fine = downscale.coarsen(source, 1), source.downscale(2)
    assert fine.lat.dims == fine.lon.dims == horizontal(source).dims
    assert fine.lat.attrs["bounds"] == "lat_bnds"
    assert fine.lat.attrs["standard_name"] == "latitude"
    assert "axis" not in fine.lat.attrs
    vectors = unit_vectors(fine.lon.values, fine.lat.values)
    n_y, n_x = coarse.lat.shape
    means = vectors.reshape(n_y, 2, n_x, 2, 3).mean(axis=(1, 3))
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    size = np.sqrt(coarse.areacella.values.max()) / 6.371e6
    np.testing.assert_allclose(means, unit_vectors(coarse.lon.values, coarse.lat.values), rtol=0, atol=size**2 / 4)
    ring = unit_vectors(fine.lon_bnds.values, fine.lat_bnds.values)
    np.testing.assert_allclose(polygon_area(ring) * 6.371e6**2, fine.areacella, rtol=size)
    assert fine.downscale.check(source).passed


def test_positions_of_a_real_projection_are_those_of_its_file():
    source = downscale.open_dataset(shared_data("precipitation_mch_20150515_1km_5min.nc"))[["orog"]]
    where = horizontal(source)
    assert where.positions == ("lat", "lon")
    found = positions(where.grid, where.locator)
    np.testing.assert_allclose(found.lat, source.lat, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.lon, source.lon, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows_down", [False, True])
def test_corners_run_counter_clockwise_around_their_centre(rows_down):
    y = CellAxis(np.linspace(-1e6, 1e6, 9), "projected")
    x = CellAxis(np.linspace(-5e5, 5e5, 5), "projected")
    grid = RectilinearGrid(y.reverse() if rows_down else y, x)
    found = positions(grid, GridMapping("crs", {"proj4": CONIC}).locator())
    rings = unit_vectors(found.corners[0], found.corners[1])
    assert (polygon_area(rings) > 0).all()
    outward = np.cross(rings, np.roll(rings, -1, axis=2))
    assert ((outward * unit_vectors(found.lon, found.lat)[:, :, None]).sum(axis=-1) > 0).all()


def test_cells_over_the_dateline_hold_their_corners_together():
    mapping = GridMapping("crs", {"proj4": "+proj=lcc +lat_1=40 +lat_2=60 +lat_0=50 +lon_0=180 +ellps=WGS84"})
    axis = CellAxis(np.linspace(-1e6, 1e6, 12), "projected")
    for west in (-180.0, 0.0):
        found = positions(RectilinearGrid(axis, axis), mapping.locator(), west)
        assert np.abs(found.corners[0] - found.lon[..., None]).max() < 10
        assert found.lon.min() >= west
        assert found.lon.max() < west + 360


def test_large_grids_are_located_lazily_and_alike(monkeypatch):
    axis = CellAxis(np.linspace(-1e6, 1e6, 41), "projected")
    grid, locator = RectilinearGrid(axis, axis), GridMapping("crs", {"proj4": CONIC}).locator()
    whole = positions(grid, locator)
    monkeypatch.setattr(mapping_module, "EAGER_CELLS", 200)
    lazy = positions(grid, locator)
    assert lazy.lon.numblocks == (8, 1)
    np.testing.assert_array_equal(lazy.lon.compute(), whole.lon)
    np.testing.assert_array_equal(lazy.corners[1].compute(), whole.corners[1])
    monkeypatch.setattr(mapping_module, "MOST_CORNERS", 1000)
    assert positions(grid, locator).corners is None


def test_the_mapping_is_the_one_that_the_field_names():
    ds = field_on(plane()).assign_coords(
        crs=xr.Variable((), 0, {"grid_mapping_name": "albers_conical_equal_area"}),
        other=xr.Variable((), 0, {"grid_mapping_name": "polar_stereographic"}),
    )
    assert mapping_of(ds, ("y", "x")) is None
    ds.tas.encoding["grid_mapping"] = "other: y x"
    assert mapping_of(ds, ("y", "x")).name == "other"
    assert mapping_of(ds.drop_vars("crs"), ("y", "x")).name == "other"
    assert mapping_of(field_on(plane()), ("y", "x")) is None


def test_kilometres_and_projections_in_their_own_words_are_understood():
    metres = GridMapping("crs", {"proj4": CONIC}).locator()
    kilometres = GridMapping("crs", {"proj4": CONIC + " +units=km"}).locator()
    x, y = np.array([1e5, -2e5]), np.array([3e5, 0.0])
    np.testing.assert_allclose(kilometres(x, y), metres(x, y), rtol=0, atol=1e-12)
    assert GridMapping("crs", {"proj4": "nonsense"}).locator() is None
    assert GridMapping("crs", {"grid_mapping_name": "latitude_longitude"}).embedding() is None


def test_what_is_written_of_a_projection_is_read_back(tmp_path):
    source = downscale.open_dataset(shared_data("precipitation_fmi_20160928_1km_5min.nc"))
    source = source.isel(time=slice(0, 1), y=slice(300, 340), x=slice(300, 330))
    fine = source.downscale(2)
    write_checked(fine, tmp_path / "fine.nc", None)
    with downscale.open_dataset(tmp_path / "fine.nc") as back:
        assert {"lat", "lon", "lat_bnds", "lon_bnds", "crs"} <= set(back.coords)
        assert back.lat_bnds.dims == ("y", "x", "vertices")
        again = downscale.coarsen(back, 2)
        np.testing.assert_allclose(again.precip, source.precip, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(again.areacella, downscale.cell_area(source), rtol=1e-9)


def test_averages_in_a_file_say_where_they_lie(tmp_path):
    source = downscale.open_dataset(shared_data("precipitation_opera_20180824_2km_15min.nc"))[["precip"]]
    coarse = downscale.coarsen(source.isel(time=[0]), 20)
    assert coarse.precip.attrs["cell_measures"] == "area: areacella"
    downscale.to_netcdf(coarse, tmp_path / "coarse.nc")
    with xr.open_dataset(tmp_path / "coarse.nc", decode_cf=False) as raw:
        assert raw.precip.attrs["grid_mapping"] == "crs"
        assert raw.precip.attrs["coordinates"] == "lat lon"
