"""Cells of one axis cut by any other: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import axes, generator, latitudes, longitudes, masks, projected_axes, seeds

from downscale.errors import GridError
from downscale.fields.aggregate import Aggregation, SupermeshMean
from downscale.grid.axis import CellAxis, edge_tolerance
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import Subcells, overlap_weights
from downscale.kernels.sobolev import axis_weights
from downscale.nn.separable import METHODS, operator
from downscale.nn.upsample import SobolevUpsample


@st.composite
def pairs(draw):
    """Two overlapping axes of one kind."""
    kind = draw(st.sampled_from([latitudes, longitudes, projected_axes]))
    coarse, target = draw(kind()), draw(kind())
    try:
        Subcells.between(coarse, target)
    except GridError:
        assume(False)
    return coarse, target


def slivers(parts: Subcells) -> bool:
    """Parts so thin that rounding decides whether they are there."""
    whole = np.abs(np.diff(parts.coarse.edges)).min()
    return bool((np.abs(parts.high - parts.low)[~parts.empty] < 1e-3 * whole).any())


def off_edges(values: np.ndarray, axis: CellAxis) -> np.ndarray:
    """Distances to the nearest edge, around the circle for longitudes."""
    gaps = np.abs(np.subtract.outer(values, axis.edges))
    gaps = np.minimum(gaps % 360, 360 - gaps % 360) if axis.kind == "longitude" else gaps
    return gaps.min(axis=1, initial=np.inf)


@given(pairs())
def test_parts_make_up_their_cells(pair):
    coarse, target = pair
    parts = Subcells.between(coarse, target)
    cells = parts.measure.reshape(coarse.size, parts.count)
    np.testing.assert_allclose(cells.sum(axis=1), coarse.measure, rtol=1e-9)
    np.testing.assert_allclose(parts.area_fraction.reshape(cells.shape).sum(axis=1), 1, rtol=1e-14)
    assert (parts.measure[~parts.empty] > 0).all()
    low, high = np.minimum(parts.low, parts.high), np.maximum(parts.low, parts.high)
    edges = np.sort(np.stack([coarse.edges[:-1], coarse.edges[1:]]), axis=0).repeat(parts.count, axis=1)
    assert (low >= edges[0]).all()
    assert (high <= edges[1]).all()


@given(pairs())
def test_means_over_target_cells_are_those_of_overlaps(pair):
    """Blocks cut and gathered are first-order conservative weights, found here in another way."""
    coarse, target = pair
    parts = Subcells.between(coarse, target)
    assume(not slivers(parts))
    # Edges that are meant to be one are one to the last digit, all others stay; what follows holds for those edges.
    slack = min(edge_tolerance(axis.edges, np.diff(axis.edges)) for axis in pair)
    moved = parts.target.edges != target.edges
    assert np.abs(parts.target.edges - target.edges).max() <= slack * (1 + 1e-9)
    assert (off_edges(parts.target.edges[moved], coarse) <= 1e-9 * np.abs(coarse.edges).max()).all()
    one = Subcells.from_factor(CellAxis(np.array([0.0, 1.0]), "index"), 1)
    values = np.eye(coarse.size)[:, :, None]
    cut = np.repeat(values, parts.count, axis=1)
    means = SupermeshMean.of(parts, one).mean(cut)[..., 0]
    direct = overlap_weights(coarse, parts.target)
    covered = direct.sum(axis=1)
    expected = np.where(covered > 0, direct.T / np.where(covered > 0, covered, 1), np.nan)
    np.testing.assert_allclose(means, expected, atol=1e-7)
    np.testing.assert_allclose(parts.covered_fraction, np.minimum(covered, 1), atol=1e-7)


@given(pairs(), pairs(), seeds, st.data())
def test_the_budget_of_what_is_covered_and_valid_is_kept(rows, columns, seed, data):
    y, x = Subcells.between(*rows), Subcells.between(*columns)
    rng = generator(seed)
    field = rng.normal(size=(y.size, x.size))
    mask = data.draw(masks(field.shape))
    groups = SupermeshMean.of(y, x)
    groups = groups.apply_mask(mask)
    means, weight = groups.mean(field), groups.valid_measure
    inside = np.multiply.outer(y.owner >= 0, x.owner >= 0) & mask
    area = np.multiply.outer(y.measure, x.measure)
    total = (area * field)[inside].sum()
    size = (area * np.abs(field))[inside].sum() + 1e-300
    assert abs(np.nansum(means * weight) - total) <= 1e-12 * size
    assert (np.isnan(means) == (weight == 0)).all()


@given(pairs(), pairs(), seeds)
def test_constants_stay_and_maps_together_give_the_bits_of_each(rows, columns, seed):
    y, x = Subcells.between(*rows), Subcells.between(*columns)
    groups = SupermeshMean.of(y, x)
    ones = groups.mean(np.ones((y.size, x.size)))
    np.testing.assert_allclose(ones[np.isfinite(ones)], 1, rtol=1e-12)
    field = generator(seed).normal(size=(2, y.size, x.size))
    mask = field > -1
    for together, each in ((None, (None, None)), (mask, mask)):
        means = [groups.apply_mask(one).mean(values, 0.5) for one, values in zip(each, field, strict=True)]
        np.testing.assert_array_equal(groups.apply_mask(together).mean(field, 0.5), means)


@given(pairs(), pairs(), seeds)
def test_the_greatest_is_that_of_the_parts_which_a_target_cell_covers(rows, columns, seed):
    y, x = Subcells.between(*rows), Subcells.between(*columns)
    rng = generator(seed)
    field = np.where(rng.uniform(size=(y.size, x.size)) < 0.1, np.nan, rng.normal(size=(y.size, x.size)))
    groups, expected = SupermeshMean.of(y, x), np.full((y.target.size, x.target.size), -np.inf)
    held = np.argwhere(np.multiply.outer((y.owner >= 0) & (y.measure > 0), (x.owner >= 0) & (x.measure > 0)))
    for row, column in held:
        cell = y.owner[row], x.owner[column]
        expected[cell] = np.fmax(expected[cell], field[row, column])
    np.testing.assert_array_equal(groups.largest(field), expected)


@pytest.mark.parametrize(("na_thres", "values"), [(0.0, 1), (0.3, 2), (0.5, 3), (1.0, 4)])
def test_the_threshold_is_the_missing_share_that_is_borne(na_thres, values):
    parts = Subcells.between(CellAxis(np.arange(21.0), "projected"), CellAxis(np.arange(0, 24.0, 4), "projected"))
    one = Subcells.from_factor(CellAxis(np.array([0.0, 1.0]), "index"), 1)
    valid = np.ones((20, 1), dtype=bool)
    valid[4:5], valid[8:10], valid[12:15], valid[16:20] = False, False, False, False
    means = SupermeshMean.of(parts, one).apply_mask(valid).mean(np.arange(20.0)[:, None], na_thres)[:, 0]
    assert np.isfinite(means).tolist() == [True] * values + [False] * (5 - values)


@given(axes(2), st.integers(1, 4), st.booleans())
def test_cells_that_nest_evenly_are_regular_in_any_order(axis, factor, turned):
    fine = axis.refine(factor)
    target = fine.reverse() if turned else fine
    parts = Subcells.between(axis, target)
    assert parts.regular
    assert parts.count == factor
    np.testing.assert_allclose(np.sort(parts.low), np.sort(Subcells.from_factor(axis, factor).low), atol=1e-9)
    assert (np.diff(np.argsort(parts.owner)) != 0).all()


@given(pairs(), st.sampled_from([3, 7]), st.sampled_from([1.25, 2.0]))
def test_the_sobolev_kernel_keeps_its_laws_on_any_parts(pair, taps, order):
    parts = Subcells.between(*pair)
    assume(not slivers(parts))
    other = Subcells.from_factor(CellAxis(np.arange(4.0), "index"), 1)
    grid = RectilinearGrid(parts.coarse, other.coarse) if parts.coarse.kind == "projected" else None
    if grid is None:
        across = CellAxis(np.array([0.0, 10.0]), "longitude" if parts.coarse.kind == "latitude" else "latitude")
        other = Subcells.from_factor(across, 1)
        both = (parts, other) if parts.coarse.kind == "latitude" else (other, parts)
    else:
        both = (parts, other)
    up = SobolevUpsample(RectilinearGrid(both[0].coarse, both[1].coarse), both, taps, order)
    axis = up.axes[0 if both[0] is parts else 1]
    matrix = axis.dense(parts.coarse.size)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-8)
    means = np.add.reduceat(parts.area_fraction[:, None] * matrix, np.arange(0, parts.size, parts.count), axis=0)
    np.testing.assert_allclose(means, np.eye(parts.coarse.size), atol=1e-9)


def test_parts_that_nest_get_the_weights_of_the_axis():
    """Unequal parts are predicted as what they are, not as equal ones."""
    coarse = CellAxis(np.arange(0, 12.0), "projected")
    fine = CellAxis(np.sort(np.concatenate([np.arange(0, 12.0), np.arange(11) + 0.3])), "projected")
    parts = Subcells.between(coarse, fine)
    other = CellAxis(np.arange(4.0) * 1000, "projected")
    up = SobolevUpsample(RectilinearGrid(coarse, other), (parts, Subcells.from_factor(other, 1)))
    direct = axis_weights(coarse.edges, fine.edges)
    np.testing.assert_allclose(up.axes[0].dense(11), direct.dense(11), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_made_on_parts(method):
    lat = Subcells.between(
        CellAxis(np.linspace(-90, 90, 13), "latitude"), CellAxis(np.linspace(90, -90, 17), "latitude")
    )
    lon = Subcells.between(
        CellAxis(np.linspace(0, 360, 17), "longitude"), CellAxis(np.linspace(-7, 353, 25), "longitude")
    )
    up = operator(method, RectilinearGrid(lat.coarse, lon.coarse), (lat, lon))
    fine = up(torch.ones(12, 16, dtype=torch.float64))
    assert tuple(fine.shape) == (lat.size, lon.size)
    torch.testing.assert_close(fine, torch.ones_like(fine))


def test_where_the_border_of_the_target_runs_through_a_cell_its_inner_part_carries_the_value():
    parts = Subcells.between(
        CellAxis(np.arange(0, 5.0), "projected"), CellAxis(np.array([0.5, 2.5, 3.25]), "projected")
    )
    assert parts.area_fraction.reshape(4, -1)[:3].tolist() == [[0, 1], [1, 0], [0.5, 0.5]]
    means = Aggregation(parts.area_fraction, np.ones(1), parts.count, 1).mean(parts.owner.astype(float)[:, None])
    assert means[:, 0].tolist() == [0, 0, 0.5, 1]


@pytest.mark.parametrize("closed", [False, True])
def test_cells_whose_edges_are_rounded_lack_no_sliver_of_themselves(closed):
    """Edges stored as float32 are those that they were rounded from: the target nests, and every cell is whole."""
    edges = np.array([289.6425753, 275.6029789, 235.1576391, 201.8137878, 24.1933102, 4.2557848])
    coarse = CellAxis(np.append(edges, edges[0] - 360) if closed else edges, "longitude")
    rounded = coarse.edges.astype(np.float32).astype(float)
    rounded[0] += 2e-5
    if closed:
        rounded[-1] = rounded[0] - 360
    for turns in (0, -360):
        parts = Subcells.between(coarse, CellAxis(rounded + turns, "longitude"))
        assert parts.regular
        np.testing.assert_allclose(parts.covered_fraction, 1, rtol=4 * np.finfo(float).eps)
        np.testing.assert_allclose(parts.target.edges - turns, coarse.edges, rtol=0, atol=1e-12 * 360)


def test_axes_that_do_not_meet_are_refused():
    with pytest.raises(GridError, match="expected two axes of one kind, received latitude and longitude"):
        Subcells.between(CellAxis(np.array([0.0, 1.0]), "latitude"), CellAxis(np.array([0.0, 1.0]), "longitude"))
    with pytest.raises(GridError, match="expected a target that overlaps the latitude range 0 to 1, received 5 to 6"):
        Subcells.between(CellAxis(np.array([0.0, 1.0]), "latitude"), CellAxis(np.array([5.0, 6.0]), "latitude"))
