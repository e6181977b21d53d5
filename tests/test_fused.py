"""The compiled pass against its readable twin by tensors; work shared among threads."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_fields import GRIDS, field_on, plane, rain_on, region, relief_on, same_bits, world
from strategies import factor_pairs, grids, odd_taps, orders, seeds

import downscale
from downscale.engine import fused
from downscale.kernels.windows import Windows, shared_windows
from downscale.nn.separable import METHODS, operator

methods = st.sampled_from(sorted(METHODS))


def twin(ds: xr.Dataset, *arguments: Any, **options: Any) -> xr.Dataset:
    """The same by tensors."""
    with downscale.set_options(engine="torch"):
        return ds.downscale(*arguments, **options)


def close(ours: xr.DataArray, theirs: xr.DataArray, units: float = 64.0) -> None:
    """Equal gaps, and values equal to rounding of the largest."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert (np.isnan(a) == np.isnan(b)).all()
    scale = np.nanmax(np.abs(b), initial=0.0)
    assert np.nanmax(np.abs(a - b), initial=0.0) <= units * np.finfo(ours.dtype).eps * scale


@given(grids(1, 8), factor_pairs, methods, st.sampled_from([0.0, 0.3]), st.sampled_from(["f4", "f8"]), seeds)
def test_both_ways_agree(grid, factor, method, missing, kind, seed):
    ds = field_on(grid, 2, dtype=kind, missing=missing, seed=seed)
    by_dim = dict(zip(ds.tas.dims[-2:], factor, strict=True))
    # Solves of rows beside the poles are exact to some 1e-11, and both take weights equal to that for the same.
    close(ds.downscale(by_dim, method).tas, twin(ds, by_dim, method).tas, units=64 if kind == "f4" else 1e5)


@given(grids(1, 8), factor_pairs, st.sampled_from([(0, None), (0, 9), (None, 3)]), st.sampled_from([0.0, 0.3]), seeds)
def test_both_ways_agree_on_what_bounds_leave(grid, factor, bounds, missing, seed):
    ds = field_on(grid, 2, low=0.0, missing=missing, seed=seed)
    ds["tas"] = ds.tas.clip(*bounds)
    by_dim = dict(zip(ds.tas.dims[-2:], factor, strict=True))
    ours = ds.downscale(by_dim, bounds=bounds)
    close(ours.tas, twin(ds, by_dim, bounds=bounds).tas, units=1e5)
    low, high = (-np.inf if bounds[0] is None else bounds[0]), (np.inf if bounds[1] is None else bounds[1])
    assert not ((ours.tas < low) | (ours.tas > high)).any()


@pytest.mark.parametrize("name", sorted(GRIDS))
@pytest.mark.parametrize("options", [{}, {"quantity": "extensive"}, {"conserve": None}, {"conserve": "total"}], ids=str)
def test_both_ways_agree_under_a_fine_mask_and_relief(name, options):
    ds = field_on(GRIDS[name](), 3, missing=0.1)
    dims = ds.tas.dims[-2:]
    fine = ds.downscale(3)
    valid = xr.DataArray(np.random.default_rng(1).uniform(size=fine.tas.shape[1:]) > 0.4, dims=dims)
    mask = valid.assign_coords({d: fine[d] for d in dims}).rename("mask")
    more = {**options, "mask": mask}
    if name != "plane" and options.get("quantity") is None:
        more.update(orog=relief_on(GRIDS[name](), (3, 3)), lapse_rate=-6.5e-3)
    close(ds.downscale(3, **more).tas, twin(ds, 3, **more).tas, units=1e4)


@pytest.mark.parametrize("target", ["0.7x0.9", "3x2.5"])
def test_both_ways_agree_where_the_target_cuts_cells(target):
    ds = rain_on(region(), 3, missing=0.1)
    close(ds.downscale(target_grid=target).pr, twin(ds, target_grid=target).pr, units=1e4)


@settings(max_examples=10)
@given(grids(2, 8), factor_pairs, odd_taps, orders, seeds)
def test_any_window_is_applied_as_it_is(grid, factor, taps, order, seed):
    """Windows of more taps than the loops are written out for, and of fewer."""
    ds = field_on(grid, 1, seed=seed)
    by_dim = dict(zip(ds.tas.dims[-2:], factor, strict=True))
    options = {"taps": taps, "order": order, "conserve": None}
    ours, theirs = ds.downscale(by_dim, **options).tas, twin(ds, by_dim, **options).tas
    close(ours, theirs, units=1e5)


@given(grids(1, 9), factor_pairs, methods)
def test_shared_windows_are_the_operator(grid, factor, method):
    for axis, count, cells in zip(operator(method, grid, factor).axes, factor, grid.shape, strict=True):
        start, weights = shared_windows(axis, count)
        matrix = np.zeros((axis.start.size, cells))
        for tap in range(weights.shape[2]):
            rows = np.arange(axis.start.size)
            np.add.at(matrix, (rows, (np.repeat(start, count) + tap) % cells), weights[..., tap].ravel())
        np.testing.assert_allclose(matrix, axis.dense(cells), atol=1e-11)


def test_a_uniform_circle_is_one_run():
    up = operator("sobolev", world(9, 24), 4)
    laid = Windows.of(up.axes[1], 4, 0, 24, 0, 24)
    assert laid.starts.size == 1
    assert laid.runs.shape == (1, 4, 7)
    open_axis = operator("sobolev", region(9, 24), 4).axes[1]
    assert Windows.of(open_axis, 4, 0, 24, 0, 24).starts.size == 7  # three cells at each end stand alone


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("grid", [world(9, 12), region(9, 12), plane(9, 12)], ids=["world", "region", "plane"])
def test_the_bare_operator_is_the_module(kind, grid):
    up = operator("sobolev", grid, 4)
    coarse = np.random.default_rng(0).normal(280, 10, (3, 9, 12)).astype(kind)
    out = fused.apply_bare(coarse, up, np.empty((3, 36, 48), kind), threads=2)
    theirs = up(torch.from_numpy(coarse.astype("f8"))).numpy()
    np.testing.assert_allclose(out, theirs, rtol=8 * np.finfo(kind).eps * 7)


@given(grids(2, 8), st.integers(1, 9), seeds)
def test_threads_change_no_bit(grid, threads, seed):
    ds = rain_on(grid, 3, seed=seed, missing=0.1)
    with dask.config.set(num_workers=threads):
        shared = ds.downscale(2).pr
    assert same_bits(shared, ds.chunk().downscale(2).pr)
