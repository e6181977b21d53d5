"""Grids of another kind are never mixed by their numbers, at any door; geographic companions are brought over."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import xarray as xr
from result_grids import ROTATED, conic, curvilinear, equal_area, latlon, mapped, rotated

import downscale
from downscale.cf.coordinates import select
from downscale.cf.horizontal import axes_kind, horizontal, same_axes
from downscale.errors import DownscaleError, GridError
from downscale.io.statics import pick_mask, pick_static, regrid_mask, regrid_static
from downscale.training.pairs import orient_like


def other_pole() -> xr.Dataset:
    return mapped("rlat", "rlon", {**ROTATED, "grid_north_pole_latitude": 43.0})


def without_mapping(ds: xr.Dataset, rows: int = 5) -> xr.Dataset:
    ds = ds.drop_vars(["crs", "lat", "lon", "lat_bnds", "lon_bnds"])
    ds.tas.attrs.pop("grid_mapping")
    return ds.isel({ds.tas.dims[1]: slice(0, rows)})


KINDS = {
    "latlon": latlon, "rotated": rotated, "other pole": other_pole, "equal area": equal_area, "conic": conic,
    "pole unknown": lambda: without_mapping(rotated()), "plane": lambda: without_mapping(conic()),
    "curvilinear": curvilinear,
}  # fmt: skip
PAIRS = list(permutations(KINDS, 2))


def field(name: str) -> xr.Dataset:
    return select(KINDS[name](), "tas").isel(time=0, drop=True).drop_vars("height")


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_kinds_are_refused_as_target_pair_and_check(one, other):
    """The numbers of their axes may agree, and mean other places."""
    coarse, there = field(one), field(other)
    assert not same_axes(horizontal(coarse), horizontal(there))
    with pytest.raises(GridError, match="target_grid"):
        coarse.downscale(target_grid=there.drop_vars("tas"))
    with pytest.raises(GridError, match=r"fine field: expected .*; (remap|copy)"):
        downscale.check_conservation(coarse, there)
    with pytest.raises(GridError, match=r"coarse file: expected .*; (remap|copy)"):
        orient_like(there, horizontal(there), horizontal(coarse))


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_statics_of_two_kinds_are_refused_unless_positions_are_known(one, other):
    where, static = horizontal(field(one)), field(other).tas.assign_attrs(units="m").to_dataset(name="orog")
    if other == "latlon" and one not in ("pole unknown", "plane"):
        return
    with pytest.raises(DownscaleError, match=r"orog: expected .*(remapcon|ncks)"):
        regrid_static(static, where.grid, "orog", where)
    with pytest.raises(DownscaleError, match=r"mask: expected .*(remapcon|ncks)"):
        regrid_mask(static > 280, where.grid, where)


def test_descriptions_of_one_place_are_one_kind():
    where = horizontal(equal_area())
    words = equal_area()
    words.crs.attrs |= {"long_name": "another name", "crs_wkt": horizontal(words).mapping.crs.to_wkt()}
    assert same_axes(where, horizontal(words))
    turned = rotated()
    turned.crs.attrs["grid_north_pole_longitude"] += 360
    assert same_axes(horizontal(rotated()), horizontal(turned))
    sphere = latlon()
    sphere.crs.attrs = {"grid_mapping_name": "latitude_longitude", "semi_major_axis": 6378137.0,
                        "inverse_flattening": 298.257223563}  # fmt: skip
    assert axes_kind(horizontal(sphere)) == "geographic"
    assert same_axes(horizontal(sphere), horizontal(latlon()))
    unknown = horizontal(without_mapping(conic()))
    assert same_axes(unknown, horizontal(without_mapping(conic())))
    # A field that lost its mapping is known by its cells, if it has all of them.
    assert same_axes(horizontal(without_mapping(conic(), 6)), horizontal(conic()))
    assert not same_axes(unknown, horizontal(conic()))


def geographic(step: float, of: xr.Dataset) -> xr.Dataset:
    """A smooth field on latitudes and longitudes round the cells of another grid."""
    lat = np.arange(20 + step / 2, 85, step)
    lon = np.arange(-30 + step / 2, 120, step)
    axes = {
        "lat": ("lat", lat, {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ("lon", lon, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    return xr.Dataset({"orog": (("lat", "lon"), shape_of(lon, lat[:, None]), {"units": "m"})}, axes)


def shape_of(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    return 500 + 20 * lat + 100 * np.sin(np.deg2rad(9 * lon)) + 100 * np.cos(np.deg2rad(7 * lat))


@pytest.mark.parametrize("name", ["rotated", "equal area", "conic", "curvilinear"])
@pytest.mark.parametrize("step", [1.0, 0.5, 0.06])
def test_a_geographic_static_is_brought_over_by_true_positions(name, step):
    coarse = field(name)
    fine = downscale.coarsen(coarse.downscale(4), 2)
    where = horizontal(fine)
    placed = xr.Dataset({"orog": geographic(step, fine).orog})
    found = regrid_static(placed, where.grid, "orog", where)
    lat, lon = truth(fine)
    # Bilinear between nodes of the source; far less than the 700 m that rotated degrees would be off.
    np.testing.assert_allclose(found, shape_of(lon, lat), atol=0.3 + 3 * step**2)
    share = regrid_mask(pick_mask((placed.orog > 1500).rename("mask")), where.grid, where)
    np.testing.assert_array_equal((share > 0.5)[abs(found - 1500) > 30], (found > 1500)[abs(found - 1500) > 30])


def truth(ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """True latitudes and longitudes of the middles of cells."""
    where = horizontal(ds)
    if where.locator is None:
        return where.grid.lat, where.grid.lon
    lon, lat = where.locator(*np.meshgrid(where.grid.x.centres, where.grid.y.centres))
    return lat, lon


def test_a_finer_static_is_averaged_by_area():
    """White noise on twelve cells along a side: the mean of a fine cell is that of the cells in it."""
    coarse = field("equal area")
    where = horizontal(coarse)
    source = geographic(0.02, coarse).sel(lat=slice(45, 54), lon=slice(-1, 14))
    noise = np.random.default_rng(0).normal(1000, 300, source.orog.shape)
    found = regrid_static(source.assign(orog=source.orog.copy(data=noise)), where.grid, "orog", where)
    # 11 x 18 cells of spread 300 lie in one of 25 km.
    assert abs(found.mean() - 1000) < 10
    assert 10 < found.std() < 45


def test_what_a_geographic_static_does_not_reach_is_told():
    coarse = field("rotated")
    where, small = horizontal(coarse), geographic(0.5, coarse).sel(lat=slice(49, 55))
    with pytest.raises(GridError, match=r"orog: expected a field that covers the whole fine grid, .*use a larger"):
        regrid_static(small, where.grid, "orog", where)
    assert (regrid_mask(pick_mask((small.orog > 1e9).rename("mask")), where.grid, where) > 0.5).any()


def test_the_plan_says_what_was_brought_over():
    coarse = field("rotated")
    relief = geographic(0.1, coarse)
    plan = downscale.plan(coarse, 2, orog=relief, lapse_rate=-6.5e-3)
    assert any("orog" in note and "true positions" in note for note in plan.notes)
    fine = coarse.downscale(2, orog=relief, lapse_rate=-6.5e-3)
    assert coarse.downscale.check(fine).passed
    assert float(abs(fine.tas - coarse.downscale(2).tas).max()) > 1e-3
    own = downscale.plan(coarse, 2, orog=on_itself(coarse), lapse_rate=-6.5e-3)
    assert not any("true positions" in note for note in own.notes)


def on_itself(coarse: xr.Dataset) -> xr.Dataset:
    fine = coarse.downscale(2)
    return fine.tas.assign_attrs(fine.tas.attrs | {"units": "m"}).to_dataset(name="orog")


OWN = [("rotated", "0.25x0.2"), ("conic", "12500x10000"), ("equal area", "7e3x9e3")]


@pytest.mark.parametrize(("name", "text"), OWN)
def test_a_resolution_is_one_of_the_own_axes(name, text):
    coarse = field(name)
    fine = coarse.downscale(target_grid=text)
    assert same_axes(horizontal(coarse), horizontal(fine))
    assert "geographic" != axes_kind(horizontal(fine))
    assert downscale.check_conservation(coarse, fine).passed
    assert pick_static(fine.rename(tas="orog")) is not None
