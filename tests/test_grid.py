"""Grids on the sphere and on planes: exact areas that add up, nesting, and overlaps of any two grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from oracles import part_areas
from strategies import axes, factor_pairs, gaussian_latitudes, grids, latitudes, longitudes

from downscale.errors import GridError
from downscale.grid.axis import CellAxis, axis_from_centres
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sphere import EARTH_RADIUS
from downscale.grid.subcells import overlap_weights

WHOLE = 4 * np.pi * EARTH_RADIUS**2
GLOBAL_ROWS = {
    "uniform": CellAxis(np.linspace(-90, 90, 181), "latitude"),
    "descending": CellAxis(np.linspace(90, -90, 181), "latitude"),
    "nodes at the poles": axis_from_centres(np.linspace(-90, 90, 181), "latitude"),
    "Gaussian": gaussian_latitudes(94),
    "one row": CellAxis(np.array([-90.0, 90.0]), "latitude"),
}
CIRCLES = {
    "0 to 360": CellAxis(np.linspace(0, 360, 361), "longitude"),
    "-180 to 180": CellAxis(np.linspace(-180, 180, 361), "longitude"),
    "half a cell before 0": CellAxis(np.linspace(-0.5, 359.5, 361), "longitude"),
    "unequal": CellAxis(np.array([0.0, 10, 15, 100, 270, 360]), "longitude"),
    "westward": CellAxis(np.linspace(360, 0, 25), "longitude"),
}


@pytest.mark.parametrize("rows", GLOBAL_ROWS)
@pytest.mark.parametrize("columns", CIRCLES)
def test_areas_of_a_global_grid_add_up_to_the_sphere(rows, columns):
    grid = RectilinearGrid(GLOBAL_ROWS[rows], CIRCLES[columns])
    assert grid.cell_area.sum() == pytest.approx(WHOLE, rel=1e-13, abs=0)
    assert grid.refine(3, 2).cell_area.sum() == pytest.approx(WHOLE, rel=1e-13, abs=0)


@given(grids())
def test_areas_equal_the_formula_cell_by_cell(grid):
    expected = part_areas(grid.y.edges, grid.x.edges, grid.spherical)
    assert grid.cell_area.shape == grid.shape
    np.testing.assert_allclose(grid.cell_area, expected, rtol=1e-9)


def test_areas_are_not_the_cosine_of_the_middle():
    """What 'cos(lat) dlat dlon' gives: 1.3e-5 off for a cell of one degree, as sin(h) is off from h."""
    grid = RectilinearGrid(CellAxis(np.array([60.0, 61.0]), "latitude"), CellAxis(np.array([0.0, 1.0]), "longitude"))
    rough = EARTH_RADIUS**2 * np.cos(np.deg2rad(60.5)) * np.deg2rad(1) ** 2
    assert grid.cell_area[0, 0] / rough - 1 == pytest.approx(-(np.deg2rad(0.5) ** 2) / 6, rel=1e-3, abs=0)


@given(grids(max_cells=6), factor_pairs)
def test_areas_of_the_parts_add_up_to_the_whole(grid, factor):
    parts = grid.refine(*factor).cell_area.reshape(grid.y.size, factor[0], grid.x.size, factor[1])
    np.testing.assert_allclose(parts.sum(axis=(1, 3)), grid.cell_area, rtol=1e-12)


@given(grids(max_cells=6), factor_pairs)
def test_refine_then_coarsen_is_the_identity(grid, factor):
    back = grid.refine(*factor).coarsen(*factor)
    assert np.array_equal(back.y.edges, grid.y.edges)
    assert np.array_equal(back.x.edges, grid.x.edges)
    assert grid.nest_factors(grid.refine(*factor)) == factor


@given(grids(2, 6), st.integers(2, 4))
def test_grids_nest_only_if_both_axes_do(grid, factor):
    fine = grid.refine(factor, factor)
    assert grid.nest_factors(RectilinearGrid(fine.y.reverse(), fine.x)) is None
    assert grid.nest_factors(RectilinearGrid(fine.y, fine.x.reverse())) is None
    assert grid.nest_factors(RectilinearGrid(fine.y, grid.x)) == (factor, 1)


def test_metres_on_the_sphere_are_arcs():
    lat = CellAxis(np.array([-1.0, 1, 59, 61]), "latitude")
    grid = RectilinearGrid(lat, CellAxis(np.array([0.0, 90]), "longitude"))
    np.testing.assert_allclose(grid.y_metres, EARTH_RADIUS * np.pi * np.array([0, 1 / 6, 1 / 3]), rtol=1e-14)
    np.testing.assert_allclose(grid.x_scale[[0, 2]], EARTH_RADIUS * np.array([1, 0.5]), rtol=1e-14)
    expected = EARTH_RADIUS**2 * np.pi * np.sin(np.deg2rad(1))
    assert grid.cell_area[0, 0] == pytest.approx(expected, rel=1e-14, abs=0)


def test_metres_on_a_plane_are_the_coordinate():
    grid = RectilinearGrid(*(CellAxis(np.array([10.0, 12, 16]), "projected") for _ in "yx"))
    assert not grid.spherical
    np.testing.assert_array_equal(grid.y_metres, [11, 14])
    np.testing.assert_array_equal(grid.x_radians_or_metres * grid.x_scale[:, None], [[11, 14], [11, 14]])


@pytest.mark.parametrize(("y", "x"), [("latitude", "projected"), ("projected", "longitude"), ("latitude", "latitude")])
def test_kinds_that_make_no_grid(y, x):
    edges = np.array([0.0, 10.0])
    with pytest.raises(GridError, match=f"latitude with longitude, or two axes in metres, received {y} with {x}"):
        RectilinearGrid(CellAxis(edges, y), CellAxis(edges, x))


# Overlaps


@given(axes(1, 8), st.integers(1, 4), st.booleans())
def test_overlap_of_a_nested_axis_is_its_aggregation(axis, factor, reverse):
    """Each coarse cell is the mean of its own parts by their shares, and each part is its coarse cell."""
    fine = axis.refine(factor)
    shares = axis.fine_fractions(fine).reshape(axis.size, factor)
    expected = np.zeros((axis.size, axis.size, factor))
    expected[np.arange(axis.size), np.arange(axis.size)] = shares
    expected = expected.reshape(axis.size, fine.size)
    found = overlap_weights(fine.reverse() if reverse else fine, axis)
    # Differences of sines near a pole keep fewer digits than the shares.
    np.testing.assert_allclose(found[:, ::-1] if reverse else found, expected, rtol=0, atol=1e-9)
    spread = overlap_weights(axis, fine)
    np.testing.assert_allclose(spread, np.repeat(np.eye(axis.size), factor, axis=0), rtol=0, atol=1e-9)


@given(latitudes(), latitudes())
def test_overlaps_keep_the_integral_over_what_both_cover(source, target):
    """Total law: what the target receives of a source cell is the measure of the part of it that it covers."""
    received = (overlap_weights(source, target) * target.measure[:, None]).sum(axis=0)
    low, high = np.sort(target.measure_edges[[0, -1]])
    inside = np.clip(np.sort(np.stack([source.measure_edges[:-1], source.measure_edges[1:]]), axis=0), low, high)
    np.testing.assert_allclose(received, inside[1] - inside[0], rtol=0, atol=1e-14)


@given(longitudes(1, 8), longitudes(1, 8), st.sampled_from([-720, -360, 0, 360, 720]))
def test_whole_turns_change_no_overlap(source, target, turn):
    moved = CellAxis(source.edges + turn, "longitude")
    np.testing.assert_allclose(overlap_weights(moved, target), overlap_weights(source, target), rtol=0, atol=1e-10)


@given(longitudes(1, 8), longitudes(1, 8))
def test_a_circle_covers_every_target(source, target):
    assume(source.periodic)
    weights = overlap_weights(source, target)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=0, atol=1e-10)


def test_rows_beyond_the_source_add_up_to_the_covered_share():
    source, target = CellAxis(np.array([0.0, 1, 2]), "projected"), CellAxis(np.array([1.5, 3.5, 4]), "projected")
    np.testing.assert_allclose(overlap_weights(source, target), [[0, 0.25], [0, 0]], rtol=1e-14)


def test_kinds_do_not_overlap():
    edges = np.array([0.0, 10.0])
    with pytest.raises(GridError, match="two axes of one kind, received longitude and projected"):
        overlap_weights(CellAxis(edges, "longitude"), CellAxis(edges, "projected"))
