"""Grids of quadrilaterals: areas that add up, parts that nest, files of a real ocean model, referees."""

from __future__ import annotations

import pickle
import shutil
import subprocess

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from strategies import factor_pairs, generator, seeds

import downscale
from downscale.cf.horizontal import horizontal
from downscale.errors import GridError, ShapeError
from downscale.grid.axis import CellAxis
from downscale.grid.curvilinear import CurvilinearGrid, count_repeated_columns, curvilinear_grid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sphere import EARTH_RADIUS, unit_vectors
from downscale.io.write import write_checked

ORCA = "nasty_curvilinear_nemo_orca1_sst_201501.nc"


def bent(rows: int = 5, columns: int = 6, seed: int = 0, west: float = 170.0, size: float = 2.0) -> CurvilinearGrid:
    """Sheared and shaken cells over the dateline, with their corners."""
    rng = generator(seed)
    y, x = np.mgrid[0 : rows + 1, 0 : columns + 1]
    lon = west + size * (x + 0.3 * y + rng.uniform(-0.2, 0.2, y.shape))
    lat = 40 + size * (y - 0.2 * x + rng.uniform(-0.2, 0.2, y.shape))
    rings = [np.stack([v[:-1, :-1], v[:-1, 1:], v[1:, 1:], v[1:, :-1]], axis=-1) for v in (lon, lat)]
    return curvilinear_grid(rings[0].mean(axis=-1), rings[1].mean(axis=-1), *rings)


bent_grids = st.builds(bent, st.integers(2, 6), st.integers(2, 6), seeds, st.sampled_from([170.0, -180.0, 350.0, 5.0]))


def orca() -> CurvilinearGrid:
    where = horizontal(downscale.open_dataset(shared_data(ORCA)))
    assert isinstance(where.grid, CurvilinearGrid)
    return where.grid


def valid_ocean() -> np.ndarray:
    with downscale.open_dataset(shared_data(ORCA)) as ds:
        return np.isfinite(ds.tos[0].values)


@given(bent_grids, factor_pairs)
def test_areas_of_the_parts_add_up_to_the_whole(grid, factor):
    fine = grid.refine(*factor)
    parts = fine.cell_area.reshape(grid.shape[0], factor[0], grid.shape[1], factor[1])
    np.testing.assert_allclose(parts.sum(axis=(1, 3)), grid.cell_area, rtol=1e-12)
    assert fine.shape == (fine.y.size, fine.x.size) == fine.lon.shape == fine.lat.shape
    assert grid.nest_factors(fine) == factor


@given(bent_grids, factor_pairs, factor_pairs)
def test_refine_then_coarsen_is_the_identity(grid, first, second):
    back = grid.refine(*first).coarsen(*first)
    np.testing.assert_array_equal(back.cell_area, grid.cell_area)
    np.testing.assert_array_equal(back.lon, grid.lon)
    twice, once = grid.refine(*first).refine(*second), grid.refine(first[0] * second[0], first[1] * second[1])
    np.testing.assert_array_equal(twice.cell_area, once.cell_area)


@given(bent_grids, factor_pairs)
def test_a_grid_read_back_from_its_corners_nests_and_joins(grid, factor):
    """As a file holds it: corners in degrees, from any corner and in either sense."""
    fine = grid.refine(*factor)
    for order in ([0, 1, 2, 3], [2, 3, 0, 1], [3, 2, 1, 0], [1, 0, 3, 2]):
        read = curvilinear_grid(fine.lon, fine.lat, *(v[..., order] for v in fine.corners))
        np.testing.assert_allclose(read.cell_area, fine.cell_area, rtol=1e-10)
        assert grid.nest_factors(read) == factor
        joined = read.coarsen(*factor)
        np.testing.assert_allclose(joined.cell_area, grid.cell_area, rtol=1e-10)
        assert grid.nest_factors(joined) == (1, 1)
        parts = joined.refine(2, 3).cell_area.reshape(grid.shape[0], 2, grid.shape[1], 3).sum(axis=(1, 3))
        np.testing.assert_allclose(parts, joined.cell_area, rtol=1e-12)


@given(bent_grids, st.integers(2, 3))
def test_other_grids_do_not_nest(grid, factor):
    fine = grid.refine(factor, factor)
    lon, lat = fine.corners
    moved = curvilinear_grid(fine.lon + 0.1, fine.lat, lon + 0.1, lat)
    assert grid.nest_factors(moved) is None
    assert fine.nest_factors(grid) is None
    plain = RectilinearGrid(*(CellAxis(np.arange(n + 1.0), "projected") for n in fine.shape))
    assert grid.nest_factors(plain) is None
    assert plain.nest_factors(fine) is None


@given(bent_grids)
def test_fine_longitudes_stay_on_the_branch_of_their_cell(grid):
    fine = grid.refine(3, 3)
    parent = np.repeat(np.repeat(grid.lon, 3, axis=0), 3, axis=1)
    assert np.abs(fine.lon - parent).max() < 5
    assert np.abs(fine.corners[0] - fine.lon[..., None]).max() < 5


@pytest.mark.parametrize("flip", [False, True])
def test_corners_run_counter_clockwise(flip):
    grid = bent()
    if flip:
        grid = curvilinear_grid(grid.lon[::-1], grid.lat[::-1], *(v[::-1] for v in grid.corners))
    assert grid.handedness == (-1 if flip else 1)
    lon, lat = grid.refine(2, 2).corners
    area = 0.5 * ((lon - np.roll(lon, 1, -1)) * (lat + np.roll(lat, 1, -1))).sum(axis=-1)
    assert (-area > 0).all()


@given(st.integers(4, 9), st.integers(5, 12))
def test_a_sphere_of_quadrilaterals_is_closed_and_whole(rows, columns):
    """Areas of a rectilinear world with great-circle sides differ, but fill the sphere all the same."""
    lat, lon = np.linspace(-90, 90, rows + 1), np.linspace(-180, 180, columns + 1)
    y = np.stack([lat[:-1], lat[:-1], lat[1:], lat[1:]], axis=-1)[:, None, :].repeat(columns, axis=1)
    x = np.stack([lon[:-1], lon[1:], lon[1:], lon[:-1]], axis=-1)[None].repeat(rows, axis=0)
    grid = curvilinear_grid(x.mean(axis=-1), y.mean(axis=-1), x, y)
    assert grid.x.periodic
    assert not grid.y.periodic
    assert grid.refine(2, 2).x.period == columns
    assert grid.cell_area.sum() == pytest.approx(4 * np.pi * EARTH_RADIUS**2, rel=1e-13, abs=0)
    inner = curvilinear_grid(x.mean(axis=-1)[:, :-1], y.mean(axis=-1)[:, :-1], x[:, :-1], y[:, :-1])
    assert not inner.x.periodic


def test_corners_without_bounds_lie_midway():
    lon, lat = np.meshgrid(np.arange(10.0, 20), np.arange(-3.0, 4))
    grid = curvilinear_grid(lon, lat)
    exact = RectilinearGrid(
        CellAxis(np.arange(-3.5, 4), "latitude"), CellAxis(np.arange(9.5, 20), "longitude")
    ).cell_area  # fmt: skip
    np.testing.assert_allclose(grid.cell_area, exact, rtol=1e-3)
    assert grid.derived
    around = curvilinear_grid(*np.meshgrid(np.arange(5.0, 360, 10), np.arange(-60.0, 61, 10)))
    assert around.x.periodic


def test_parts_given_without_bounds_are_recognised():
    grid = bent()
    fine = grid.refine(2, 3)
    bare = curvilinear_grid(fine.lon, fine.lat)
    adopted = grid.adopt(bare)
    np.testing.assert_array_equal(adopted.cell_area, fine.cell_area)
    other = curvilinear_grid(fine.lon + 0.1, fine.lat)
    assert grid.adopt(other) is other


def test_columns_that_come_twice_are_counted():
    lon, lat = np.meshgrid(np.arange(0.0, 360, 10), np.arange(-60.0, 61, 10))
    whole = np.concatenate([lon, lon[:, :2]], axis=1), np.concatenate([lat, lat[:, :2]], axis=1)
    assert count_repeated_columns(curvilinear_grid(*whole)) == 2
    assert count_repeated_columns(curvilinear_grid(lon, lat)) == 0


def test_steps_are_distances_from_centre_to_centre():
    lon, lat = np.meshgrid(np.arange(0.0, 360, 10), np.arange(-60.0, 61, 10))
    dy, dx = curvilinear_grid(lon, lat).centre_distances()
    np.testing.assert_allclose(dy, 2 * EARTH_RADIUS * np.deg2rad(10), rtol=1e-13)
    half = np.arcsin(np.sin(np.deg2rad(5)) * np.cos(np.deg2rad(lat)))
    np.testing.assert_allclose(dx, 4 * EARTH_RADIUS * half, rtol=1e-13)
    point = unit_vectors(lon, lat)[3, 3]
    np.testing.assert_allclose(np.linalg.norm(point), 1, rtol=1e-15)


def test_what_is_computed_on_demand_is_not_sent():
    grid = bent().refine(4, 4)
    small = len(pickle.dumps(grid))
    assert grid.cell_area.size == grid.lon.size
    assert len(pickle.dumps(grid)) == small
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(grid)).cell_area, grid.cell_area)


def test_positions_that_are_not_usable_get_one_line():
    lon, lat = np.meshgrid(np.arange(4.0), np.arange(3.0))
    gap = np.where(lon == 2, np.nan, lon)
    with pytest.raises(GridError, match=r"expected finite two-dimensional .*, received 3 missing centres; take them"):
        curvilinear_grid(gap, lat)
    with pytest.raises(GridError, match="received 12 missing bounds"):
        curvilinear_grid(lon, lat, gap[..., None] + np.zeros(4), lat[..., None] + np.zeros(4))
    with pytest.raises(GridError, match="latitudes within -90 to 90, received 102; check"):
        curvilinear_grid(lon, lat + 100)
    with pytest.raises(GridError, match=r"longitudes and latitudes of one shape \(n_y, n_x\), received"):
        curvilinear_grid(lon, lat[1:])
    with pytest.raises(GridError, match=r"bounds of shape \(3, 4, 4\), received \(3, 4, 3\)"):
        curvilinear_grid(lon, lat, np.zeros((3, 4, 3)), np.zeros((3, 4, 3)))
    with pytest.raises(GridError, match=r"expected bounds for a grid of \(1, 4\) cells, received none; add"):
        curvilinear_grid(lon[:1], lat[:1])
    with pytest.raises(ShapeError, match="index axis of a multiple of 2 cells, received 5; crop"):
        bent(5, 6).coarsen(2, 2)


# A real tripolar ocean


def test_the_ocean_grid_is_closed_and_covers_the_globe_but_for_its_south():
    grid = orca()
    assert grid.x.periodic
    total = 4 * np.pi * EARTH_RADIUS**2
    assert 0.99 < grid.cell_area.sum() / total < 1
    fine = grid.refine(4, 4).cell_area.reshape(330, 4, 360, 4).sum(axis=(1, 3))
    # Slivers of land under the ice shelf fold over themselves.
    proper = valid_ocean()
    np.testing.assert_allclose(fine[proper], grid.cell_area[proper], rtol=1e-12)
    assert np.isclose(fine, grid.cell_area, rtol=1e-10, atol=0).mean() > 0.999


def test_the_referee_measures_the_same_areas(tmp_path):
    cdo = shutil.which("cdo")
    if cdo is None:
        pytest.skip("cdo is not installed")
    target = tmp_path / "area.nc"
    subprocess.run([cdo, "-s", "gridarea", "-selname,tos", str(shared_data(ORCA)), str(target)], check=True,
                   capture_output=True)  # fmt: skip
    with xr.open_dataset(target) as ds:
        area = ds["cell_area"].values
    grid = orca()
    close = np.abs(area / grid.cell_area - 1) < 1e-10
    assert close.mean() > 0.999
    assert close[valid_ocean()].all()


def test_a_real_ocean_keeps_every_cell_through_a_file(tmp_path):
    source = downscale.open_dataset(shared_data(ORCA)).isel(y=slice(280, 330))
    fine = source.downscale(2)
    assert fine.tos.shape == (1, 100, 720)
    assert fine.downscale.check(source).passed
    write_checked(fine, tmp_path / "fine.nc", None)
    with downscale.open_dataset(tmp_path / "fine.nc") as back:
        assert back.nav_lat.dims == ("y", "x")
        assert "coordinates" in back.tos.encoding
        assert back.downscale.check(source).passed
        again = downscale.coarsen(back, 2)
        np.testing.assert_allclose(again.tos, source.tos, rtol=1e-6)
        np.testing.assert_allclose(again.areacella, downscale.cell_area(source), rtol=1e-6, atol=1e3)
