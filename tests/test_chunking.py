"""Any cutting of time, rows and columns gives the same bits, near every edge, seam and gap."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_fields import GRIDS, field_on, rain_on, region, relief_on, same_bits, world
from strategies import cuttings, factor_pairs, grids, seeds

import downscale
from downscale import TerrainPenalty
from downscale.engine import fused, tensors
from downscale.grid.latlon import RectilinearGrid

METHODS = ("sobolev", "conservative", "bilinear", "bicubic")
methods = st.sampled_from(METHODS)
shares = st.sampled_from([0.0, 0.1, 0.5])
kinds = st.sampled_from(["float32", "float64"])


def by_dim(ds: xr.Dataset, factor: tuple[int, int]) -> dict[Any, int]:
    """The factor of rows and columns by the names of the dimensions."""
    name = next(iter(ds.data_vars))
    return dict(zip(ds[name].dims[-2:], factor, strict=True))


@st.composite
def chunks_of(draw: st.DrawFn, grid: RectilinearGrid, times: int) -> tuple[list[int], ...]:
    return draw(cuttings(times)), draw(cuttings(grid.shape[0])), draw(cuttings(grid.shape[1]))


def differences(ds: xr.Dataset, cut: tuple[list[int], ...], factor: tuple[int, int], **options: Any) -> list[str]:
    """Names of the variables whose bits depend on the cutting."""
    name = next(iter(ds.data_vars))
    dims = ds[name].dims
    factors = by_dim(ds, factor)
    whole = ds.downscale(factors, **options)
    lazy = ds.chunk({dim: tuple(sizes) for dim, sizes in zip(dims, cut, strict=True)}).downscale(factors, **options)
    assert lazy[name].chunks is not None
    with dask.config.set(scheduler="sync"):
        lazy = lazy.compute()
    return [str(key) for key in whole.variables if not same_bits(whole[key], lazy[key])]


@given(st.data(), grids(1, 7), methods, factor_pairs, shares, kinds, seeds)
def test_any_cutting_gives_the_same_bits(data, grid, method, factor, missing, dtype, seed):
    ds = field_on(grid, 2, missing=missing, dtype=dtype, seed=seed)
    cut = data.draw(chunks_of(grid, 2))
    assert differences(ds.drop_vars("time"), cut, factor, method=method) == []


@given(st.data(), st.sampled_from(sorted(GRIDS)), st.sampled_from([(2, 2), (4, 3), (1, 3)]), shares, kinds, seeds)
@settings(max_examples=10)
def test_any_cutting_gives_the_same_bits_with_terrain(data, where, factor, missing, dtype, seed):
    grid = GRIDS[where](8, 10)
    ds = field_on(grid, 2, missing=missing, dtype=dtype, seed=seed)
    relief = relief_on(grid, factor)
    rate = data.draw(st.sampled_from([None, -6.5e-3, relief.orog * 1e-6 - 6e-3]))
    iterations = data.draw(st.integers(0, 3))
    penalty = TerrainPenalty(1e-5, 6.5e-3, weight=1.0, iterations=iterations)
    cut = data.draw(chunks_of(grid, 2))
    options = {"orog": relief, "lapse_rate": rate, "terrain_penalty": penalty}
    assert differences(ds.drop_vars("time"), cut, factor, **options) == []


@given(st.data(), st.sampled_from(sorted(GRIDS)), methods, shares, kinds, seeds)
@settings(max_examples=10)
def test_any_cutting_gives_the_same_bits_under_bounds(data, where, method, missing, dtype, seed):
    grid = GRIDS[where](7, 9)
    ds = rain_on(grid, 2, missing=missing, dtype=dtype, seed=seed)
    cut = data.draw(chunks_of(grid, 2))
    assert differences(ds.drop_vars("time"), cut, (2, 3), method=method) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_seam_of_the_world_is_an_ordinary_place_for_the_penalty(seed):
    """Gradients at the seam once added their terms in another order than inside."""
    grid = world(14, 18)
    ds = rain_on(grid, 3, seed=seed).drop_vars("time")
    options = {"orog": relief_on(grid), "terrain_penalty": TerrainPenalty(1e-5, iterations=1), "method": "bicubic"}
    assert differences(ds, ([1, 1, 1], [5, 5, 4], [4, 4, 4, 4, 2]), (2, 2), **options) == []


def test_missing_cells_at_the_seam_are_filled_from_over_it():
    """The fill once stopped at the seam, unless a cut happened to lie there."""
    ds = field_on(world(), 1).drop_vars("time")
    ds["tas"][0, 3:9, -1] = np.nan
    assert differences(ds, ([1], [12], [5, 6, 5]), (2, 2)) == []
    rolled = ds.roll(lon=8, roll_coords=False)
    a, b = ds.downscale(2).tas.values, rolled.downscale(2).tas.values
    np.testing.assert_allclose(np.roll(a, 16, axis=-1), b, rtol=1e-12)


def test_gaps_elsewhere_change_no_bit_here():
    """A block with a gap takes the masked path; cells without gaps must not notice."""
    ds = field_on(region(), 2).drop_vars("time")
    gaps = ds.copy(deep=True)
    gaps["tas"][1, 11, 15] = np.nan
    a, b = ds.downscale(2), gaps.downscale(2)
    assert same_bits(a.tas[0], b.tas[0])
    assert same_bits(a.tas[1, :2, :2], b.tas[1, :2, :2])


def test_the_number_of_maps_worked_on_at_once_changes_nothing(monkeypatch):
    ds = rain_on(region(), 5, missing=0.1)
    whole = ds.downscale(3)
    monkeypatch.setattr(fused, "BATCH_VALUES", 1)
    monkeypatch.setattr(tensors, "BATCH_VALUES", 1)
    assert same_bits(whole.pr, ds.downscale(3).pr)
    assert same_bits(ds.downscale(3, quantity="extensive").pr, ds.chunk(time=2).downscale(3, quantity="extensive").pr)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_without_a_law_a_gap_elsewhere_changes_no_bit(kind):
    """Whole blocks of four columns a cell take a shorter way, blocks with gaps do not."""
    ds = field_on(world(), 2, dtype=kind)
    ds["tas"][1, 3, 5] = np.nan
    whole = ds.downscale(4, conserve=None).tas
    assert same_bits(whole, ds.chunk(time=1, lat=5, lon=4).downscale(4, conserve=None).tas)
    assert same_bits(whole[0], ds.isel(time=[0]).downscale(4, conserve=None).tas[0])


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_the_total_law_holds_whatever_the_cutting(method):
    """Its shift is a sum over whole maps, whose last bit may depend on the order of adding."""
    ds = field_on(world(), 2, missing=0.2)
    whole = ds.downscale(2, method, conserve="total")
    lazy = ds.chunk(time=1, lat=5, lon=3).downscale(2, method, conserve="total")
    np.testing.assert_allclose(whole.tas, lazy.tas.values, rtol=1e-14)
    assert downscale.check_conservation(ds, lazy, law="total").passed


@pytest.mark.parametrize("dims", [("lat", "lon", "time"), ("lon", "lat", "time"), ("lon", "time", "lat")])
def test_the_order_of_dimensions_changes_no_bit(dims):
    ds = field_on(world(), 2, missing=0.1)
    turned = ds.transpose(*dims, "bnds")
    whole = ds.downscale(2).tas
    for fine in (turned.downscale(2).tas, turned.chunk(lat=5, lon=7, time=1).downscale(2).tas):
        assert fine.dims == dims
        assert same_bits(whole, fine.transpose(*whole.dims))


def test_output_chunks_change_no_bit():
    ds = field_on(region(), 2).chunk(time=1)
    fine = ds.downscale(2, output_chunks={"time": 1, "lat": 7, "lon": 32})
    assert fine.tas.chunks == ((1, 1), (7, 7, 7, 3), (32,))
    assert same_bits(fine.tas, ds.downscale(2).tas)
