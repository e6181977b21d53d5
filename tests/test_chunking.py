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
from strategies import cuttings, seeds

import downscale
from downscale import TerrainPenalty
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


@pytest.mark.parametrize("seed", range(3))
def test_the_seam_of_the_world_is_an_ordinary_place_for_the_penalty(seed):
    """Gradients at the seam once added their terms in another order than inside."""
    grid = world(14, 18)
    ds = rain_on(grid, 3, seed=seed).drop_vars("time")
    options = {"orog": relief_on(grid), "terrain_penalty": TerrainPenalty(1e-5, iterations=1), "method": "bicubic"}
    assert differences(ds, ([1, 1, 1], [5, 5, 4], [4, 4, 4, 4, 2]), (2, 2), **options) == []


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_the_total_law_holds_whatever_the_cutting(method):
    """Its shift is a sum over whole maps, whose last bit may depend on the order of adding."""
    ds = field_on(world(), 2, missing=0.2)
    whole = ds.downscale(2, method, conserve="total")
    lazy = ds.chunk(time=1, lat=5, lon=3).downscale(2, method, conserve="total")
    np.testing.assert_allclose(whole.tas, lazy.tas.values, rtol=1e-14)
    assert downscale.check_conservation(ds, lazy, law="total").passed


def test_output_chunks_change_no_bit():
    ds = field_on(region(), 2).chunk(time=1)
    fine = ds.downscale(2, output_chunks={"time": 1, "lat": 7, "lon": 32})
    assert fine.tas.chunks == ((1, 1), (7, 7, 7, 3), (32,))
    assert same_bits(fine.tas, ds.downscale(2).tas)
