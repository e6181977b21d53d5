"""Axes as files have them: rounded circles, regions cut at Greenwich, positions repeated in time or at odds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from result_grids import conic, rotated

import downscale
from downscale.cf.horizontal import horizontal
from downscale.errors import GridError


def field(lat: Any, lon: Any, **attrs: str) -> xr.Dataset:
    values = np.random.default_rng(0).normal(280, 5, (len(lat), len(lon)))
    coords = {"lat": ("lat", np.asarray(lat), {"units": "degrees_north"}),
              "lon": ("lon", np.asarray(lon), {"units": "degrees_east", **attrs})}  # fmt: skip
    return xr.Dataset({"tas": (("lat", "lon"), values)}, coords)


def summed(first: float, step: float, count: int) -> np.ndarray:
    """Steps added up in single precision, one after the other."""
    return np.cumsum(np.r_[np.float32(first), np.full(count - 1, np.float32(step))], dtype=np.float32)


@pytest.mark.parametrize("turn", [0.0, -180.0])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("count", [32, 96, 128, 144, 192, 320, 512])
def test_circles_in_two_decimals_close_and_reach_the_poles(count, turn, down):
    step = 360 / count
    lon = np.round(turn + step * np.arange(count), 2)
    lat = np.round(-90 + step / 2 + step * np.arange(count // 2), 2)
    grid = horizontal(field(lat[::-1] if down else lat, lon)).grid
    assert grid.x.periodic
    assert sorted(grid.y.edges[[0, -1]]) == [-90.0, 90.0]
    np.testing.assert_allclose(np.ptp(grid.x.edges), 360.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.diff(grid.x.edges), step, rtol=0, atol=0.011)
    np.testing.assert_allclose(grid.cell_area.sum(), 4 * np.pi * 6_371_000.0**2, rtol=1e-9)


@pytest.mark.parametrize("step", [0.1, 0.25, 0.3, 0.7, 1.2])
def test_circles_summed_in_single_precision_close(step):
    count = int(360 / step + 1e-9)
    step = 360 / count
    lat = summed(-90 + step / 2, step, count // 2)
    grid = horizontal(field(lat, summed(0.0, step, count))).grid
    assert grid.x.periodic
    assert grid.y.edges[[0, -1]].tolist() == [-90.0, 90.0]


@pytest.mark.parametrize("count", [3, 10, 100, 359])
def test_regions_short_of_a_circle_stay_open(count):
    assert not horizontal(field(np.arange(10.0), np.arange(float(count)))).grid.x.periodic


def test_a_repeated_meridian_is_refused_still():
    with pytest.raises(GridError, match="within one circle"):
        horizontal(field(np.arange(10.0), np.arange(361.0)))


def test_bounds_in_two_decimals_close_and_reach_the_poles():
    ds = field(np.round(np.arange(-88.59375, 90, 2.8125), 2), np.round(np.arange(0, 360, 2.8125), 2))
    for name, first, count in (("lat", -90.0, 64), ("lon", -1.40625, 128)):
        edges = first + 2.8125 * np.arange(count + 1)
        edges = np.clip(np.round(edges * (0.9999 if name == "lat" else 1), 2), -89.99, 400)
        ds = ds.assign_coords({f"{name}_bnds": ((name, "bnds"), np.stack([edges[:-1], edges[1:]], axis=1))})
    grid = horizontal(ds).grid
    assert grid.x.periodic
    assert grid.y.edges[[0, -1]].tolist() == [-90.0, 90.0]


@given(st.integers(2, 8), st.integers(2, 8), st.sampled_from([1.0, 2.0, 0.75]), st.booleans(), st.booleans())
def test_regions_sorted_across_greenwich_are_rolled(west, east, step, down, bounds):
    lon = step * np.arange(-west, east)
    whole = field(np.arange(40.0, 46), lon)
    if bounds:
        edges = np.stack([lon - step / 2, lon + step / 2], axis=1)
        whole = whole.assign_coords(lon_bnds=(("lon", "bnds"), edges))
    cut = whole.assign_coords(lon=("lon", lon % 360, whole.lon.attrs)).sortby("lon", ascending=not down)
    with pytest.raises(GridError, match="jump"):
        horizontal(cut)
    for ds in (cut, cut.tas if not bounds else cut, cut.chunk(lon=2)):
        means = downscale.coarsen(ds, {"lon": 1})
        means = means.to_dataset(name="tas") if isinstance(means, xr.DataArray) else means
        straight = means.isel(lon=slice(None, None, -1)) if down else means
        np.testing.assert_allclose(straight.lon, lon, atol=1e-9)
        np.testing.assert_array_equal(straight.tas, whole.tas)
        assert straight.lon.attrs["units"] == "degrees_east"
        assert downscale.check_conservation(whole, ds).passed


def test_a_region_across_greenwich_is_downscaled_in_one_piece():
    whole = field(np.arange(40.0, 60, 2), np.arange(-18.0, 20, 2))
    cut = whole.assign_coords(lon=("lon", whole.lon.values % 360, whole.lon.attrs)).sortby("lon")
    fine = cut.downscale(2)
    np.testing.assert_array_equal(fine.tas, whole.downscale(2).tas)
    np.testing.assert_allclose(fine.lon, whole.downscale(2).lon)
    on_target = whole.downscale(target_grid=cut)
    np.testing.assert_allclose(on_target.tas.sortby("lon"), whole.tas, rtol=1e-12)


@pytest.mark.parametrize("names", [("XLAT", "XLONG"), ("lat", "lon")])
def test_positions_repeated_in_time_are_those_of_one_time(names):
    j, i = np.meshgrid(np.arange(6.0), np.arange(8.0), indexing="ij")
    lat, lon = 40 + 0.3 * j + 0.02 * i, 5 + 0.4 * i - 0.03 * j
    dims = ("Time", "south_north", "west_east")
    values = np.random.default_rng(0).normal(280, 5, (3, 6, 8))
    still = [np.stack([plane] * 3).astype("f4") for plane in (lat, lon)]
    attrs = [{"units": "degree_north"}, {"units": "degree_east"}]
    coords = {name: (dims, planes, each) for name, planes, each in zip(names, still, attrs, strict=True)}
    coords["XTIME"] = ("Time", np.arange(3.0))
    ds = xr.Dataset({"T2": (dims, values)}, coords)
    flat = ds.assign_coords({name: ds[name].isel(Time=0, drop=True) for name in names})
    np.testing.assert_array_equal(horizontal(ds).grid.cell_area, horizontal(flat).grid.cell_area)
    means = downscale.coarsen(ds, 2)
    np.testing.assert_array_equal(means.T2, downscale.coarsen(flat, 2).T2)
    assert means[names[0]].dims == dims[1:]
    assert downscale.check_conservation(means, ds).passed
    moved = ds.copy(deep=True)
    moved[names[0]][1] += 0.01
    with pytest.raises(GridError, match=r"'Time'.*moving nest"):
        downscale.coarsen(moved, 2)


@pytest.mark.parametrize("shift", [0.3, 1.0, 30.0])
@pytest.mark.parametrize("made", [rotated, conic])
def test_positions_at_odds_with_the_grid_mapping_are_refused(made, shift):
    ds = made()
    assert horizontal(ds).mapping is not None
    moved = ds.assign_coords(lat=ds.lat - shift)
    size = 0.5 if made is rotated else 0.22
    if shift < 0.5 * size:
        assert horizontal(moved).mapping is not None
        return
    with pytest.raises(GridError) as caught:
        horizontal(moved)
    message = str(caught.value)
    assert all(word in message for word in ("'lat'", "'lon'", "'crs'", "km", "cells"))
    assert "\n" not in message


def test_axes_at_odds_with_positions_are_refused():
    lon, lat = np.meshgrid(np.arange(10.0, 18), np.arange(40.0, 46))
    ds = field(np.arange(40.0, 46), np.arange(10.0, 18)).rename(lat="row", lon="column")
    ds = ds.assign_coords(lat=(("row", "column"), lat, {"units": "degrees_north"}),
                          lon=(("row", "column"), lon, {"units": "degrees_east"}))  # fmt: skip
    assert horizontal(ds).dims == ("row", "column")
    with pytest.raises(GridError, match=r"'row', 'column'.*'lat', 'lon'"):
        horizontal(ds.assign_coords(lat=ds.lat + 0.2 * ds.lon - 3))


def test_positions_on_the_sphere_of_a_model_are_no_contradiction():
    """A grid mapping without a figure of the earth, and positions on the sphere of the model."""
    ds = conic()
    silent = ds.copy(deep=True)
    del silent.crs.attrs["earth_radius"]
    fine = silent.isel(y=slice(0, 4)).coarsen(y=1).construct(y=("y", "one")).squeeze("one", drop=True)
    assert horizontal(fine).mapping is not None
    np.testing.assert_allclose(horizontal(silent).grid.cell_area, horizontal(ds).grid.cell_area, rtol=1e-3)


def test_axes_that_only_count_give_way_to_positions():
    ds = conic()
    for name in ("y", "x"):
        ds[name] = (name, np.arange(ds.sizes[name]))
    ds = ds.drop_vars(["y_bnds", "x_bnds"])
    where = horizontal(ds)
    assert where.positions == ("lat", "lon")
    np.testing.assert_allclose(where.grid.cell_area, horizontal(conic()).grid.cell_area, rtol=1e-3)


@pytest.mark.parametrize("noise", [1e-13, 1e-10])
def test_latitudes_that_differ_by_rounding_are_the_same(noise):
    coarse = field(np.arange(40.0, 50), np.arange(0.0, 12))
    fine = coarse.downscale(2)
    coords = {"lat": fine.lat.values + noise, "lon": fine.lon.values - noise}
    orog = xr.DataArray(np.random.default_rng(1).gamma(1, 300, (20, 24)), coords, ("lat", "lon"), name="orog")
    exact = orog.assign_coords(lat=fine.lat.values, lon=fine.lon.values)
    one, other = (coarse.downscale(2, orog=each, lapse_rate=-6.5e-3).tas for each in (orog, exact))
    np.testing.assert_allclose(one, other, rtol=1e-9)
    moved = fine.assign_coords(lat=fine.lat + noise)
    assert downscale.check_conservation(coarse, moved).passed


@pytest.mark.parametrize(
    ("lat", "words"), [([1.0, 3.0, 2.0], "3 before 2 at index 1"), ([3.0, 2.0, 2.5, 1.0], "2 before 2.5 at index 1")]
)
def test_axes_out_of_order_are_named_where_they_turn(lat, words):
    with pytest.raises(GridError, match=words) as caught:
        horizontal(field(lat, np.arange(5.0)))
    assert "'lat'" in str(caught.value)


def test_a_target_with_half_of_its_axes_is_told_of_these():
    coarse = field(np.arange(40.0, 46), np.arange(5.0)).expand_dims(time=np.arange(2.0))
    target = coarse.drop_vars("lon").isel(time=0)
    with pytest.raises(GridError, match="horizontal coordinates") as caught:
        coarse.downscale(target_grid=target.expand_dims(time=[0.0]))
    assert "'time'" not in str(caught.value)
