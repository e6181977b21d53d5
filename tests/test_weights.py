"""Weights in files: laws of the matrices, layouts that other tools read, missing values, coordinates, bad files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from sample_fields import assert_same, coordinates, field_on, plane, region, same_bits, untouched, world
from schedulers import computations
from strategies import cuttings, factor_pairs, generator, latitudes, longitudes, masks, seeds

from downscale.errors import GridError, InputError, OptionError, OutputError, ShapeError
from downscale.grid.axis import CellAxis
from downscale.grid.corners import Cells, cells_of
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import overlap_weights
from downscale.io.weights import links_dataset, read_weights, weights_dataset, write_weights
from downscale.io.weights_apply import apply_weights
from downscale.kernels.classic import linear_weights
from downscale.kernels.sobolev import axis_weights, enforce_cell_conservation
from downscale.kernels.sparse import SparseWeights

LAYOUTS = ["esmf", "scrip"]
LINKS = {"esmf": ("row", "col", "S"), "scrip": ("dst_address", "src_address", "remap_matrix")}
globes = st.builds(RectilinearGrid, latitudes(1, 7), longitudes(1, 8))


def sobolev(coarse: CellAxis, fine: CellAxis) -> np.ndarray:
    weights = axis_weights(coarse.measure_edges, fine.measure_edges, period=coarse.measure_period)
    return enforce_cell_conservation(weights, coarse.fine_fractions(fine)).dense(coarse.size)


def linear(coarse: CellAxis, fine: CellAxis) -> np.ndarray:
    return linear_weights(coarse.centres, fine.centres, coarse.period).dense(coarse.size)


MATRICES = {"sobolev": sobolev, "conservative": overlap_weights, "bilinear": linear}


def matrices(method: str, source: RectilinearGrid, target: RectilinearGrid) -> tuple[np.ndarray, np.ndarray]:
    return MATRICES[method](source.y, target.y), MATRICES[method](source.x, target.x)


def dataset(method: str, source: RectilinearGrid, target: RectilinearGrid, **options: Any) -> xr.Dataset:
    return weights_dataset(*matrices(method, source, target), source, target, method=method, **options)


def partly() -> RectilinearGrid:
    """Cells that lie within, across and beyond the edges of the region of the samples, with its rows reversed."""
    grid = region(9, 11, 27.5, 8.3)
    return RectilinearGrid(CellAxis(grid.y.edges[::-1] + 0.25, "latitude"), grid.x)


def summed(ds: xr.Dataset, values: np.ndarray) -> np.ndarray:
    """What a tool does that knows three lists and nothing else."""
    row, col, weight = (ds[name].values for name in LINKS["esmf" if "S" in ds else "scrip"])
    out = np.zeros(ds.sizes["n_b" if "S" in ds else "dst_grid_size"])
    np.add.at(out, row - 1, weight.ravel() * values.ravel()[col - 1])
    return out


# Laws of the matrices


@given(seeds, st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_links_are_the_product_of_the_axes(seed, rows, columns, fine_rows, fine_columns):
    rng = generator(seed)
    y, x = rng.normal(size=(fine_rows, rows)), rng.normal(size=(fine_columns, columns))
    y[rng.uniform(size=y.shape) < 0.5], x[rng.uniform(size=x.shape) < 0.5] = 0.0, 0.0
    weights, field = SparseWeights.from_axes(y, x), rng.normal(size=(3, rows, columns))
    assert weights.weight.all()
    assert weights.weight.size == np.count_nonzero(np.kron(y, x))
    order = weights.row.astype(np.int64) * rows * columns + weights.col
    assert (np.diff(order) > 0).all()
    wanted = np.where(np.kron(y, x).any(axis=1).reshape(fine_rows, fine_columns), y @ field @ x.T, np.nan)
    np.testing.assert_allclose(weights.apply(field), wanted, rtol=1e-12, atol=1e-12)


@given(globes, globes, st.sampled_from(LAYOUTS))
def test_conservative_weights_between_any_grids_keep_the_laws(source, target, layout):
    for normalization in ("fracarea", "destarea"):
        ds = dataset("conservative", source, target, layout=layout, normalization=normalization)
        weights = read_weights(ds)
        share = ds["frac_b" if layout == "esmf" else "dst_grid_frac"].values.reshape(target.shape)
        used = ds["frac_a" if layout == "esmf" else "src_grid_frac"].values.reshape(source.shape)
        reached = share > 0
        assert ((share <= 1 + 1e-12) & (share >= 0)).all()
        sums = reached if normalization == "fracarea" else share
        np.testing.assert_allclose(weights.sums(), sums, rtol=1e-9, atol=1e-12)
        areas = weights.target.area.reshape(target.shape) * (share if normalization == "fracarea" else 1.0)
        wanted = used * weights.source.area.reshape(source.shape)
        np.testing.assert_allclose(weights.adjoint(areas), wanted, rtol=1e-8, atol=1e-9)


@given(st.builds(RectilinearGrid, latitudes(2, 8), longitudes(2, 8)), factor_pairs)
def test_sobolev_weights_keep_the_phase_and_the_total_law(grid, factors):
    ds = dataset("sobolev", grid, grid.refine(*factors))
    weights = read_weights(ds)
    np.testing.assert_allclose(weights.sums(), 1, rtol=1e-9)
    source, target = cells_of(grid), cells_of(grid.refine(*factors))
    np.testing.assert_allclose(weights.adjoint(target.area), source.area.reshape(grid.shape), rtol=1e-9)
    assert (ds.frac_a == 1).all()
    assert (ds.frac_b == 1).all()


def test_bilinear_weights_say_that_they_keep_no_total():
    grid = world(6, 8)
    ds = dataset("bilinear", grid, grid.refine(2, 2))
    np.testing.assert_allclose(read_weights(ds).sums(), 1, rtol=1e-12)
    gap = read_weights(ds).adjoint(ds.area_b.values) / ds.area_a.values.reshape(grid.shape) - 1
    assert np.abs(gap).max() > 1e-3
    assert (ds.frac_a == 0).all()
    assert ds.map_method == "Bilinear remapping"


def test_an_edge_that_misses_by_rounding_makes_no_cell():
    """The covered share of 1e-15 would become a whole value."""
    source, target = region(2, 2), region(2, 3)
    x = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1e-15]])
    ds = weights_dataset(np.eye(2), x, source, target, method="conservative")
    assert ds.frac_b.values.reshape(2, 3).tolist() == [[1, 1, 0], [1, 1, 0]]
    assert np.isnan(read_weights(ds).apply(np.ones((2, 2)))[:, 2]).all()


# Layouts


@pytest.mark.parametrize("grid", [world(5, 6, -180.0), region(4, 3), partly()], ids=["world", "region", "descending"])
def test_cells_have_exact_areas_and_corners_anticlockwise(grid):
    cells = cells_of(grid)
    np.testing.assert_allclose(cells.area.reshape(grid.shape) * 6_371_000.0**2, grid.cell_area, rtol=1e-14)
    y, x = cells.y_corners, cells.x_corners
    twice = (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)
    assert (twice > 0).all()
    np.testing.assert_allclose(y.mean(axis=1), cells.y)
    np.testing.assert_allclose(x.mean(axis=1), cells.x)
    if grid.x.periodic:
        np.testing.assert_allclose(cells.area.sum(), 4 * np.pi, rtol=1e-14)


@given(st.builds(RectilinearGrid, latitudes(2, 7), longitudes(2, 8)))
def test_cells_know_the_rows_and_columns_they_came_from(grid):
    back = cells_of(grid).grid()
    assert back is not None
    for ours, theirs in ((back.y, grid.y), (back.x, grid.x)):
        np.testing.assert_allclose(ours.edges, theirs.edges, rtol=0, atol=1e-9)


def test_cells_that_are_no_rows_make_no_grid():
    cells = cells_of(region(3, 4))
    assert Cells(cells.shape, cells.y + 0.1 * cells.x, cells.x).grid() is None
    assert Cells((12,), cells.y, cells.x).grid() is None
    assert Cells((1, 12), cells.y, cells.x).grid() is None
    assert Cells((3, 1), cells.y[::4], cells.x[::4]).grid() is None


def test_the_esmf_layout_is_as_documented(tmp_path):
    source, target = world(3, 4), world(6, 8)
    write_weights(dataset("sobolev", source, target), tmp_path / "w.nc")
    with netCDF4.Dataset(tmp_path / "w.nc") as file:
        sizes = {name: len(dim) for name, dim in file.dimensions.items()}
        n_s = sizes.pop("n_s")
        assert sizes == {"n_a": 12, "n_b": 48, "nv_a": 4, "nv_b": 4, "src_grid_rank": 2, "dst_grid_rank": 2}
        wanted = {"row": "i4", "col": "i4", "S": "f8", "src_grid_dims": "i4", "dst_grid_dims": "i4"}
        for side in "ab":
            kinds = dict.fromkeys(("xc", "yc", "xv", "yv", "area", "frac"), "f8")
            wanted |= {f"{name}_{side}": kind for name, kind in {**kinds, "mask": "i4"}.items()}
        assert {name: variable.dtype.str[1:] for name, variable in file.variables.items()} == wanted
        assert file["row"].dimensions == file["col"].dimensions == file["S"].dimensions == ("n_s",)
        assert file["src_grid_dims"][:].tolist() == [4, 3]
        assert file["xv_b"].dimensions == ("n_b", "nv_b")
        assert file["xc_a"].units == file["yc_a"].units == "degrees"
        assert {"title", "normalization", "map_method", "conventions"} <= set(file.ncattrs())
        assert "Bounds, masks" in file.comment
        assert not any("_FillValue" in variable.ncattrs() for variable in file.variables.values())
        assert file["S"][:].size == n_s
        assert (np.diff(file["row"][:]) >= 0).all()
        assert file["xc_a"][:4].tolist() == [45, 135, 225, 315]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_source_cells_count_from_one_with_x_fastest(layout):
    """Weights that pick one cell find the one whose place in the flattened field is 1 + iy * n_x + ix."""
    y, x = np.eye(3)[[2]], np.eye(4)[[1]]
    ds = weights_dataset(y, x, region(3, 4), region(1, 1), method="conservative", layout=layout)
    row, col, weight = (ds[name].values.ravel().tolist() for name in LINKS[layout])
    assert (row, col, weight) == ([1], [1 + 2 * 4 + 1], [1.0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("method", "source", "target"),
    [
        ("sobolev", world(6, 8), world(12, 16)),
        ("sobolev", plane(5, 6), plane(5, 6).refine(3, 2)),
        ("conservative", world(6, 8), world(7, 5, -180.0)),
        ("bilinear", region(5, 6), region(5, 6).refine(2, 2)),
    ],
    ids=["sobolev", "plane", "conservative", "bilinear"],
)
def test_written_read_and_applied_is_the_method(tmp_path, layout, method, source, target):
    y, x = matrices(method, source, target)
    field = generator(1).normal(size=source.shape) + 280
    ds = weights_dataset(y, x, source, target, method=method, layout=layout)
    path = write_weights(ds, tmp_path / "w.nc")
    read = read_weights(path)
    assert same_bits(read.apply(field), read_weights(ds).apply(field))
    np.testing.assert_allclose(read.apply(field), y @ field @ x.T, rtol=1e-12)
    np.testing.assert_allclose(summed(ds, field), (y @ field @ x.T).ravel(), rtol=1e-12)
    assert (read.source_shape, read.target_shape) == (source.shape, target.shape)
    back = read.target.grid()
    np.testing.assert_allclose(back.x.edges, target.x.edges, rtol=1e-12, atol=1e-9)
    assert back.spherical == target.spherical


def test_both_layouts_hold_the_same_links():
    source, target = world(6, 8), world(12, 16)
    esmf, scrip = (read_weights(dataset("sobolev", source, target, layout=layout)) for layout in LAYOUTS)
    for name in ("row", "col", "weight"):
        assert same_bits(getattr(esmf, name), getattr(scrip, name))


def test_any_sparse_weights_with_cells_can_be_written():
    source, target = cells_of(region(2, 3)), Cells((2,), np.array([30.5, 31.5]), np.array([11.0, 12.0]))
    weights = SparseWeights.from_links([1, 0], [5, 0], [1.0, 1.0], (2, 3), (2,), source, target)
    options = {"method": "conservative", "normalization": "destarea"}
    for layout in LAYOUTS:
        ds = links_dataset(weights, np.zeros((2, 3)), np.ones(2), layout=layout, **options)
        assert read_weights(ds).apply([[1.0, 2, 3], [4, 5, 6]]).tolist() == [1, 6]
    bare = SparseWeights.from_links([0], [0], [1.0], (1, 1), (1, 1))
    with pytest.raises(ShapeError, match="expected weights whose source and target cells are known"):
        links_dataset(bare, np.zeros((1, 1)), np.ones((1, 1)), layout="esmf", **options)


# Missing values


def slow(weights: SparseWeights, field: np.ndarray, na_thres: float) -> np.ndarray:
    """One target at a time; weights of one sign."""
    out = np.full(int(np.prod(weights.target_shape)), np.nan)
    for target in range(out.size):
        mine = weights.row == target
        values, weight = field.ravel()[weights.col[mine]], weights.weight[mine]
        valid = ~np.isnan(values)
        if not valid.any() or weight[~valid].sum() > na_thres * weight.sum() + 1e-12 * (na_thres > 0):
            continue
        out[target] = (weight * values)[valid].sum() / (weight[valid].sum() / weight.sum())
    return out.reshape(weights.target_shape)


@given(st.data(), globes, globes, st.sampled_from([0.0, 0.25, 0.6, 1.0]))
def test_missing_sources_leave_their_share(data, source, target, na_thres):
    field = generator(data.draw(seeds)).normal(size=source.shape) + 5
    field[~data.draw(masks(source.shape))] = np.nan
    for normalization in ("fracarea", "destarea"):
        weights = read_weights(dataset("conservative", source, target, normalization=normalization))
        found, wanted = weights.apply(field, na_thres=na_thres), slow(weights, field, na_thres)
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


@given(st.data())
def test_thresholds_mean_any_and_all(data):
    source = world(4, 6)
    weights = read_weights(dataset("sobolev", source, source.refine(2, 2)))
    mask = data.draw(masks(source.shape))
    field = np.where(mask, 7.0, np.nan)
    taken = mask.ravel()[weights.col]
    some, every = np.ones((2, 8 * 12), bool)
    np.logical_and.at(every, weights.row, taken)
    some[:] = False
    np.logical_or.at(some, weights.row, taken)
    strict, loose = (weights.apply(field, na_thres=share).ravel() for share in (0.0, 1.0))
    np.testing.assert_array_equal(~np.isnan(strict), every)
    assert not (~np.isnan(loose) & ~some).any()
    assert not (np.isnan(loose) & every).any()
    np.testing.assert_allclose(loose[~np.isnan(loose)], 7.0, rtol=1e-12)
    plain = weights.apply(field, skipna=False).ravel()
    np.testing.assert_array_equal(~np.isnan(plain), every)


def test_what_nearly_cancels_is_missing():
    """Left with 1.0 and -0.99, a sum of differences is no mean; with 1.0 and -0.5 it still is one."""
    wild = SparseWeights.from_links([0, 0, 0], [0, 1, 2], [1.0, -0.99, 0.99], (1, 3), (1, 1))
    mild = SparseWeights.from_links([0, 0, 0], [0, 1, 2], [1.0, -0.5, 0.5], (1, 3), (1, 1))
    field = np.array([[2.0, 2.0, np.nan]])
    assert np.isnan(wild.apply(field)).all()
    assert mild.apply(field).tolist() == [[2.0]]


# Order of sums


@given(st.data())
def test_neither_chunks_nor_the_order_of_links_change_a_bit(data):
    source, rng = world(6, 8), generator(data.draw(seeds))
    ds = dataset("sobolev", source, source.refine(2, 3))
    weights, field = read_weights(ds), rng.normal(size=(5, 2, 6, 8))
    field[rng.uniform(size=field.shape) < data.draw(st.sampled_from([0.0, 0.1]))] = np.nan
    whole = weights.apply(field)
    ends = np.cumsum(data.draw(cuttings(5)))
    parts = [weights.apply(part) for part in np.split(np.asfortranarray(field), ends[:-1])]
    assert same_bits(np.concatenate(parts), whole)
    shuffled = read_weights(ds.isel(n_s=rng.permutation(ds.sizes["n_s"])))
    assert same_bits(shuffled.apply(field), whole)


# xarray


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fields_come_on_the_target_grid(layout):
    source, target = region(), partly()
    coarse = field_on(source, dtype="float32").assign(number=3, bare=("time", np.arange(3)))
    before = untouched(coarse)
    weights = dataset("conservative", source, target, layout=layout)
    fine = apply_weights(coarse, weights)
    assert_same(coarse, before)
    assert fine.tas.dims == ("time", "lat", "lon")
    assert fine.tas.dtype == np.float32
    assert fine.tas.attrs == coarse.tas.attrs
    assert apply_weights(coarse, weights, keep_attrs=False).tas.attrs == {}
    assert fine.number == 3
    xr.testing.assert_identical(fine.time, coarse.time)
    np.testing.assert_allclose(fine.lat, target.y.centres)
    np.testing.assert_allclose(fine.lat_bnds, np.stack([target.y.edges[:-1], target.y.edges[1:]], axis=1))
    np.testing.assert_allclose(fine.lon_bnds[:, 0], target.x.edges[:-1])
    np.testing.assert_allclose(fine.areacella, target.cell_area, rtol=1e-9)
    assert fine.lat.attrs["bounds"] == "lat_bnds"
    cover = weights["frac_b" if layout == "esmf" else "dst_grid_frac"].values.reshape(target.shape)
    assert 0 < (cover == 0).sum() < cover.size
    np.testing.assert_array_equal(np.isnan(fine.tas[0]), cover == 0)
    array = apply_weights(coarse.tas, weights)
    assert isinstance(array, xr.DataArray)
    xr.testing.assert_identical(array.drop_attrs(), fine.tas.drop_attrs())


def test_dimensions_may_come_in_any_order():
    source, target = region(), region().refine(2, 2)
    weights, coarse = dataset("sobolev", source, target), field_on(source)
    turned = apply_weights(coarse.transpose("lon", "time", "lat", ...), weights)
    assert turned.tas.dims == ("lon", "time", "lat")
    xr.testing.assert_equal(turned.tas.transpose("time", "lat", "lon"), apply_weights(coarse, weights).tas)


@pytest.mark.parametrize("chunks", [{"time": 1}, {"lat": 5, "lon": 4}, {"time": 2, "lon": 7}])
def test_lazy_in_lazy_out_and_the_same_bits(chunks):
    source = region()
    weights, coarse = dataset("sobolev", source, source.refine(2, 2)), field_on(source, missing=0.1)
    with computations(0):
        lazy = apply_weights(coarse.chunk(chunks), weights, na_thres=0.5)
    assert isinstance(lazy.tas.data, da.Array)
    assert same_bits(lazy.tas.compute(), apply_weights(coarse, weights, na_thres=0.5).tas)


def test_one_task_holds_the_weights():
    source = region()
    weights = read_weights(dataset("sobolev", source, source.refine(2, 2)))
    lazy = apply_weights(field_on(source, 8).chunk(time=1), weights).tas.data
    (graph,) = dask.optimize(lazy)
    tasks = [len(cloudpickle.dumps(task)) for task in dict(graph.__dask_graph__()).values()]
    assert sum(size > len(cloudpickle.dumps(weights)) / 2 for size in tasks) == 1


def test_integers_become_floats():
    source = region(3, 4)
    weights = dataset("sobolev", source, source.refine(2, 2))
    for kind, wanted in (("i2", "f4"), ("i4", "f8"), ("f4", "f4"), ("f8", "f8")):
        assert apply_weights(field_on(source, dtype=kind), weights).tas.dtype == wanted


def test_a_curved_target_has_two_dimensional_coordinates():
    source = region(4, 5)
    cells = cells_of(region(3, 2))
    target = Cells((3, 2), cells.y + 0.1 * cells.x, cells.x, cells.y_corners, cells.x_corners)
    weights = SparseWeights.from_links(np.arange(6), np.arange(6), np.ones(6), (4, 5), (3, 2), cells_of(source), target)
    coarse = field_on(source)
    fine = apply_weights(coarse, weights)
    assert fine.tas.dims == ("time", "y", "x")
    assert fine.lat.dims == fine.lon.dims == ("y", "x")
    assert fine.lat_bnds.dims == ("y", "x", "nv")
    np.testing.assert_array_equal(fine.lat, target.y.reshape(3, 2))
    lazy = apply_weights(coarse.chunk(time=1), weights)
    assert same_bits(lazy.tas.compute(), fine.tas)


def test_a_list_of_targets_and_a_curved_source():
    cells = cells_of(region(4, 5))
    y, x = (cells.y + 0.1 * cells.x).reshape(4, 5), cells.x.reshape(4, 5)
    field = np.arange(40.0).reshape(2, 4, 5)
    coarse = xr.Dataset({"tas": (("time", "j", "i"), field)}, {"lat": (("j", "i"), y), "lon": (("j", "i"), x)})
    target = Cells((2,), np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    weights = SparseWeights.from_links([0, 1], [3, 19], [1.0, 1.0], (4, 5), (2,), None, target)
    for obj in (coarse, coarse.chunk(time=1)):
        fine = apply_weights(obj, weights)
        assert fine.tas.dims == ("time", "cell")
        assert fine.tas.values.tolist() == [[3.0, 19.0], [23.0, 39.0]]
        assert fine.lat.values.tolist() == [1.0, 2.0]
    to_grid = SparseWeights.from_links([0], [7], [1.0], (4, 5), (2, 2), None, cells_of(region(2, 2)))
    fine = apply_weights(coarse, to_grid)
    assert fine.lat.values.tolist() == [30.5, 31.5]
    assert fine.lat.attrs["standard_name"] == "latitude"
    assert set(fine.coords) == {"lat", "lon", "lat_bnds", "lon_bnds", "areacella"}


def test_links_alone_need_shapes_and_make_no_coordinates():
    """As xESMF writes them."""
    source, target = region(3, 4), region(3, 4).refine(2, 2)
    full = dataset("sobolev", source, target)
    bare = full[["row", "col", "S"]].drop_attrs()
    shapes = {"source_shape": (3, 4), "target_shape": (6, 8)}
    weights = read_weights(bare, **shapes)
    coarse = field_on(source)
    fine = apply_weights(coarse, weights)
    assert same_bits(fine.tas, apply_weights(coarse, full).tas)
    assert set(fine.coords) == {"time"}
    with pytest.raises(ShapeError, match=r"expected src_grid_dims .* pass source_shape=\(n_y, n_x\)"):
        read_weights(bare)
    with pytest.raises(ShapeError, match=r"expected the source shape of the weights, \(3, 4\), received \(4, 3\)"):
        read_weights(full, source_shape=(4, 3))


# One line for what is wrong


@pytest.fixture
def good() -> xr.Dataset:
    return dataset("conservative", region(3, 4), region(2, 2)).load()


def test_what_is_no_file_of_weights(tmp_path, good):
    with pytest.raises(InputError, match="expected an existing file"):
        read_weights(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("no weights")
    with pytest.raises(InputError, match="expected a readable NetCDF file"):
        read_weights(tmp_path / "text.nc")
    with pytest.raises(InputError, match=r"expected weights with 'row', 'col', 'S' .* with 'tas'"):
        read_weights(xr.Dataset({"tas": ("x", [1.0])}))
    with pytest.raises(InputError, match="expected weights as a Dataset or a file, received int"):
        read_weights(3)
    with pytest.raises(InputError, match="expected one whole number per link for the target cells"):
        read_weights(good.assign(row=good.row * 1.0))
    with pytest.raises(ShapeError, match="expected 12 source cells"):
        read_weights(good.assign(src_grid_dims=("src_grid_rank", [4, 4])))


@pytest.mark.parametrize("shift", [-1, 1])
def test_cells_that_the_grid_does_not_have(good, shift):
    with pytest.raises(InputError, match=r"expected source cells from 1 to 12, received .* count from 1, x fastest"):
        read_weights(good.assign(col=good.col + shift * 12))
    with pytest.raises(InputError, match="expected target cells from 1 to 4"):
        read_weights(good.assign(row=good.row + shift))


def test_weights_that_are_no_numbers(tmp_path, good):
    good.S[1] = np.nan
    write_weights(good, tmp_path / "w.nc")
    with pytest.raises(InputError, match=r"expected finite weights, received 1 NaN or infinite ones in .*w\.nc"):
        read_weights(tmp_path / "w.nc")


def test_weights_of_gradients_are_refused_and_zeros_are_not():
    ds = dataset("conservative", region(3, 4), region(2, 2), layout="scrip")
    values = ds.remap_matrix.values
    two = ds.drop_vars("remap_matrix")
    zero = two.assign(remap_matrix=(("num_links", "num_wgts"), np.hstack([values, 0 * values])))
    assert same_bits(read_weights(zero).weight, read_weights(ds).weight)
    with pytest.raises(InputError, match=r"expected one weight per link, .* with 2 .*cdo gencon or genbil"):
        read_weights(two.assign(remap_matrix=(("num_links", "num_wgts"), np.hstack([values, values]))))


def test_fields_that_the_weights_are_not_for():
    source = region(3, 4)
    weights, coarse = dataset("sobolev", source, source.refine(2, 2)), field_on(source)
    with pytest.raises(ShapeError, match=r"expected \(3, 4\) source cells along 'lat', 'lon'.* received \(3, 3\)"):
        apply_weights(coarse.isel(lon=slice(3)), weights)
    with pytest.raises(GridError, match=r"expected 'lat' as in the source grid of the weights, 30.5 to 32.5, received"):
        apply_weights(coarse.isel(lat=slice(None, None, -1)), weights)
    with pytest.raises(GridError, match="expected 'lon' as in the source grid"):
        apply_weights(field_on(region(3, 4, west=11.0)), weights)
    with pytest.raises(InputError, match=r"received sums over cells in 'tas'.* divide by the cell areas"):
        apply_weights(field_on(source, cell_methods="area: sum"), weights)
    with pytest.raises(InputError, match="received codes in 'tas'"):
        apply_weights(field_on(source, flag_values="0 1"), weights)
    with pytest.raises(InputError, match="expected a numeric variable with dimensions 'lat', 'lon'"):
        apply_weights(coarse[["time"]].assign_coords(coordinates(source)).assign(bare=("time", np.arange(3))), weights)
    with pytest.raises(GridError, match="expected horizontal coordinates"):
        apply_weights(xr.Dataset({"a": ("t", [1.0])}), weights)
    with pytest.raises(ShapeError, match=r"expected a field on the 3 x 4 source cells .* received 4 x 3"):
        read_weights(weights).apply(np.zeros((4, 3)))
    listed = SparseWeights.from_links([0], [0], [1.0], (12,), (1, 1))
    with pytest.raises(ShapeError, match="expected weights for a source grid of rows and columns, received 12 cells"):
        apply_weights(coarse, listed)


def test_the_same_place_on_another_turn_is_the_same_place():
    weights = dataset("sobolev", region(3, 4, west=10.0), region(3, 4, west=10.0).refine(2, 2))
    turned = field_on(region(3, 4, west=-350.0))
    assert apply_weights(turned, weights).tas.notnull().all()


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, "half", True])
def test_thresholds_that_are_no_share(value):
    weights = SparseWeights.from_axes(np.eye(2), np.eye(2))
    with pytest.raises(OptionError, match="na_thres to be a number from 0 to 1"):
        weights.apply(np.zeros((2, 2)), na_thres=value)


def test_requests_that_make_no_weights(tmp_path, good):
    source, target = region(3, 4), region(2, 2)
    y, x = matrices("conservative", source, target)
    for option in ("layout", "method", "normalization"):
        with pytest.raises(OptionError, match=f"expected {option} among .*, received 'other'"):
            weights_dataset(y, x, source, target, **{option: "other"})
    with pytest.raises(ShapeError, match=r"expected weights along y of shape \(2, 3\) .* received \(3, 2\)"):
        weights_dataset(y.T, x, source, target)
    with pytest.raises(ShapeError, match="expected finite weights along x"):
        weights_dataset(y, x * np.nan, source, target)
    with pytest.raises(ShapeError, match="expected three lists of links of one length"):
        SparseWeights.from_links([0], [0, 1], [1.0], (1, 2), (1, 1))
    with pytest.raises(ShapeError, match=r"at most 2147483647 cells, received 60000 x 60000"):
        SparseWeights.from_links([0], [0], [1.0], (60000, 60000), (1, 1))
    with pytest.raises(ShapeError, match=r"expected 4 cells for the shape \(2, 2\), received 3 of y"):
        Cells((2, 2), np.zeros(3), np.zeros(4))
    write_weights(good, tmp_path / "w.nc")
    with pytest.raises(OutputError, match="expected a new file"):
        write_weights(good, tmp_path / "w.nc")
    write_weights(good, tmp_path / "w.nc", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["w.nc"]


# Other tools


def tool(*words: Any) -> None:
    """Run a program; skips where it is absent, unless it is CDO and DOWNSCALE_REQUIRE_CDO=1."""
    if shutil.which(words[0]) is None:
        if words[0] == "cdo" and os.environ.get("DOWNSCALE_REQUIRE_CDO") == "1":
            pytest.fail("cdo is not installed and DOWNSCALE_REQUIRE_CDO=1")
        pytest.skip(f"{words[0]} is not installed (Debian packages cdo, nco)")
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def field_file(grid: RectilinearGrid, path: Path, values: np.ndarray | None = None) -> Path:
    ds = field_on(grid, 2)
    if values is not None:
        ds["tas"] = ds.tas.copy(data=values)
    ds.to_netcdf(path, format="NETCDF3_64BIT", encoding={n: {"_FillValue": None} for n in ds.coords if n != "time"})
    return path


CASES = {
    "sobolev-2-world": ("sobolev", world(9, 18), world(18, 36)),
    "sobolev-4-world": ("sobolev", world(9, 18), world(36, 72)),
    "sobolev-2-region": ("sobolev", region(), region().refine(2, 2)),
    "sobolev-4-region": ("sobolev", region(), region().refine(4, 4)),
    "conservative": ("conservative", world(9, 18), world(13, 25, -180.0)),
    "conservative-partly": ("conservative", region(), partly()),
    "bilinear": ("bilinear", world(9, 18), world(18, 36)),
}


def case(name: str, folder: Path, layout: str, normalization: str) -> tuple[Path, Path, np.ndarray]:
    """Files of weights and of a field, and what the one must make of the other."""
    method, source, target = CASES[name]
    y, x = matrices(method, source, target)
    values = generator(5).normal(size=(2, *source.shape)) + 280
    ds = weights_dataset(y, x, source, target, method=method, layout=layout, normalization=normalization)
    cover = np.multiply.outer(y.sum(axis=1), x.sum(axis=1))
    wanted = y @ values @ x.T / np.where(cover > 1e-9, cover if normalization == "fracarea" else 1.0, np.nan)
    return write_weights(ds, folder / "w.nc"), field_file(source, folder / "in.nc", values), wanted


def compared(path: Path, wanted: np.ndarray, missing: float) -> None:
    with netCDF4.Dataset(path) as file:
        found = np.ma.filled(file["tas"][:].astype("f8"), np.nan)
    np.testing.assert_allclose(found, np.where(np.isnan(wanted), missing, wanted), rtol=1e-12)


@pytest.mark.parametrize("normalization", ["fracarea", "destarea"])
@pytest.mark.parametrize("name", CASES)
def test_cdo_applies_our_weights(tmp_path, name, normalization):
    weights, field, wanted = case(name, tmp_path, "scrip", normalization)
    target = field_file(CASES[name][2], tmp_path / "target.nc")
    tool("cdo", "-L", "-s", "-b", "F64", f"remap,{target},{weights}", "-selname,tas", field, tmp_path / "out.nc")
    compared(tmp_path / "out.nc", wanted, np.nan)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_nco_applies_our_weights(tmp_path, name, layout):
    """NCO gives zero where a target has no source and the field no missing value."""
    weights, field, wanted = case(name, tmp_path, layout, "fracarea")
    tool("ncks", "-O", "-v", "tas", f"--map={weights}", field, tmp_path / "out.nc")
    compared(tmp_path / "out.nc", wanted, 0.0)


@pytest.mark.parametrize("operator", ["gencon", "genbil", "gennn"])
def test_we_apply_the_weights_of_cdo(tmp_path, operator):
    field, target = field_file(region(), tmp_path / "in.nc"), field_file(partly(), tmp_path / "target.nc")
    tool("cdo", "-L", "-s", "-b", "F64", f"{operator},{target}", "-selname,tas", field, tmp_path / "w.nc")
    remap = f"remap,{target},{tmp_path / 'w.nc'}"
    tool("cdo", "-L", "-s", "-b", "F64", remap, "-selname,tas", field, tmp_path / "out.nc")
    with xr.open_dataset(field) as coarse:
        found = apply_weights(coarse, tmp_path / "w.nc").load()
    compared(tmp_path / "out.nc", found.tas.values, np.nan)
    np.testing.assert_allclose(found.lat, partly().y.centres, atol=1e-9)
    np.testing.assert_allclose(found.lon, partly().x.centres, atol=1e-9)


def test_second_order_weights_of_cdo_are_refused(tmp_path):
    field, target = field_file(world(6, 8), tmp_path / "in.nc"), field_file(world(9, 12), tmp_path / "target.nc")
    tool("cdo", "-L", "-s", "-b", "F64", f"genbic,{target}", "-selname,tas", field, tmp_path / "w.nc")
    with pytest.raises(InputError, match=r"expected one weight per link, received .* with 4"):
        read_weights(tmp_path / "w.nc")
