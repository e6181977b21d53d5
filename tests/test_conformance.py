"""The same laws for all engines: compiled loops, tensors, and matrices, which are the oracle of the other two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_fields import GRIDS, coordinates, field_on, plane, rain_on, region, relief_on, same_bits, world
from strategies import cuttings, factor_pairs, generator, grids, irregular, masks, odd_taps, orders, seeds

import downscale
from downscale.fields.aggregate import Aggregation
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.nn.separable import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")
methods = st.sampled_from(sorted(METHODS))
kinds = st.sampled_from(["float32", "float64"])
shares = st.sampled_from([0.0, 0.3])
both = pytest.mark.parametrize("kind", ["float32", "float64"])
# Whose bits depend on nothing but the values: products of matrices are added in an order that depends on their sizes.
bitwise = pytest.mark.parametrize("engine", ["numba", "torch"], indirect=True, scope="module")


@pytest.fixture(params=["numba", "torch", "dense"], scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    with downscale.set_options(engine=request.param):
        yield request.param


def by_dim(ds: xr.Dataset, factor: tuple[int, int]) -> dict[Any, int]:
    """The factor of rows and columns by the names of the dimensions."""
    return dict(zip(values_of(ds).dims[-2:], factor, strict=True))


def values_of(ds: xr.Dataset) -> xr.DataArray:
    return ds[next(name for name in ("tas", "pr") if name in ds)]


def require_oracle(ds: xr.Dataset, fine: xr.Dataset, *arguments: Any, units: float = 1e5, **options: Any) -> None:
    """Equal gaps, and values equal to those of matrices to rounding of the largest.

    Solves of rows beside the poles are exact to some 1e-11, and weights equal to that are taken for the same.
    """
    with downscale.set_options(engine="dense"):
        oracle = values_of(ds.downscale(*arguments, **options))
    ours = values_of(fine)
    assert ours.dtype == oracle.dtype == values_of(ds).dtype
    a, b = np.asarray(ours, np.float64), np.asarray(oracle, np.float64)
    units = 64 if ours.dtype == np.float32 else units
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    assert np.nanmax(np.abs(a - b), initial=0.0) <= units * np.finfo(ours.dtype).eps * np.nanmax(np.abs(b), initial=0.0)


def require_means(
    ds: xr.Dataset, fine: xr.Dataset, grid: RectilinearGrid, factor: tuple[int, int], signed: bool = False
) -> None:
    """Every coarse cell is the mean of its fine cells, and only fine cells of missing cells are missing."""
    coarse, values = (np.asarray(values_of(each), np.float64) for each in (ds, fine))
    gaps = np.isnan(coarse)
    np.testing.assert_array_equal(np.isnan(values), gaps.repeat(factor[0], -2).repeat(factor[1], -1))
    means = Aggregation.between(grid, grid.refine(*factor)).mean(values)
    tolerance = 1e-6 if values_of(fine).dtype == np.float32 else 1e-12
    # Of values of both signs a mean is a difference, exact to rounding of the largest.
    atol = 1e-15 * np.nanmax(np.abs(coarse), initial=0.0) if signed else 0
    np.testing.assert_allclose(means[~gaps], coarse[~gaps], rtol=tolerance, atol=atol)


def cut(ds: xr.Dataset, sizes: tuple[Any, ...]) -> xr.Dataset:
    return ds.chunk(dict(zip(values_of(ds).dims, map(tuple, sizes), strict=True)))


# Cell means, gaps and the oracle, on any grid


@given(grids(1, 8), factor_pairs, methods, shares, kinds, seeds)
def test_cell_means_are_exact_and_gaps_stay(engine, grid, factor, method, missing, kind, seed):
    ds = field_on(grid, 2, dtype=kind, missing=missing, seed=seed)
    fine = ds.downscale(by_dim(ds, factor), method)
    require_means(ds, fine, grid, factor)
    require_oracle(ds, fine, by_dim(ds, factor), method)


@both
@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("name", sorted(GRIDS))
def test_cell_means_are_exact_at_any_factor(engine, name, factor, kind):
    ds = field_on(GRIDS[name](9, 20), 2, dtype=kind, missing=0.1)
    fine = ds.downscale(factor)
    require_means(ds, fine, GRIDS[name](9, 20), (factor, factor))
    require_oracle(ds, fine, factor)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_bounds_of_cells_need_not_have_their_coordinate_in_the_middle(engine, method):
    rng = generator(3)
    lat, lon = (CellAxis(irregular(rng, n, *ends), kind) for n, ends, kind in (
        (9, (-20.0, 55.0), "latitude"), (12, (5.0, 80.0), "longitude")))  # fmt: skip
    grid = RectilinearGrid(lat, lon)
    ds = field_on(grid, 2, missing=0.1)
    off_centre = {
        name: ds[name].copy(data=axis.edges[:-1] + 0.25 * np.diff(axis.edges))
        for name, axis in (("lat", lat), ("lon", lon))
    }
    ds = ds.assign_coords(off_centre)
    assert coordinates(grid)["lat"][1][0] != ds.lat[0]
    fine = ds.downscale({"lat": 3, "lon": 2}, method)
    require_means(ds, fine, grid, (3, 2))
    require_oracle(ds, fine, {"lat": 3, "lon": 2}, method)


@settings(max_examples=10)
@given(grids(2, 8), factor_pairs, odd_taps, orders, seeds)
def test_any_window_is_applied_as_it_is(engine, grid, factor, taps, order, seed):
    """Windows of more taps than the loops are written out for, and of fewer."""
    ds = field_on(grid, 1, seed=seed)
    options = {"taps": taps, "order": order, "conserve": None}
    require_oracle(ds, ds.downscale(by_dim(ds, factor), **options), by_dim(ds, factor), **options)


# Constants and linear functions


@given(grids(1, 8), factor_pairs, methods, st.floats(-1e3, 1e3), st.booleans(), st.data())
def test_constants_stay_constant_beside_gaps_too(engine, grid, factor, method, value, free, data):
    ds = field_on(grid, 1, standard_name="eastward_wind", units="m s-1") * 0 + value
    ds["tas"] = ds.tas.where(data.draw(masks(grid.shape)))
    fine = ds.downscale(by_dim(ds, factor), method, conserve=None if free else "cell").tas.values
    expected = ds.tas.values.repeat(factor[0], -2).repeat(factor[1], -1)
    np.testing.assert_allclose(fine, expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_linear_functions_stay_linear_inside(engine, method):
    grid = plane(12, 16)
    fine_grid = grid.refine(3, 4)
    linear = [np.add.outer(2e-3 * g.y.centres, -3e-3 * g.x.centres) for g in (grid, fine_grid)]
    ds = field_on(grid, 1)
    ds["tas"][0] = linear[0]
    fine = ds.downscale({"y": 3, "x": 4}, method, conserve=None).tas[0]
    np.testing.assert_allclose(fine[9:-9, 12:-12], linear[1][9:-9, 12:-12], rtol=1e-12)


@settings(max_examples=10)
@given(grids(1, 8), factor_pairs, methods, seeds)
def test_operators_are_linear(engine, grid, factor, method, seed):
    one, other = (field_on(grid, 1, seed=seed + k) for k in (0, 1))
    ours = (2 * one - 3 * other).downscale(by_dim(one, factor), method).tas
    fine = [ds.downscale(by_dim(ds, factor), method).tas for ds in (one, other)]
    scale = max(float(abs(field).max()) for field in fine)
    np.testing.assert_allclose(ours, 2 * fine[0] - 3 * fine[1], rtol=0, atol=1e-10 * scale)


# Bounds, masks, sums, orography, targets


@given(grids(1, 8), factor_pairs, st.sampled_from([(0, None), (0, 9), (None, 3)]), shares, seeds)
def test_bounds_and_cell_means_hold_together(engine, grid, factor, bounds, missing, seed):
    ds = field_on(grid, 2, low=0.0, missing=missing, seed=seed)
    ds["tas"] = ds.tas.clip(*bounds)
    fine = ds.downscale(by_dim(ds, factor), bounds=bounds)
    require_means(ds, fine, grid, factor, signed=bounds[0] is None)
    require_oracle(ds, fine, by_dim(ds, factor), bounds=bounds)
    low, high = (-np.inf if bounds[0] is None else bounds[0]), (np.inf if bounds[1] is None else bounds[1])
    assert not ((fine.tas < low) | (fine.tas > high)).any()


@pytest.mark.parametrize("name", sorted(GRIDS))
@pytest.mark.parametrize("options", [{}, {"quantity": "extensive"}, {"conserve": None}, {"conserve": "total"}], ids=str)
def test_masks_and_orography(engine, name, options):
    ds = field_on(GRIDS[name](), 3, missing=0.1)
    dims = ds.tas.dims[-2:]
    fine = ds.downscale(3)
    valid = xr.DataArray(np.random.default_rng(1).uniform(size=fine.tas.shape[1:]) > 0.4, dims=dims)
    mask = valid.assign_coords({d: fine[d] for d in dims}).rename("mask")
    options = {**options, "mask": mask}
    if name != "plane" and options.get("quantity") is None:
        options.update(orog=relief_on(GRIDS[name](), (3, 3)), lapse_rate=-6.5e-3)
    fine = ds.downscale(3, **options)
    assert not fine.tas.where(~mask).notnull().any()
    require_oracle(ds, fine, 3, **options)


@pytest.mark.parametrize("target", ["0.7x0.9", "3x2.5"])
def test_targets_that_cut_cells(engine, target):
    ds = rain_on(region(), 3, missing=0.1)
    require_oracle(ds, ds.downscale(target_grid=target), target_grid=target)


# Bits: cuttings, maps, gaps elsewhere, the layout in memory


@bitwise
@given(st.data(), grids(1, 7), methods, factor_pairs, shares, kinds, st.booleans(), seeds)
def test_any_cutting_gives_the_same_bits(engine, data, grid, method, factor, missing, kind, wet, seed):
    ds = (rain_on if wet else field_on)(grid, 2, missing=missing, dtype=kind, seed=seed)
    lazy = cut(ds, tuple(data.draw(cuttings(n)) for n in (2, *grid.shape))).downscale(by_dim(ds, factor), method)
    with dask.config.set(scheduler="sync"):
        assert same_bits(values_of(ds.downscale(by_dim(ds, factor), method)), values_of(lazy))


def test_any_cutting_is_near_the_oracle(engine):
    ds = rain_on(world(), 3, missing=0.1)
    lazy = cut(ds, ((1, 2), (5, 7), (4, 12))).downscale(3)
    require_oracle(ds, lazy, 3)


@bitwise
@both
@pytest.mark.parametrize(
    "options", [{}, {"method": "bilinear"}, {"conserve": None}, {"quantity": "extensive"}], ids=str
)
def test_other_maps_and_gaps_elsewhere_change_no_bit(engine, options, kind):
    ds = field_on(region(), 4, dtype=kind, missing=0.1)
    ds["tas"][2] = 280.0
    ds["tas"][3, 11, 15] = np.nan
    whole = ds.downscale(4, **options).tas
    for k in range(4):
        assert same_bits(whole[[k]], ds.isel(time=[k]).downscale(4, **options).tas)
    complete = field_on(region(), 1, dtype=kind)
    holed = complete.copy(deep=True)
    holed["tas"][0, 11, 15] = np.nan
    ours, theirs = (each.downscale(4, **options).tas[0, :8, :8] for each in (complete, holed))
    assert same_bits(ours, theirs)


@both
def test_the_layout_in_memory_changes_no_bit(engine, kind):
    ds = rain_on(world(8, 12), 3, dtype=kind, missing=0.1)
    whole, values = ds.downscale(2).pr, ds.pr.values
    wide = np.full((6, 16, 24), np.nan, kind)
    wide[::2, ::2, ::2] = values
    views = {
        "strided": wide[::2, ::2, ::2],
        "fortran": np.asfortranarray(values),
        "reversed": np.ascontiguousarray(values[:, ::-1, ::-1])[:, ::-1, ::-1],
        "turned": np.ascontiguousarray(values.transpose(2, 0, 1)).transpose(1, 2, 0),
        "other byte order": values.astype(values.dtype.newbyteorder(">")),
        "broadcast": np.broadcast_to(values[:1], values.shape),
        "read only": values.copy(),
    }
    views["read only"].flags.writeable = False
    for name, view in views.items():
        expected = np.broadcast_to(whole.values[:1], whole.shape) if name == "broadcast" else whole.values
        assert not view.flags.c_contiguous or name in ("other byte order", "read only"), name
        fine = ds.assign(pr=(ds.pr.dims, view, ds.pr.attrs)).downscale(2).pr.values
        np.testing.assert_array_equal(fine.astype(kind), expected, err_msg=name)


@pytest.mark.parametrize("dims", [("lat", "lon", "time"), ("lon", "lat", "time"), ("lon", "time", "lat")])
def test_the_order_of_dimensions_changes_no_bit(engine, dims):
    ds = field_on(world(), 2, missing=0.1)
    fine = ds.transpose(*dims, "bnds").downscale(2).tas
    assert fine.dims == dims
    np.testing.assert_array_equal(fine.transpose("time", "lat", "lon"), ds.downscale(2).tas)
    lazy = ds.transpose(*dims, "bnds").chunk(lat=5, lon=7, time=1).downscale(2).tas
    np.testing.assert_allclose(lazy, fine, rtol=1e-13)


# Symmetries of the sphere


@pytest.mark.parametrize("method", sorted(METHODS))
def test_turning_the_world_turns_the_field(engine, method):
    """Also where gaps on both sides of the seam are filled."""
    ds = field_on(world(5, 10), 2, missing=0.4)
    fine = ds.downscale({"lat": 2, "lon": 3}, method).tas
    for shift in range(1, 10, 2):
        turned = ds.roll(lon=shift, roll_coords=False).downscale({"lat": 2, "lon": 3}, method).tas
        np.testing.assert_allclose(turned, np.roll(fine, 3 * shift, -1), rtol=1e-12)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_turning_the_map_over_turns_the_field_over(engine, method):
    ds = field_on(region(9, 12), 1, missing=0.4)
    over = ds.isel(lat=slice(None, None, -1), lon=slice(None, None, -1))
    fine, other = (each.downscale({"lat": 2, "lon": 3}, method).tas.values for each in (ds, over))
    np.testing.assert_allclose(other[:, ::-1, ::-1], fine, rtol=1e-11)


def test_bilinear_on_a_plane_is_that_of_torch(engine):
    ds = field_on(plane(6, 7), 2)
    coarse = torch.from_numpy(ds.tas.values)[None]
    theirs = torch.nn.functional.interpolate(coarse, scale_factor=(4, 3), mode="bilinear", align_corners=False)
    fine = ds.downscale({"y": 4, "x": 3}, "bilinear", conserve=None).tas
    np.testing.assert_allclose(fine, theirs[0], rtol=1e-13)
