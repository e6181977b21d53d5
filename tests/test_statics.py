"""Orography and other companions are brought onto the fine grid: copied where cells agree, averaged where finer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from result_grids import conic, curvilinear, equal_area, latlon, rotated
from sample_fields import plane, region, relief_on, same_bits, world

import downscale
from downscale import TerrainPenalty
from downscale.cf.horizontal import horizontal
from downscale.check.self_validation import self_validation, terrain_penalty_values
from downscale.errors import GridError, InputError
from downscale.grid.latlon import RectilinearGrid
from downscale.io.statics import pick_mask, pick_static, regrid_mask, regrid_static
from downscale.request import Request


def on(relief: xr.Dataset | xr.DataArray, grid: RectilinearGrid) -> np.ndarray:
    return np.asarray(regrid_static(pick_static(relief), grid))


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
    lazy = regrid_static(pick_static(relief), grid)
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


def test_an_array_named_like_its_coordinate_is_a_field_all_the_same():
    relief = relief_on(region()).orog
    named = xr.DataArray(relief.values, {"lat": relief.lat, "lon": relief.lon}, ("lat", "lon")).rename("lat")
    assert list(pick_static(named).data_vars) == ["orog"]
    assert list(pick_mask(named).data_vars) == ["mask"]


@pytest.mark.parametrize(("pick", "option"), [(pick_static, "orog"), (pick_mask, "mask")])
def test_what_a_static_may_be(pick, option):
    with pytest.raises(InputError, match=f"expected {option} to be a Dataset, a DataArray or a file, received int"):
        pick(3)


def mesh_and_relief(factor: int = 2) -> tuple[xr.Dataset, xr.DataArray]:
    """A field on quadrilaterals and a relief on their parts, on none but its dimensions."""
    ds = curvilinear()
    shape = tuple(factor * ds.sizes[dim] for dim in ("j", "i"))
    return ds, xr.DataArray(np.random.default_rng(1).gamma(1, 300, shape), dims=("j", "i"), name="orog")


def beside(orog: xr.DataArray, fine: xr.Dataset) -> xr.Dataset:
    """A relief with the positions of a result."""
    kept = {name: v for name, v in fine.coords.items() if "time" not in v.dims and name != "time_bnds"}
    return xr.Dataset({"orog": orog}, kept)


def test_relief_on_the_very_quadrilaterals_is_copied_with_or_without_positions():
    ds, orog = mesh_and_relief()
    fine = ds.downscale(2)
    grid = horizontal(fine).grid
    placed = beside(orog, fine)
    single = placed.assign_coords({name: placed[name].astype("float32") for name in ("lat", "lon")})
    for relief in (orog, placed, placed.orog, single, placed.transpose("i", ...), orog.chunk(j=3)):
        assert same_bits(on(relief, grid), orog)
    counted = orog.assign_coords(j=np.arange(orog.sizes["j"]), i=np.arange(orog.sizes["i"]))
    assert same_bits(on(counted.rename(j="y", i="x"), grid), orog)


def test_relief_on_parts_of_quadrilaterals_is_averaged_by_area():
    ds, orog = mesh_and_relief(4)
    fine, finer = ds.downscale(2), ds.downscale(4)
    placed = beside(orog, finer)
    means = on(placed, horizontal(fine).grid)
    np.testing.assert_allclose(means, downscale.coarsen(placed, 2).orog, rtol=1e-12)
    area = horizontal(finer).grid.cell_area
    total = float((horizontal(fine).grid.cell_area * means).sum())
    np.testing.assert_allclose(total, float((area * orog.values).sum()), rtol=1e-12)


def test_relief_on_quadrilaterals_that_are_cut_is_repeated():
    ds, orog = mesh_and_relief(1)
    grid = horizontal(ds.downscale(3)).grid
    assert same_bits(on(beside(orog, ds), grid), np.kron(orog, np.ones((3, 3))))


def test_relief_on_other_cells_than_the_quadrilaterals_is_refused():
    ds, orog = mesh_and_relief()
    fine = ds.downscale(2)
    grid = horizontal(fine).grid
    with pytest.raises(GridError, match=r"the 12 x 16 fine cells .* \{'j': 11, 'i': 16\} without lat.*remapcon"):
        on(orog[1:], grid)
    moved = fine.assign_coords(lon=fine.lon + 0.2, lon_bnds=fine.lon_bnds + 0.2)
    with pytest.raises(GridError, match=r"orog: expected the 12 x 16 fine cells .* received 12 x 16 cells on two-dim"):
        on(beside(orog, moved), grid)
    with pytest.raises(GridError, match=r"received 6 x 8 cells on metres of a projection.*; bring it .*remapcon"):
        on(conic()[["tas"]].isel(time=0), grid)
    with pytest.raises(GridError, match=r"expected two dimensions, received \('time', 'j', 'i'\); select one map"):
        on(fine[["tas"]], grid)


def test_a_mask_of_quadrilaterals_is_a_share_of_each():
    ds, _ = mesh_and_relief()
    fine, finer = ds.downscale(2), ds.downscale(4)
    valid = np.random.default_rng(2).uniform(size=(24, 32)) > 0.4
    mask = beside(xr.DataArray(valid, dims=("j", "i")), finer).rename(orog="mask")
    share = regrid_mask(pick_mask(mask), horizontal(fine).grid)
    area = horizontal(finer).grid.cell_area
    inside = (area * valid).reshape(12, 2, 16, 2).sum(axis=(1, 3)) / area.reshape(12, 2, 16, 2).sum(axis=(1, 3))
    np.testing.assert_allclose(share, inside, rtol=1e-12)
    with pytest.raises(GridError, match=r"mask: expected the 12 x 16 fine cells of a curvilinear grid, received 6 x 8"):
        regrid_mask(pick_mask(conic().tas[0] > 280), horizontal(fine).grid)


def test_relief_must_turn_about_the_same_pole():
    ds = rotated()
    where, relief = horizontal(ds), ds[["tas"]].isel(time=0)
    np.testing.assert_array_equal(regrid_static(relief, where.grid, "lapse_rate", where), relief.tas)
    other = rotated().drop_vars(["lat", "lon"])
    other.crs.attrs["grid_north_pole_latitude"] = 41.0
    with pytest.raises(GridError, match=r"on the axes of a pole at latitude 39.25, .* received .* at latitude 41,"):
        regrid_static(other[["tas"]].isel(time=0), where.grid, "lapse_rate", where)
    with pytest.raises(GridError, match=r"mask: expected a field on latitudes and longitudes, .* one on the axes of a"):
        regrid_mask(pick_mask(relief.tas > 280), horizontal(latlon()).grid, horizontal(latlon()))
    # Two descriptions of one pole are one pole.
    turned = rotated()
    turned.crs.attrs["grid_north_pole_longitude"] += 360
    np.testing.assert_array_equal(
        regrid_static(turned[["tas"]].isel(time=0), where.grid, "lapse_rate", where), relief.tas
    )


def test_relief_must_lie_in_the_same_projection():
    ds = equal_area()
    where, relief = horizontal(ds), ds[["tas"]].isel(time=0)
    np.testing.assert_array_equal(regrid_static(relief, where.grid, "lapse_rate", where), relief.tas)
    # An array keeps the name of its grid mapping, whose variable may stay behind.
    named = relief.drop_vars("crs")
    np.testing.assert_array_equal(regrid_static(named, where.grid, "lapse_rate", where), relief.tas)
    named.tas.attrs.pop("grid_mapping")
    with pytest.raises(GridError, match=r"received one on metres of a projection without a grid_mapping; copy"):
        regrid_static(named.isel(y=slice(1, None)), where.grid, "lapse_rate", where)
    with pytest.raises(GridError, match=r"a projection \(lambert_azimuthal_equal_area\), .*lambert_conformal"):
        regrid_static(conic()[["tas"]].isel(time=0), where.grid, "lapse_rate", where)
    with pytest.raises(GridError, match=r"expected a field on metres of a projection.* received one on latitudes and"):
        on(latlon()[["tas"]].isel(time=0), where.grid)
    with pytest.raises(GridError, match=r"received one on two-dimensional latitudes and longitudes; bring it to the"):
        on(curvilinear()[["tas"]].isel(time=0), where.grid)


PENALTY = TerrainPenalty(base_gradient=1e-5, ratio=0.01)


def require_laws(coarse: xr.Dataset, orog: xr.Dataset | xr.DataArray, mask: xr.DataArray | None = None) -> xr.Dataset:
    """Refine with all that relief can do; the cell law must hold, the relief tell, the penalty fall."""
    asked = {"factor": 2, "orog": orog, "lapse_rate": -6.5e-3, "terrain_penalty": PENALTY}
    fine = coarse.downscale(**asked, mask=mask)
    assert coarse.downscale.check(fine, mask=mask).passed
    (name,) = fine.data_vars
    plain = coarse.downscale(2, mask=mask)[name]
    assert float(abs(fine[name] - plain).max()) > 0
    values = terrain_penalty_values(coarse, Request(**asked))[name]
    assert values["after"] < values["before"]
    errors = self_validation(coarse, Request(**asked))[name]
    assert set(errors) == {"blocks", "bilinear", "sobolev", "sobolev with terrain"}
    assert errors["sobolev"] < errors["bilinear"] < errors["blocks"]
    return fine


def test_relief_and_masks_on_an_ocean_model():
    with downscale.open_dataset(shared_data("nasty_curvilinear_nemo_orca1_sst_201501.nc"), chunks=None) as ds:
        coarse = ds.isel(y=slice(250, 282), x=slice(230, 270)).load()
    shape, rng = (64, 80), np.random.default_rng(0)
    orog = xr.DataArray(rng.gamma(1, 300, shape), dims=("y", "x"))
    mask = xr.DataArray(rng.uniform(size=shape) > 0.3, dims=("y", "x"))
    fine = require_laws(coarse, orog, mask)
    assert not np.isfinite(fine.tos.values[0][~mask.values]).any()
    np.testing.assert_array_equal(require_laws(coarse, beside(orog, fine)).tos, require_laws(coarse, orog).tos)


def test_the_relief_of_a_rotated_model():
    with downscale.open_dataset(shared_data("temperature_ukv_1p5km_rotated_20091119.nc"), chunks=None) as ds:
        part = ds.isel(time=0, model_level_number=0, grid_latitude=slice(0, 60), grid_longitude=slice(0, 80)).load()
    coarse = downscale.coarsen(part[["air_potential_temperature"]], 2)
    fine = require_laws(coarse, part[["surface_altitude_0"]])
    assert fine.air_potential_temperature.shape == part.air_potential_temperature.shape


def test_the_relief_of_a_model_in_metres_brings_its_truth_nearer():
    with downscale.open_dataset(shared_data("temperature_mogrepsuk_2km_20170602-03.nc"), chunks=None) as ds:
        truth = ds.isel(realization=slice(0, 2)).load()
    coarse = downscale.coarsen(truth[["tas"]], 4)
    require_laws(coarse.isel(y=slice(0, 40), x=slice(0, 40)), downscale.coarsen(truth[["orog"]], 2))

    def error(**options: object) -> float:
        return float(((coarse.downscale(4, **options).tas - truth.tas) ** 2).mean()) ** 0.5

    assert error(orog=truth[["orog"]], lapse_rate=-6.5e-3) < error() < error(method="bilinear", conserve=None)


def test_a_field_keeps_the_bounds_of_its_cells():
    relief = relief_on(region())
    edges = np.array([30.0, 30.2, *np.arange(32.0, 42), 42])[: relief.sizes["lat"] + 1]
    uneven = relief.isel(lat=slice(0, 2)).drop_vars("lat_bnds", errors="ignore")
    bounds = xr.Variable(("lat", "bnds"), np.stack([edges[:2], edges[1:3]], axis=1))
    uneven = uneven.assign_coords(lat=("lat", bounds.values.mean(axis=1), {**relief.lat.attrs, "bounds": "lat_bnds"}))
    for held in (uneven.assign_coords(lat_bnds=bounds), uneven.assign(lat_bnds=bounds)):
        picked = pick_static(held)
        assert list(picked.data_vars) == ["orog"]
        np.testing.assert_array_equal(horizontal(picked).grid.y.edges, edges[:3])


@pytest.mark.parametrize("options", [{"method": "cascade", "members": 2, "seed": 1}, {"method": "temperature"}])
def test_terrain_is_that_of_the_kernel_for_every_method(options: dict[str, Any]) -> None:
    """Noise and networks refine the field, not the orography: what a lapse rate adds is the same as with a kernel."""
    coarse = downscale.sample.open("north_america").isel(time=[0])
    relief = downscale.sample.open("north_america_relief")
    terrain = {"orog": relief, "lapse_rate": -6.5e-3}
    term = coarse.downscale(4, **terrain).tas - coarse.downscale(4).tas
    plain = {**options, **({"orog": relief} if options["method"] == "temperature" else {})}
    fine = coarse.downscale(4, **options, **terrain)
    assert float(abs(term).max()) > 1
    np.testing.assert_allclose(*xr.broadcast(fine.tas - coarse.downscale(4, **plain).tas, term), atol=1e-4)
    for member in fine.realization.values if "realization" in fine.dims else [None]:
        one = fine if member is None else fine.sel(realization=member, drop=True)
        assert downscale.check_conservation(coarse, one).passed
