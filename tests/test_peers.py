"""Cases on which xarray-regrid and xESMF test conservative regridding, as laws, beside an oracle of their own.

What others assert is often a comparison with a second program, to parts in a thousand. Here each case is held against
the overlap of cells pair by pair (:func:`overlaps`), which shares nothing with the package but the edges of the axes.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sample_fields import coordinates, field_on, region, same_bits, world
from strategies import generator, irregular, latitudes, longitudes, seeds

import downscale
from downscale.errors import GridError
from downscale.grid.axis import CellAxis, axis_from_centres
from downscale.grid.latlon import RectilinearGrid

METHODS = ("sobolev", "conservative", "bilinear", "bicubic")
THRESHOLDS = (0.0, 0.25, 0.5, 0.75, 1.0)
PLACE = ("lat", "lon")

pytestmark = pytest.mark.usefixtures("one_thread")


def grid(lat: Any, lon: Any) -> RectilinearGrid:
    return RectilinearGrid(CellAxis(np.asarray(lat, float), "latitude"), CellAxis(np.asarray(lon, float), "longitude"))


def equal(lat: tuple[float, float, int], lon: tuple[float, float, int]) -> RectilinearGrid:
    """A grid of so many rows and columns between two edges each."""
    return grid(np.linspace(*lat[:2], lat[2] + 1), np.linspace(*lon[:2], lon[2] + 1))


def target_of(cells: RectilinearGrid) -> xr.Dataset:
    return xr.Dataset(coords=coordinates(cells))


def wave(cells: RectilinearGrid) -> np.ndarray:
    """A smooth positive field, sampled at the centres."""
    lat, lon = np.deg2rad(cells.y.centres)[:, None], np.deg2rad(cells.x.centres)
    return 2 + np.cos(lat) ** 2 * np.cos(2 * lon) + np.exp(0.4 * np.sin(lat + lon))


def dataset(values: np.ndarray, cells: RectilinearGrid, **attrs: Any) -> xr.Dataset:
    dims = ("time", *PLACE)[-values.ndim :]
    return xr.Dataset({"tas": (dims, values, {"units": "K", **attrs})}, coordinates(cells))


def overlaps(source: CellAxis, target: CellAxis) -> np.ndarray:
    """Measure of what each target cell has in common with each source cell, shape (n_target, n_source)."""
    circle = source.kind == "longitude"
    measure = np.deg2rad if circle else lambda degrees: np.sin(np.deg2rad(degrees))
    ends = [np.sort(np.stack([axis.edges[:-1], axis.edges[1:]]), axis=0) for axis in (source, target)]
    shared = np.zeros((target.size, source.size))
    for turn in 360.0 * np.arange(-3, 4) if circle else (0.0,):
        low = np.maximum.outer(ends[1][0] + turn, ends[0][0])
        high = np.minimum.outer(ends[1][1] + turn, ends[0][1])
        shared += np.where(high - low > 1e-9, measure(high) - measure(low), 0.0)
    return shared


def oracle(values: np.ndarray, source: RectilinearGrid, target: RectilinearGrid) -> tuple[np.ndarray, np.ndarray]:
    """Means over the valid part of target cells, and the share of these cells that is missing or outside."""
    y, x = overlaps(source.y, target.y), overlaps(source.x, target.x)
    valid = y @ np.isfinite(values).astype(float) @ x.T
    with np.errstate(invalid="ignore"):
        means = y @ np.nan_to_num(values) @ x.T / np.where(valid > 0, valid, np.nan)
    return means, 1 - valid * 6371000.0**2 / target.cell_area


def world_mean(field: xr.DataArray, cells: RectilinearGrid) -> np.ndarray:
    return np.tensordot(field.transpose(..., *PLACE).values, cells.cell_area / cells.cell_area.sum(), 2)


ROUGH = grid(irregular(generator(1), 11, -90, 90), irregular(generator(2), 17, 0, 360))
CIRCLE = CellAxis(np.linspace(-3.75, 356.25, 49), "longitude")
NODES = RectilinearGrid(axis_from_centres(np.linspace(90, -90, 25), "latitude"), CIRCLE)
GLOBES = {
    "coarser": equal((90, -90, 7), (-180, 180, 11)),
    "finer": equal((-90, 90, 37), (0, 360, 50)),
    "irregular": ROUGH,
    "rows on the poles": NODES,
    "one row": equal((-90, 90, 1), (0, 360, 9)),
    "one column": equal((-90, 90, 13), (-180, 180, 1)),
    "one cell": equal((-90, 90, 1), (-180, 180, 1)),
}


# The world


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GLOBES)
def test_the_area_weighted_mean_of_the_world_is_kept(name, method):
    """Others: a global integral to 1e-12, of second-order weights only, from equal cells to equal cells."""
    for source in (world(18, 36), ROUGH, NODES):
        coarse = field_on(source, 2, seed=4)
        fine = coarse.downscale(target_grid=target_of(GLOBES[name]), method=method)
        means = world_mean(fine.tas, GLOBES[name]), world_mean(coarse.tas, source)
        np.testing.assert_allclose(*means, rtol=1e-13)


def test_one_cell_is_the_mean_of_the_world_and_of_a_part_of_it():
    coarse = field_on(world(18, 36), 2)
    mean = coarse.tas.weighted(downscale.cell_area(coarse)).mean(PLACE)
    for method in METHODS:
        whole = coarse.downscale(target_grid=target_of(GLOBES["one cell"]), method=method)
        assert whole.tas.shape == (2, 1, 1)
        np.testing.assert_allclose(whole.tas.values.ravel(), mean, rtol=1e-13)
    part = equal((-33, 14, 1), (-20, 61, 1))
    fine = coarse.downscale(target_grid=target_of(part), method="conservative")
    np.testing.assert_allclose(fine.tas[0], oracle(coarse.tas.values[0], world(18, 36), part)[0], rtol=1e-13)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constants_stay_constant_up_to_the_poles(method, dtype):
    for source in (world(18, 36), ROUGH, NODES):
        coarse = dataset(np.full(source.shape, 287.123, dtype), source)
        for target in GLOBES.values():
            fine = coarse.downscale(target_grid=target_of(target), method=method).tas
            assert fine.dtype == dtype
            np.testing.assert_allclose(fine, coarse.tas[0, 0], rtol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("source", [world(18, 36), NODES], ids=["cells", "nodes"])
def test_rows_at_the_poles_hold_the_polar_rows(source):
    """A row of centres short of the poles, or on them, leaves no gap between it and the pole."""
    coarse = dataset(wave(source), source)
    for target in (equal((-90, 90, 70), (0, 360, 36)), NODES, equal((90, 85, 9), (0, 360, 12))):
        fine = coarse.downscale(target_grid=target_of(target), method="conservative").tas
        np.testing.assert_allclose(fine, oracle(coarse.tas.values, source, target)[0], rtol=1e-12)
        assert not coarse.downscale(target_grid=target_of(target)).tas.isnull().any()


def test_a_smooth_field_comes_out_better_than_in_first_order_at_the_same_total():
    """The promise of second-order weights elsewhere."""
    source, target = equal((-90, 90, 12), (-180, 180, 18)), equal((-90, 90, 45), (-180, 180, 90))
    coarse = dataset(wave(source), source)
    errors = {}
    for method in ("sobolev", "conservative"):
        fine = coarse.downscale(target_grid=target_of(target), method=method).tas
        np.testing.assert_allclose(world_mean(fine, target), world_mean(coarse.tas, source), rtol=1e-13)
        errors[method] = float(np.sqrt(np.mean((fine - wave(target)) ** 2)))
    assert errors["sobolev"] < 0.25 * errors["conservative"]


# Missing values and thresholds


@pytest.mark.parametrize("method", METHODS)
def test_a_hole_counts_as_many_cells_as_it_covers(method):
    """Two by two cells of 12 x 20 degrees under cells of 9 x 15: three by three are touched, shares 4/9 to 1.

    Weights of cells with sides on great circles touch eleven and swallow two only.
    """
    source, target = equal((-90, 90, 15), (-180, 180, 18)), equal((-90, 90, 20), (-180, 180, 24))
    coarse = dataset(wave(source), source)
    coarse.tas[4:6, 4:6] = np.nan
    counts = []
    for na_thres in THRESHOLDS:
        fine = coarse.downscale(target_grid=target_of(target), method=method, na_thres=na_thres)
        counts.append(int(fine.tas.isnull().sum()))
    assert counts == [9, 9, 8, 4, 4]


@pytest.mark.parametrize(("na_thres", "cells"), [(0.0, 1), (0.25, 3), (0.5, 3), (0.75, 3), (1.0, 3)])
def test_thresholds_of_whole_blocks_are_those_of_coarsen(na_thres, cells):
    values = [[1, np.nan, np.nan, np.nan], [2, 2, np.nan, np.nan], [3, 3, 3, np.nan], [4, 4, 4, 4]]
    field = xr.DataArray(values, {"x": [0, 1, 2, 3], "y": [0, 1, 2, 3]}, ("x", "y"), "foo")
    blocks = field.coarsen(x=2, y=2).mean() if na_thres else field.coarsen(x=2, y=2).reduce(np.mean)
    made = field.downscale(target_grid=blocks, method="conservative", na_thres=na_thres)
    assert int(made.notnull().sum()) == cells
    assert (made.dims, made.name) == (("x", "y"), "foo")
    np.testing.assert_allclose(made, blocks, rtol=1e-15)


@given(latitudes(2, 9), longitudes(2, 9), latitudes(2, 9), longitudes(2, 9), seeds, st.sampled_from(THRESHOLDS))
@settings(max_examples=60)
def test_any_threshold_on_any_pair_of_grids_is_the_share_of_overlaps(lat, lon, there_lat, there_lon, seed, na_thres):
    source, target, rng = RectilinearGrid(lat, lon), RectilinearGrid(there_lat, there_lon), generator(seed)
    values = np.where(rng.uniform(size=source.shape) < 0.4, np.nan, rng.normal(280, 9, source.shape))
    means, missing = oracle(values, source, target)
    # Axes that do not meet are refused, which is another test.
    assume((missing < 1 - 1e-6).any())
    # A share that equals the threshold may fall on either side of it.
    assume((np.abs(missing - na_thres) > 1e-5).all() or na_thres in (0.0, 1.0))
    bearable = (missing < 1 - 1e-9) if na_thres == 1 else (missing <= na_thres + 1e-5)
    coarse, there = dataset(values, source), target_of(target)
    fine = coarse.downscale(target_grid=there, method="conservative", na_thres=na_thres)
    np.testing.assert_allclose(fine.tas, np.where(bearable, means, np.nan), rtol=1e-9)


@pytest.mark.parametrize("lazy", [False, True])
def test_gaps_that_come_and_go_are_judged_map_by_map(lazy):
    """One hole, another hole, none, nothing at all: a mean of what is there, 5/3 and not a mean of means."""
    source, target = equal((-2, 2, 2), (-2, 2, 2)), target_of(equal((-2, 2, 1), (-2, 2, 1)))
    maps = np.array([[[1, np.nan], [2, 2]], [[3, 2], [2, np.nan]], [[1, 2], [3, 4]], np.full((2, 2), np.nan)])
    coarse = dataset(maps, source).chunk({"time": 1, "lat": 1}) if lazy else dataset(maps, source)
    series = [coarse.downscale(target_grid=target, method="conservative", na_thres=t).tas.values.ravel()
              for t in (1.0, 0.3, 0.2)]  # fmt: skip
    np.testing.assert_allclose(series[0], [5 / 3, 7 / 3, 2.5, np.nan], rtol=1e-14)
    np.testing.assert_array_equal(series[1], series[0])
    np.testing.assert_allclose(series[2], [np.nan, np.nan, 2.5, np.nan], rtol=1e-14)


@pytest.mark.parametrize("resolution", [(2.0, 2.0), (3.3, 1.7)])
def test_a_real_ocean_under_every_threshold(resolution):
    """Others: the gaps are those of another program. Here: means and gaps are those of the overlaps."""
    path = shared_data("nasty_ocean_tos_ipsl_360day_masked.nc")
    ds = downscale.open_dataset(path, chunks=None)[["tos"]].isel(time=[0])
    source = equal((-80, 90, 170), (0, 360, 180))
    np.testing.assert_allclose(ds.lat, source.y.centres)
    np.testing.assert_allclose(ds.lon, source.x.centres)
    target = equal((90, -90, round(180 / resolution[0])), (-180, 180, round(360 / resolution[1])))
    means, missing = oracle(ds.tos.values[0].astype(float), source, target)
    for na_thres in THRESHOLDS:
        fine = ds.downscale(target_grid=target_of(target), method="conservative", na_thres=na_thres).tos[0].values
        bearable = missing < 1 - 1e-9 if na_thres == 1 else missing <= na_thres + 1e-6
        np.testing.assert_allclose(fine, np.where(bearable, means, np.nan), rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_coasts_are_neither_diluted_nor_lost(method):
    """A sea of one temperature keeps it up to the coast, and the total over the sea is kept whatever the field."""
    source, target = world(18, 36), equal((90, -90, 25), (-180, 180, 47))
    sea = generator(6).uniform(size=source.shape) < 0.6
    flat = dataset(np.where(sea, 300.0, np.nan), source).downscale(target_grid=target_of(target), method=method).tas
    np.testing.assert_allclose(flat.values[np.isfinite(flat)], 300.0, rtol=1e-14)
    coarse = dataset(np.where(sea, wave(source), np.nan), source)
    fine = coarse.downscale(target_grid=target_of(target), method=method).tas
    missing = oracle(coarse.tas.values, source, target)[1]
    np.testing.assert_array_equal(np.isnan(fine), missing > 1 - 1e-9)
    totals = np.nansum(fine * (1 - missing) * target.cell_area), np.nansum(coarse.tas * source.cell_area)
    np.testing.assert_allclose(*totals, rtol=1e-13)


def test_masks_on_the_target_come_in_either_order():
    """Both are 2-D truths; the values of cells that stay are those of the overlaps."""
    source, target = world(18, 36), equal((-90, 90, 24), (0, 360, 48))
    coarse, there = dataset(wave(source), source), target_of(target)
    mask = xr.DataArray(np.ones(target.shape, bool), {name: there[name] for name in PLACE}, PLACE)
    mask[8, 9], mask[15, 30] = False, False
    fine = coarse.downscale(target_grid=there, mask=mask, method="conservative").tas
    np.testing.assert_array_equal(np.isnan(fine), ~mask)
    assert same_bits(coarse.downscale(target_grid=there, mask=mask.T, method="conservative").tas, fine)
    np.testing.assert_allclose(fine, np.where(mask, oracle(coarse.tas.values, source, target)[0], np.nan), rtol=1e-13)
    report = downscale.check_conservation(coarse, fine.to_dataset(), mask=mask)
    # What the mask hides is left out of the regions that both grids know; all of these are judged.
    assert (report.passed, report["tas"].cells_masked) == (True, 0)
    assert not downscale.check_conservation(coarse, (fine * 1.001).to_dataset(), mask=mask).passed


# Regions, seams and conventions


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [0.3, 0.77, 2.3, 7.0])
def test_a_region_on_a_world_keeps_the_total_up_to_its_border(step, method):
    """Where centres decide what is inside, a border cell is lost; where a whole cell is filled, it is counted twice."""
    source = region()
    target = equal((-90, 90, round(180 / step)), (-180, 180, round(360 / step)))
    coarse = dataset(wave(source), source)
    fine = coarse.downscale(target_grid=target_of(target), method=method).tas
    means, missing = oracle(coarse.tas.values, source, target)
    np.testing.assert_array_equal(np.isnan(fine), np.isnan(means))
    inside = (1 - missing) * target.cell_area
    np.testing.assert_allclose(np.nansum(fine * inside), np.sum(coarse.tas * source.cell_area), rtol=1e-12)
    if method == "conservative":
        np.testing.assert_allclose(fine, means, rtol=1e-12)


@pytest.mark.parametrize("west", [0.0, -180.0, -360.0, 100.0])
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("shape", [(17, 30), (24, 36)], ids=["cuts cells", "nests"])
def test_every_convention_of_source_and_target_gives_the_same_field(shape, west, up):
    plain, target = world(12, 18), equal((-90, 90, shape[0]), (0, 360, shape[1]))
    expected = dataset(wave(plain), plain).downscale(target_grid=target_of(target)).tas
    lat = np.linspace(-90, 90, 13) if up else np.linspace(90, -90, 13)
    source = grid(lat, west + np.linspace(0, 360, 19))
    turned = dataset(wave(source), source)
    for order, first in ((1, 0), (-1, 0), (1, shape[1] // 2), (-1, 7)):
        there = target_of(target).isel(lat=slice(None, None, order)).roll(lon=first, roll_coords=True)
        centres = (there.lon + 180) % 360 - 180 if first > 7 else there.lon
        there = there.drop_vars("lon_bnds").assign_coords(lon=centres.assign_attrs(bounds=""))
        fine = turned.downscale(target_grid=there).tas
        assert (fine.lon.values == there.lon.values).all()
        found = fine.isel(lat=slice(None, None, order)).roll(lon=-first, roll_coords=False)
        np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "lon",
    [[-7.5, -2.5, 2.5, 7.5], [352.5, 357.5, 2.5, 7.5], [172.5, 177.5, -177.5, -172.5], [187.5, 182.5, 177.5, 172.5]],
)
def test_a_target_over_greenwich_or_the_dateline_is_a_part_of_the_world(lon, method):
    source, circle = world(18, 36), equal((-30, 30, 9), (0, 360, 72))
    coarse = dataset(wave(source), source)
    whole = coarse.downscale(target_grid=target_of(circle), method=method).tas
    lat = target_of(circle)[["lat", "lat_bnds"]]
    fine = coarse.downscale(target_grid=lat.assign_coords(lon=lon), method=method).tas
    np.testing.assert_array_equal(fine.lon, lon)
    np.testing.assert_allclose(fine, whole.sel(lon=np.array(lon) % 360), rtol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_there_is_no_seam(method):
    """Turning the world by half a circle, source and target, turns the result: the first column is like any other."""
    source, target = world(12, 18), equal((-90, 90, 17), (0, 360, 30))
    coarse = dataset(generator(3).normal(280, 9, source.shape), source)
    fine = coarse.downscale(target_grid=target_of(target), method=method).tas.values
    turned = dataset(np.roll(coarse.tas.values, 9, axis=1), source)
    found = turned.downscale(target_grid=target_of(target), method=method).tas.values
    np.testing.assert_allclose(found, np.roll(fine, 15, axis=1), rtol=1e-13)


# Identity and degenerate cells


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_grid_itself_as_target_changes_no_bit(method, dtype):
    for cells in (world(), region(), ROUGH, NODES):
        coarse = field_on(cells, 2, dtype=dtype, missing=0.2)
        assert same_bits(coarse.downscale(target_grid=coarse, method=method).tas, coarse.tas)
        down = coarse.isel(lat=slice(None, None, -1))
        assert same_bits(coarse.downscale(target_grid=down, method=method).tas, down.tas)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
def test_sources_of_one_row_or_column_have_cells_by_their_bounds(shape, method):
    source, target = region(*shape), equal((29.5, 31.5, 5), (9.4, 12.1, 5))
    coarse = field_on(source, 1)
    fine = coarse.downscale(target_grid=target_of(target), method=method)
    assert downscale.check_conservation(coarse, fine).passed
    np.testing.assert_array_equal(np.isnan(fine.tas[0]), np.isnan(oracle(coarse.tas.values[0], source, target)[0]))


@pytest.mark.parametrize(
    ("lat", "lon", "message"),
    [
        ([33.0], [12.0, 13.0], "'lat': expected bounds for a latitude axis of one cell, received none"),
        ([33.0, 31.0, 35.0], [12.0, 13.0], "'lat': expected sorted latitude coordinates, received"),
        ([31.0, 33.0], np.arange(0.0, 361.0, 10.0), "'lon': expected longitudes within one circle, received 370"),
    ],
)
def test_axes_without_cells_are_refused(lat, lon, message):
    """One centre has no width, an unsorted axis no neighbours, and a repeated meridian would count twice."""
    with pytest.raises(GridError, match=message):
        field_on(region()).downscale(target_grid=xr.Dataset(coords={"lat": lat, "lon": lon}))


# xarray


@pytest.mark.parametrize("chunks", [None, {"member": 1, "time": 2}, {"lat": 5, "lon": 7}])
def test_dimensions_in_any_order_stay_in_it(chunks):
    target = target_of(equal((42, 30, 8), (9, 27, 11)))
    coarse = xr.concat([field_on(region(), 2, seed=s).tas.drop_vars("time") for s in (0, 1)], "member")
    expected = coarse.downscale(target_grid=target)
    for dims in list(permutations(coarse.dims))[1::5]:
        given_field = coarse.transpose(*dims)
        fine = (given_field if chunks is None else given_field.chunk(chunks)).downscale(target_grid=target)
        assert (fine.dims, fine.name) == (dims, "tas")
        assert (fine.chunks is None) == (chunks is None)
        assert same_bits(fine.transpose(*coarse.dims), expected)


def test_chunks_of_the_result_are_those_asked_for():
    coarse, target = field_on(region(), 4), target_of(equal((42, 30, 8), (9, 27, 12)))
    assert coarse.downscale(target_grid=target).tas.chunks is None
    lazy = coarse.chunk({"time": 2, "lat": 4, "lon": 4})
    assert lazy.downscale(target_grid=target).tas.chunks[0] == (2, 2)
    fine = lazy.downscale(target_grid=target, output_chunks={"lat": 4, "lon": 6})
    assert fine.tas.chunks[1:] == ((4, 4), (6, 6))


@pytest.mark.parametrize(
    ("dtype", "made"),
    [("i1", "f4"), ("u1", "f4"), ("i2", "f4"), (">i2", "f4"), ("i4", "f8"), ("i8", "f8"), ("f2", "f4"), (">f4", "f4"),
     (">f8", "f8")],
)  # fmt: skip
def test_data_types_hold_the_means_of_their_numbers(dtype, made):
    source, target = region(), equal((30, 42, 5), (10, 26, 7))
    values = generator(0).integers(0, 100, source.shape).astype(dtype)
    fine = dataset(values, source).downscale(target_grid=target_of(target), method="conservative").tas
    assert fine.dtype == np.dtype(made)
    expected = oracle(values.astype(float), source, target)[0]
    np.testing.assert_allclose(fine, expected, rtol=3e-7 if made == "f4" else 1e-13)


def test_what_belongs_to_the_source_stays_and_what_lies_on_the_target_is_not_taken():
    coarse = field_on(region()).assign_coords(height=2.0, level=("time", [1, 2, 3]), both=5)
    coarse = coarse.assign(series=("time", [1.0, 2.0, 3.0]), number=7)
    cells = equal((42, 30, 8), (9, 27, 11))
    target = target_of(cells).assign(other=(PLACE, np.zeros(cells.shape)))
    target = target.assign_coords(both=6, alone=1, bogus=target.other + 1, lat=target.lat.astype("f4"))
    fine = coarse.downscale(target_grid=target)
    assert set(fine.data_vars) == {"tas", "series", "number"}
    assert {"alone", "bogus"} & set(fine.coords) == set()
    assert (int(fine.both), float(fine.height), list(fine.level.values)) == (5, 2.0, [1, 2, 3])
    xr.testing.assert_identical(fine.time.variable, coarse.time.variable)
    assert coarse.tas.attrs.items() <= fine.tas.attrs.items()
    assert fine.attrs["title"] == coarse.attrs["title"]
    for name in PLACE:
        assert same_bits(fine[name], target[name])
    array = coarse.tas.downscale(target_grid=target.other)
    assert isinstance(array, xr.DataArray)
    assert (array.name, array.dims) == ("tas", coarse.tas.dims)
    np.testing.assert_allclose(array, fine.tas, rtol=1e-12)


def test_weights_are_made_once_and_used_for_any_field(tmp_path):
    source, target = world(18, 36), target_of(equal((-90, 90, 25), (0, 360, 47)))
    first = field_on(source, 2, missing=0.1)
    downscale.write_weights(downscale.weights(first, method="conservative", target_grid=target), tmp_path / "w.nc")
    for coarse in (first, field_on(source, 1, seed=9, missing=0.3).astype("f4")):
        for na_thres in THRESHOLDS:
            fine = coarse.downscale(target_grid=target, method="conservative", na_thres=na_thres).tas
            again = downscale.apply_weights(coarse, tmp_path / "w.nc", na_thres=na_thres).tas
            np.testing.assert_allclose(again, fine, rtol=1e-6 if fine.dtype == "f4" else 1e-13)
    assert same_bits(again, downscale.apply_weights(coarse, tmp_path / "w.nc", na_thres=1.0).tas)
