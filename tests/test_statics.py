"""Orography and other companions are brought onto the fine grid: copied where cells agree, averaged where finer."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from sample_fields import plane, region, relief_on, same_bits, world

from downscale.errors import GridError, InputError
from downscale.grid.latlon import RectilinearGrid
from downscale.io.cf import horizontal
from downscale.io.statics import on_grid, pick_static


def on(relief: xr.Dataset | xr.DataArray, grid: RectilinearGrid) -> np.ndarray:
    return np.asarray(on_grid(pick_static(relief), grid))


@pytest.mark.parametrize("grid", [world(), region(), plane()])
def test_cells_that_agree_are_copied_bit_for_bit(grid):
    relief, fine = relief_on(grid), grid.refine(2, 2)
    y, x = relief.orog.dims
    assert same_bits(on(relief, fine), relief.orog)
    back = slice(None, None, -1)
    for turned in (relief.isel({y: back}), relief.isel({x: back}), relief.transpose()):
        assert same_bits(on(turned, fine), relief.orog)


def test_coordinates_stored_in_single_precision_agree_too():
    relief = relief_on(world(9, 11))
    for name in relief.coords:
        relief[name] = relief[name].astype("float32")
    assert same_bits(on(relief, world(9, 11).refine(2, 2)), relief.orog)


@pytest.mark.parametrize("columns", [8, 16])
def test_the_world_may_begin_elsewhere(columns):
    relief, fine = relief_on(world()), world().refine(2, 2)
    turned = relief.roll(lon=columns, roll_coords=True).drop_vars("lon_bnds")
    assert same_bits(on(turned, fine), relief.orog)
    shifted = turned.assign_coords(lon=(turned.lon + 180) % 360 - 180)
    assert same_bits(on(shifted, fine), relief.orog)


def test_finer_relief_is_averaged_by_area():
    relief = relief_on(region(), (6, 4))
    means = on(relief, region().refine(2, 2))
    np.testing.assert_allclose(means, relief.downscale.coarsen({"lat": 3, "lon": 2}).orog, rtol=1e-12)


def test_a_part_of_a_larger_relief_is_taken():
    whole = relief_on(region(20, 30, south=25.0, west=5.0))
    part = on(whole, region().refine(2, 2))
    np.testing.assert_array_equal(part, whole.orog.sel(lat=slice(30, 42), lon=slice(10, 26)))


def test_relief_that_does_not_cover_the_grid_is_refused():
    with pytest.raises(GridError, match=r"orog: expected a field that covers the whole fine grid, received .* 0 %"):
        on(relief_on(region(8, 16)), region())
    with pytest.raises(GridError, match=r"covers 50 % of its worst row or column; use a larger field"):
        on(relief_on(region(12, 16, west=10.5)), region())


def test_the_sea_has_no_relief():
    relief = relief_on(region())
    relief["orog"][3, 4] = np.nan
    filled = on(relief, region().refine(2, 2))
    assert filled[3, 4] == 0
    assert np.isfinite(filled).all()


def test_relief_has_two_dimensions():
    relief = relief_on(region())
    assert on(relief.expand_dims("time"), region()).shape == (12, 16)
    with pytest.raises(GridError, match=r"expected two dimensions, received \('time', 'lat', 'lon'\); select one map"):
        on(relief.expand_dims(time=2), region())


def test_lazy_relief_stays_lazy():
    relief = relief_on(region()).chunk(lat=5)
    grid = horizontal(relief).grid
    lazy = on_grid(pick_static(relief), grid)
    assert lazy.shape == grid.shape
    assert same_bits(lazy, relief.orog)


def test_which_field_is_meant():
    relief = relief_on(region())
    several = relief.assign(sftlf=relief.orog * 0.0, count=5)
    several.sftlf.attrs = {}
    assert list(pick_static(several).data_vars) == ["orog"]
    assert list(pick_static(several.rename(orog="topo")).data_vars) == ["topo"]
    assert list(pick_static(several, "sftlf").data_vars) == ["sftlf"]
    assert list(pick_static(relief.orog.rename(None)).data_vars) == ["orog"]
    with pytest.raises(InputError, match="expected a field among 'orog', 'sftlf', received 'z'"):
        pick_static(several, "z")
    nameless = several.rename(orog="a").drop_attrs()
    with pytest.raises(InputError, match=r"expected one orography field, received .*'a', 'sftlf'.*; pass that"):
        pick_static(nameless)
    with pytest.raises(InputError, match="expected one orography field, received none"):
        pick_static(xr.Dataset())
