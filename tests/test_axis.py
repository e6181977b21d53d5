"""Cells along one axis: what is cut adds up again, and files of every convention give the cells they mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import axes, factors, gaussian_latitudes, latitudes, longitudes, seeds

from downscale.errors import GridError, ShapeError
from downscale.grid.axis import (
    CellAxis,
    axis_from_bounds,
    axis_from_centres,
    check_factor,
    extend_to_poles,
    unwrap_longitude,
)


def pairs_of(axis: CellAxis) -> np.ndarray:
    return np.stack([axis.edges[:-1], axis.edges[1:]], axis=1)


def turned(values: np.ndarray, west: float) -> np.ndarray:
    """Longitudes brought into [west, west + 360)."""
    return (values - west) % 360.0 + west


# Cutting and joining


@given(axes(), factors)
def test_refine_then_coarsen_is_the_identity_bit_for_bit(axis, factor):
    back = axis.refine(factor).coarsen(factor)
    assert np.array_equal(back.edges, axis.edges)
    assert back.kind == axis.kind


@given(axes(), factors)
def test_the_measures_of_the_parts_add_up_to_the_whole(axis, factor):
    parts = axis.refine(factor).measure.reshape(axis.size, factor)
    np.testing.assert_allclose(parts.sum(axis=1), axis.measure, rtol=1e-12)


@given(axes(), factors)
def test_parts_are_equal_in_the_coordinate(axis, factor):
    widths = np.diff(axis.refine(factor).edges)
    ulp = np.spacing(np.abs(axis.edges).max())
    np.testing.assert_allclose(widths, np.repeat(np.diff(axis.edges) / factor, factor), rtol=0, atol=4 * ulp)


@given(axes(), factors)
def test_shares_add_up_to_one_and_are_the_measure_of_each_part(axis, factor):
    fine = axis.refine(factor)
    shares = axis.fine_fractions(fine)
    np.testing.assert_allclose(shares.reshape(axis.size, factor).sum(axis=1), 1.0, rtol=0, atol=1e-15)
    np.testing.assert_allclose(shares * np.repeat(axis.measure, factor), fine.measure, rtol=1e-12)


@given(axes())
def test_measure_is_positive_and_the_difference_of_its_edges(axis):
    assert (axis.measure > 0).all()
    np.testing.assert_allclose(axis.measure, np.abs(np.diff(axis.measure_edges)), rtol=1e-9, atol=1e-15)


def test_small_cells_at_the_pole_keep_all_their_digits():
    """The difference of two sines would keep five: the area of a cap of angle c is 1 - cos(c) = 2 sin(c/2)**2."""
    cap = np.deg2rad(1 / 1200)
    axis = CellAxis(np.array([90 - 1 / 1200, 90.0]), "latitude")
    assert axis.measure[0] == pytest.approx(2 * np.sin(cap / 2) ** 2, rel=1e-9, abs=0)


@given(axes())
def test_reversing_twice_is_the_identity_and_reverses_what_belongs_to_cells(axis):
    other = axis.reverse()
    assert np.array_equal(other.reverse().edges, axis.edges)
    assert other.ascending != axis.ascending
    assert other.periodic == axis.periodic
    np.testing.assert_array_equal(other.centres, axis.centres[::-1])
    np.testing.assert_allclose(other.measure, axis.measure[::-1], rtol=1e-12)


# Nesting


@given(axes(), factors)
def test_nest_factor_is_the_factor(axis, factor):
    assert axis.nest_factor(axis.refine(factor)) == factor


@given(axes(2), st.integers(2, 5))
def test_no_nesting_the_other_way_round_or_against_the_order(axis, factor):
    assert axis.refine(factor).nest_factor(axis) is None
    assert axis.nest_factor(axis.refine(factor).reverse()) is None


@given(axes(1, 6), st.integers(2, 4), st.floats(0.05, 0.4))
def test_shifted_cells_do_not_nest(axis, factor, share):
    fine = axis.refine(factor)
    assume(axis.kind != "latitude")
    shift = share * np.abs(np.diff(fine.edges)).min()
    assert axis.nest_factor(CellAxis(fine.edges + shift, axis.kind)) is None


@given(axes(2, 6), st.integers(2, 4))
def test_unequal_parts_nest_as_long_as_coarse_edges_are_fine_edges(axis, factor):
    edges = axis.refine(factor).edges.copy()
    inner = np.arange(edges.size) % factor != 0
    edges[inner] += 0.3 * np.resize(np.diff(edges), edges.size)[inner]
    assert axis.nest_factor(CellAxis(edges, axis.kind)) == factor


def test_kinds_do_not_nest_in_each_other():
    edges = np.array([0.0, 10.0, 20.0])
    assert CellAxis(edges, "projected").nest_factor(CellAxis(edges, "longitude")) is None


@pytest.mark.parametrize("step", [0.25, 0.1, 0.05, 0.025, 1 / 120])
@pytest.mark.parametrize("west", [0.0, -180.0])
def test_axes_stored_as_float32_close_and_nest(step, west):
    """At 359 degrees a step of float32 is 3e-5, which is no misfit of grids but much of a small cell."""
    cells = round(360 / step)
    stored = (west + (np.arange(cells) + 0.5) * step).astype(np.float32)
    half = np.float32(step / 2)
    fine = axis_from_centres(stored, "longitude")
    assert fine.periodic
    assert axis_from_bounds(np.stack([stored - half, stored + half], axis=1), "longitude", stored).periodic
    coarse = CellAxis(west + np.arange(cells // 4 + 1) * 4 * step, "longitude")
    assert coarse.nest_factor(fine) == 4


# Edges from centres


@given(longitudes(3, 40), seeds)
def test_centres_of_equal_cells_give_their_edges(axis, seed):
    equal = CellAxis(np.linspace(axis.edges[0], axis.edges[-1], axis.size + 1), "longitude")
    np.testing.assert_allclose(axis_from_centres(equal.centres, "longitude").edges, equal.edges, atol=1e-9)
    assert axis_from_centres(equal.centres, "longitude").periodic == equal.periodic


@given(st.integers(2, 30), st.booleans())
def test_rows_on_the_poles_are_half_cells_that_end_there(rows, descending):
    centres = np.linspace(-90, 90, rows)[:: -1 if descending else 1]
    axis = axis_from_centres(centres, "latitude")
    assert sorted(axis.edges[[0, -1]]) == [-90.0, 90.0]
    assert axis.measure.sum() == pytest.approx(2.0, rel=1e-14, abs=0)
    assert axis.ascending == (not descending)


@given(longitudes(3, 30), st.sampled_from([0.0, -180.0]))
def test_regions_across_the_seam_are_unwrapped(axis, west):
    centres = turned(axis.centres, west)
    steps = np.abs(np.diff(axis.centres))
    assume(steps.max() < 120)
    values = unwrap_longitude(centres)
    np.testing.assert_allclose(np.diff(values), np.diff(axis.centres), atol=1e-9)
    assert values[0] == centres[0]


def test_two_columns_may_lie_on_both_sides_of_the_seam():
    np.testing.assert_array_equal(axis_from_centres([355.0, 5.0], "longitude").edges, [350, 360, 370])
    np.testing.assert_array_equal(axis_from_centres([5.0, 355.0], "longitude").edges, [10, 0, -10])


def test_disorder_is_not_taken_for_a_seam():
    with pytest.raises(GridError, match="sorted longitude"):
        axis_from_centres([0, 200, 10, 300, 20], "longitude")


@pytest.mark.parametrize("rows", [8, 32, 64, 160])
def test_gaussian_rows_reach_the_poles(rows):
    axis = gaussian_latitudes(rows)
    assert sorted(axis.edges[[0, -1]]) == [-90.0, 90.0]
    assert axis.measure.sum() == pytest.approx(2.0, rel=1e-14, abs=0)
    inner = axis_from_centres(np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(rows)[0])), "latitude")
    np.testing.assert_array_equal(axis.edges[1:-1], inner.edges[1:-1])


@pytest.mark.parametrize(("end", "drawn"), [(89.0, 90.0), (88.4, 90.0), (88.0, 88.0), (86.0, 86.0), (90.0, 90.0)])
def test_only_gaps_below_a_third_of_a_cell_are_closed(end, drawn):
    axis = CellAxis(end - 5.0 * np.arange(3)[::-1], "latitude")
    assert extend_to_poles(axis).edges.tolist() == [end - 10, end - 5, drawn]
    assert extend_to_poles(CellAxis(-axis.edges, "latitude")).edges.tolist() == [10 - end, 5 - end, -drawn]


@given(latitudes(2))
def test_a_region_is_not_drawn_to_the_poles(axis):
    gaps = 90 - np.abs(axis.edges[[0, -1]])
    outer = np.abs(np.diff(axis.edges))[[0, -1]]
    drawn = extend_to_poles(axis)
    expected = np.where((gaps > 0) & (gaps < outer / 3), np.copysign(90, axis.edges[[0, -1]]), axis.edges[[0, -1]])
    np.testing.assert_array_equal(drawn.edges[[0, -1]], expected)
    np.testing.assert_array_equal(drawn.edges[1:-1], axis.edges[1:-1])


# Edges from bounds


@given(axes(), seeds, st.booleans())
def test_bounds_give_their_edges_in_whatever_order_the_pairs_are(axis, seed, with_centres):
    pairs = pairs_of(axis)
    if axis.size > 1:
        swap = np.random.default_rng(seed).uniform(size=axis.size) < 0.5
        pairs[swap] = pairs[swap, ::-1]
    # Without centres, nothing tells a cell wider than half a circle from its other side.
    assume(axis.kind != "longitude" or axis.size == 1 or with_centres or np.abs(np.diff(axis.edges)).max() < 120)
    found = axis_from_bounds(pairs, axis.kind, axis.centres if with_centres else None)
    np.testing.assert_allclose(found.edges, axis.edges, rtol=0, atol=1e-9)


@given(longitudes(3, 30), st.sampled_from([0.0, -180.0]), st.sampled_from([0.0, -180.0]))
def test_bounds_across_the_seam_follow_the_branch_of_the_first_centre(axis, west_of_bounds, west_of_centres):
    """Bounds [359.5, 0.5] around 0, or bounds in 0 to 360 around centres in -180 to 180, mean the same cells."""
    centres = turned(axis.centres, west_of_centres)
    found = axis_from_bounds(turned(pairs_of(axis), west_of_bounds), "longitude", centres)
    np.testing.assert_allclose(found.edges, axis.edges + (centres[0] - axis.centres[0]), atol=1e-9)
    assert found.periodic == axis.periodic


@pytest.mark.parametrize(
    ("pair", "centre", "edges"),
    [
        ([359.5, 0.5], 0.0, [-0.5, 0.5]),
        ([350.0, 10.0], 358.0, [350.0, 370.0]),
        ([350.0, 10.0], 180.0, [350.0, 10.0]),
        ([0.0, 360.0], 180.0, [0.0, 360.0]),
        ([-180.0, 180.0], 0.0, [-180.0, 180.0]),
    ],
)
def test_the_centre_of_a_single_cell_tells_on_which_side_it_lies(pair, centre, edges):
    np.testing.assert_allclose(axis_from_bounds([pair], "longitude", [centre]).edges, edges, atol=1e-9)


def test_a_cell_wider_than_half_a_circle_lies_where_its_centre_is():
    """Its bounds, written across the seam, are closer the other way round."""
    pairs, centres = [[0.0, -63.0], [-63.0, 101.0], [101.0, 0.0]], [-31.5, -161.0, 50.5]
    np.testing.assert_array_equal(axis_from_bounds(pairs, "longitude", centres).edges, [0, -63, -259, -360])


def test_latitude_bounds_beyond_the_poles_end_there():
    axis = axis_from_bounds([[-90.5, -89.5], [-89.5, -88.5]], "latitude", [-90.0, -89.0])
    np.testing.assert_array_equal(axis.edges, [-90, -89.5, -88.5])


def test_centres_may_lie_on_an_edge_of_their_cell():
    assert axis_from_bounds([[0, 1], [1, 2]], "projected", [0.0, 1.0]).size == 2


# What is refused


@pytest.mark.parametrize(
    ("edges", "kind", "error", "match"),
    [
        ([1.0], "projected", ShapeError, r"at least two cell edges .*received shape \(1,\)"),
        ([[0.0, 1.0], [1.0, 2.0]], "projected", ShapeError, r"received shape \(2, 2\)"),
        ([0.0, 1.0, 1.0], "projected", GridError, "strictly monotone projected edges, received .*sort the axis"),
        ([0.0, 2.0, 1.0], "latitude", GridError, "strictly monotone latitude"),
        ([0.0, np.nan, 1.0], "longitude", GridError, "strictly monotone longitude"),
        ([0.0, 91.0], "latitude", GridError, "latitudes within -90 to 90, received 0 to 91"),
        ([0.0, 200.0, 400.0], "longitude", GridError, "within one circle, received 400 degrees"),
    ],
)
def test_edges_that_are_no_axis(edges, kind, error, match):
    with pytest.raises(error, match=match):
        CellAxis(np.array(edges), kind)


@pytest.mark.parametrize(
    ("centres", "kind", "match"),
    [
        ([[0.0, 1.0]], "longitude", r"one-dimensional longitude coordinate, received shape \(1, 2\)"),
        ([], "latitude", r"one-dimensional latitude coordinate, received shape \(0,\)"),
        ([0.0, np.nan], "latitude", "finite latitude coordinates, received NaN or infinity; drop those rows"),
        ([0.0, 50.0, 100.0], "latitude", "latitudes within -90 to 90, received 100; check units"),
        ([10.0], "longitude", "bounds for a longitude axis of one cell, received none; add CF bounds"),
        ([0.0, 1.0, 1.0, 2.0], "projected", "distinct projected coordinates, received 1 twice; drop the duplicate"),
        ([0.0, 2.0, 1.0], "latitude", "sorted latitude coordinates, received .*sort the axis first"),
    ],
)
def test_centres_that_are_no_axis(centres, kind, match):
    with pytest.raises(GridError, match=match):
        axis_from_centres(centres, kind)


@pytest.mark.parametrize(
    ("bounds", "centres", "kind", "match"),
    [
        ([0.0, 1.0], None, "latitude", r"latitude bounds of shape \(n, 2\), received \(2,\)"),
        (np.zeros((0, 2)), None, "latitude", r"shape \(n, 2\), received \(0, 2\)"),
        ([[0.0, np.inf]], None, "latitude", "finite latitude bounds, received NaN or infinity"),
        ([[0, 1], [1.5, 2]], None, "projected", r"adjoining projected cells, received \[0.0, 1.0\] before \[1.5, 2.0"),
        ([[0, 1], [0.5, 2]], None, "longitude", "adjoining longitude cells"),
        ([[0, 1], [2, 3], [1, 2]], None, "projected", "sorted projected coordinates"),
        ([[0, 1], [1, 2]], [0.5, 1.5, 2.5], "projected", "expected 3 pairs of projected bounds, received 2"),
        ([[0, 1], [1, 2]], [1.5, 2.5], "projected", r"around their centres, received \[0.0, 1.0\] for 1.5; repair"),
        ([[0, 1], [1, 2]], [1.5, 0.5], "latitude", "latitude bounds around their centres"),
        ([[0, 1], [1, 2], [2, 3]], [3.5, 4.5, 5.5], "longitude", r"received \[0.0, 1.0\] for 3.5"),
        ([[0, 1], [1, 2]], [0.5, np.nan], "projected", "finite projected coordinates"),
    ],
)
def test_bounds_that_are_no_axis(bounds, centres, kind, match):
    with pytest.raises(GridError, match=match):
        axis_from_bounds(bounds, kind, centres)


def test_cells_left_over_are_refused():
    with pytest.raises(ShapeError, match="projected axis of a multiple of 2 cells, received 3; crop it first"):
        CellAxis(np.arange(4.0), "projected").coarsen(2)


@pytest.mark.parametrize("factor", [0, -2, 1.5, 2.0, "2", None, True])
def test_factors_that_are_no_whole_numbers(factor):
    with pytest.raises(ShapeError, match="factor to be a whole number of at least 1, received"):
        check_factor(factor)


@pytest.mark.parametrize("factor", [1, 7, np.int64(3)])
def test_whole_factors_pass(factor):
    assert check_factor(factor) == factor
    assert type(check_factor(factor)) is int


@pytest.mark.parametrize("method", ["refine", "coarsen"])
@pytest.mark.parametrize("factor", [0, 2.5])
def test_axes_refuse_factors_that_are_no_whole_numbers(method, factor):
    with pytest.raises(ShapeError, match="whole number"):
        getattr(CellAxis(np.arange(5.0), "projected"), method)(factor)


def test_two_cells_of_one_circle_are_no_seam():
    """Their centres lie half a circle apart, to rounding: the step back is no jump of the convention."""
    edges = np.array([360.0, 227.51289604931545, 0.0])
    pairs = np.stack([edges[:-1], edges[1:]], axis=1)
    centres = pairs.mean(axis=1)
    np.testing.assert_array_equal(unwrap_longitude(centres), centres)
    np.testing.assert_array_equal(axis_from_bounds(pairs, "longitude", centres).edges, edges)
