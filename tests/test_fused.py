"""The compiled pass against its readable twin by tensors; work shared among threads."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_fields import plane, rain_on, region, same_bits, world
from strategies import factor_pairs, grids, seeds

from downscale.engine import fused
from downscale.kernels import refine
from downscale.kernels.windows import Windows, share_windows
from downscale.nn.separable import METHODS, operator

methods = st.sampled_from(sorted(METHODS))


@given(grids(1, 9), factor_pairs, methods)
def test_shared_windows_are_the_operator(grid, factor, method):
    for axis, count, cells in zip(operator(method, grid, factor).axes, factor, grid.shape, strict=True):
        start, weights = share_windows(axis, count)
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


def test_compiled_functions_have_names_of_their_own() -> None:
    """Loaded from different files of the cache, functions of one name would replace each other."""
    waiting, functions = [f for f in vars(refine).values() if hasattr(f, "py_func")], {}
    while waiting:
        function = waiting.pop().py_func
        assert functions.setdefault(function.__qualname__, function) is function
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        waiting += [value for value in cells if hasattr(value, "py_func")]
    assert len(functions) > 40
