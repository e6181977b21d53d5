"""The aggregation operator: a weighted mean with exact areas and masks, its transpose, and the same bits everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import assume, given
from hypothesis import strategies as st
from oracles import cell_means, part_areas
from strategies import factor_pairs, generator, grids, masks, seeds

from downscale.errors import ShapeError
from downscale.fields.aggregate import Aggregation, area_fractions
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid


def operator(grid: RectilinearGrid, factor: tuple[int, int]) -> tuple[Aggregation, RectilinearGrid]:
    fine = grid.refine(*factor)
    return Aggregation.between(grid, fine), fine


@st.composite
def cases(draw, max_cells=6):
    """A grid, its factor, the operator, the fine grid, a field and a mask."""
    grid, factor = draw(grids(1, max_cells)), draw(factor_pairs)
    cells, fine = operator(grid, factor)
    field = generator(draw(seeds)).standard_normal(fine.shape)
    return grid, factor, cells, fine, field, draw(masks(fine.shape))


@given(cases())
def test_means_are_those_of_a_loop_over_cells(case):
    grid, factor, cells, fine, field, mask = case
    area = part_areas(fine.y.edges, fine.x.edges, grid.spherical)
    np.testing.assert_allclose(cells.mean(field), cell_means(field, area, factor), rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        cells.apply_mask(mask).mean(field), cell_means(field, area, factor, mask), rtol=0, atol=1e-9
    )


@given(cases(), seeds)
def test_adjoint_is_the_transpose(case, seed):
    grid, _, cells, _, field, _ = case
    coarse = generator(seed).standard_normal(grid.shape)
    one, other = (cells.mean(field) * coarse).sum(), (field * cells.adjoint(coarse)).sum()
    assert one == pytest.approx(other, rel=1e-12, abs=1e-12)


@given(cases())
def test_adjoint_is_the_derivative_of_the_mean(case):
    _, _, cells, _, field, _ = case
    point = torch.from_numpy(field).requires_grad_()
    mean = cells.mean(point)
    torch.manual_seed(0)
    upstream = torch.randn_like(mean)
    (derivative,) = torch.autograd.grad(mean, point, upstream)
    np.testing.assert_allclose(derivative.numpy(), cells.adjoint(upstream.numpy()), rtol=0, atol=1e-15)


@given(cases(), st.one_of(st.just(0.0), st.floats(1e-100, 1e6), st.floats(-1e6, -1e-100)))
def test_constants_stay_constant_under_any_mask(case, value):
    _, _, cells, fine, _, mask = case
    constant = np.full(fine.shape, value)
    np.testing.assert_allclose(cells.mean(constant), value, rtol=1e-14)
    masked = cells.apply_mask(mask).mean(constant)
    np.testing.assert_allclose(masked[np.isfinite(masked)], value, rtol=1e-14)


@given(cases())
def test_means_lie_between_the_extremes_of_their_parts(case):
    _, _, cells, _, field, _ = case
    mean, slack = cells.mean(field), 1e-14
    assert (mean <= cells.reduce_cells(field, np.maximum, -np.inf) + slack).all()
    assert (mean >= cells.reduce_cells(field, np.minimum, np.inf) - slack).all()


@given(cases())
def test_what_lies_under_the_mask_is_ignored(case):
    _, _, cells, _, field, mask = case
    expected = cells.apply_mask(mask).mean(field)
    for hidden in (np.nan, np.inf, 1e300):
        np.testing.assert_array_equal(cells.apply_mask(mask).mean(np.where(mask, field, hidden)), expected)


@given(cases())
def test_a_mask_elsewhere_changes_no_bit_of_a_whole_cell(case):
    """Else a field would depend on whether its block has a gap."""
    _, _, cells, _, field, mask = case
    whole = cells.reduce_cells(mask, np.logical_and, True)
    np.testing.assert_array_equal(cells.apply_mask(mask).mean(field)[whole], cells.mean(field)[whole])


@given(cases())
def test_a_cell_is_missing_exactly_where_no_part_is_valid(case):
    _, factor, cells, _, field, mask = case
    some = mask.reshape(-1, factor[0], mask.shape[1] // factor[1], factor[1]).any(axis=(1, 3))
    np.testing.assert_array_equal(np.isfinite(cells.apply_mask(mask).mean(field)), some)
    share = cells.apply_mask(mask).valid_fraction
    np.testing.assert_array_equal(share > 0, some)
    assert share.max(initial=0) <= 1 + 1e-15


@given(cases())
def test_numpy_and_torch_give_the_same_bits(case):
    _, _, cells, _, field, mask = case
    for kind in (np.float64, np.float32):
        values = np.stack([field, 3 * field]).astype(kind)
        tensor = torch.from_numpy(values)
        np.testing.assert_array_equal(cells.mean(tensor).numpy(), cells.mean(values))
        np.testing.assert_array_equal(
            cells.apply_mask(torch.from_numpy(mask)).mean(tensor).numpy(), cells.apply_mask(mask).mean(values)
        )
        assert cells.mean(values).dtype == kind
        np.testing.assert_array_equal(
            cells.broadcast_to_fine(cells.mean(tensor)).numpy(), cells.broadcast_to_fine(cells.mean(values))
        )
        np.testing.assert_array_equal(cells.adjoint(cells.mean(tensor)).numpy(), cells.adjoint(cells.mean(values)))


def test_whole_numbers_have_fractions_for_means():
    cells = Aggregation(np.array([0.25, 0.75]), np.full(2, 0.5), 2, 2)
    field = np.array([[1, 0], [0, 1]])
    np.testing.assert_array_equal(cells.mean(field), [[0.5]])
    np.testing.assert_array_equal(cells.mean(torch.from_numpy(field)).numpy(), [[0.5]])
    np.testing.assert_array_equal(cells.apply_mask(field == 1).mean(field), [[1.0]])


@given(cases())
def test_memory_layout_changes_no_bit(case):
    _, _, cells, _, field, mask = case
    stack = np.stack([field, field + 1, field - 1])
    strided = np.asfortranarray(stack)
    np.testing.assert_array_equal(cells.apply_mask(mask).mean(strided), cells.apply_mask(mask).mean(stack))
    for part, whole in zip(stack, cells.apply_mask(mask).mean(stack), strict=True):
        np.testing.assert_array_equal(cells.apply_mask(mask).mean(part), whole)


@given(cases(), st.data())
def test_a_window_is_a_slice_bit_for_bit(case, data):
    grid, factor, cells, _, field, mask = case
    rows, columns = (np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))) for n in grid.shape)
    fine = [(part[:, None] * f + np.arange(f)).ravel() for part, f in zip((rows, columns), factor, strict=True)]
    part = np.ix_(*fine)
    window = cells.window(rows, columns)
    whole = np.ix_(rows, columns)
    np.testing.assert_array_equal(window.mean(field[part]), cells.mean(field)[whole])
    np.testing.assert_array_equal(
        window.apply_mask(mask[part]).mean(field[part]), cells.apply_mask(mask).mean(field)[whole]
    )


@given(cases(), seeds)
def test_spread_is_a_right_inverse_under_any_mask(case, seed):
    grid, factor, cells, _, _, mask = case
    coarse = generator(seed).standard_normal((2, *grid.shape))
    spread = cells.broadcast_to_fine(coarse)
    np.testing.assert_array_equal(spread, coarse.repeat(factor[0], axis=-2).repeat(factor[1], axis=-1))
    back = cells.apply_mask(mask).mean(spread)
    valid = np.isfinite(back)
    np.testing.assert_allclose(back[valid], coarse[valid], rtol=1e-14)


@given(cases())
def test_fold_combines_the_parts_of_each_cell(case):
    grid, factor, cells, _, field, _ = case
    parts = field.reshape(grid.y.size, factor[0], grid.x.size, factor[1])
    np.testing.assert_array_equal(cells.reduce_cells(field, np.maximum, -np.inf), parts.max(axis=(1, 3)))
    np.testing.assert_array_equal(
        cells.reduce_cells(torch.from_numpy(field), torch.minimum, np.inf).numpy(), parts.min(axis=(1, 3))
    )


@given(st.integers(1, 5), st.integers(1, 5), factor_pairs, seeds)
def test_equal_areas_give_the_block_means_of_xarray(rows, columns, factor, seed):
    axes = [CellAxis(np.arange(n + 1.0) * 1000, "projected") for n in (rows, columns)]
    cells, fine = operator(RectilinearGrid(*axes), factor)
    field = generator(seed).standard_normal(fine.shape)
    expected = xr.DataArray(field, dims=("y", "x")).coarsen(y=factor[0], x=factor[1]).mean()
    np.testing.assert_allclose(cells.mean(field), expected, rtol=0, atol=1e-14)


def test_areas_matter_on_the_sphere():
    """The unweighted mean of the two halves of a cell from the equator to the pole is far off."""
    row = RectilinearGrid(CellAxis(np.array([0.0, 90.0]), "latitude"), CellAxis(np.array([0.0, 1.0]), "longitude"))
    cells, _ = operator(row, (2, 1))
    half = np.sin(np.deg2rad(45))
    assert cells.mean(np.array([[0.0], [1.0]]))[0, 0] == pytest.approx(1 - half, rel=1e-14, abs=0)


@given(cases(), st.integers(2, 3))
def test_means_of_means_are_means(case, factor):
    """Aggregating in two steps is aggregating in one (areas of areas add up)."""
    grid, _, once, fine, _, _ = case
    finest = fine.refine(factor, 1)
    values = generator(0).standard_normal(finest.shape)
    twice = once.mean(Aggregation.between(fine, finest).mean(values))
    np.testing.assert_allclose(twice, Aggregation.between(grid, finest).mean(values), rtol=0, atol=1e-13)


@given(grids(2, 5), st.integers(2, 3))
def test_grids_that_do_not_nest_are_refused(grid, factor):
    fine = grid.refine(factor, factor)
    assume(grid.shape != (1, 1))
    with pytest.raises(ShapeError, match=r"fine grid nested in the coarse one, received shapes .* do not match; give"):
        Aggregation.between(fine, grid)
    with pytest.raises(ShapeError, match="fine grid nested in the coarse one"):
        Aggregation.between(grid, RectilinearGrid(fine.y.reverse(), fine.x))


@pytest.mark.parametrize("call", ["mean", "reduce_cells", "masked"])
def test_fields_of_another_shape_are_refused(call):
    cells = Aggregation(np.full(4, 0.5), np.full(6, 0.5), 2, 2)
    field = np.zeros((3, 6, 4))
    with pytest.raises(ShapeError, match=r"fine field of shape \(..., 4, 6\), received \(3, 6, 4\)"):
        {
            "mean": lambda: cells.mean(field),
            "reduce_cells": lambda: cells.reduce_cells(field, np.maximum, -np.inf),
            "masked": lambda: cells.apply_mask(np.ones((4, 6), bool)).mean(field),
        }[call]()


# Areas that are no products, and empty parts


@st.composite
def shared_cases(draw):
    """An operator with a share of its own for every fine cell, some of them empty, and a field."""
    n_y, n_x, factor = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(factor_pairs)
    rng = generator(draw(seeds))
    shape = n_y * factor[0], n_x * factor[1]
    area = rng.uniform(0.2, 1, shape) * (rng.uniform(size=shape) > draw(st.sampled_from([0.0, 0.4])))
    axes_of = [np.full(n, 1 / f) for n, f in zip(shape, factor, strict=True)]
    return Aggregation(*axes_of, *factor, area_fractions(area, *factor)), area, rng.standard_normal(shape), factor


@given(shared_cases(), seeds)
def test_shares_of_cells_give_means_adjoints_and_windows(case, seed):
    cells, area, field, factor = case
    n_y, n_x = cells.coarse_shape
    blocks = [v.reshape(n_y, factor[0], n_x, factor[1]) for v in (area, field, area * field)]
    whole, sums, plain = blocks[0].sum(axis=(1, 3)), blocks[2].sum(axis=(1, 3)), blocks[1].mean(axis=(1, 3))
    expected = np.where(whole > 0, sums / np.where(whole > 0, whole, 1), plain)
    np.testing.assert_allclose(cells.mean(field), expected, rtol=0, atol=1e-13)
    coarse = generator(seed).standard_normal((n_y, n_x))
    one, other = (cells.mean(field) * coarse).sum(), (field * cells.adjoint(coarse)).sum()
    assert one == pytest.approx(other, rel=1e-12, abs=1e-12)
    np.testing.assert_array_equal(cells.mean(torch.from_numpy(field)).numpy(), cells.mean(field))
    rows, columns = np.arange(n_y)[::2], np.arange(n_x)[-1:]
    part = np.ix_(*((r[:, None] * f + np.arange(f)).ravel() for r, f in zip((rows, columns), factor, strict=True)))
    window = cells.window(rows, columns)
    np.testing.assert_array_equal(window.mean(field[part]), cells.mean(field)[np.ix_(rows, columns)])


@given(shared_cases())
def test_what_an_empty_part_holds_is_ignored(case):
    cells, _, field, _ = case
    empty = cells.cell_fraction == 0
    expected = cells.mean(field)
    for hidden in (np.nan, np.inf, 1e300):
        other = np.where(empty, hidden, field)
        np.testing.assert_array_equal(cells.mean(other), expected)
        np.testing.assert_array_equal(cells.mean(torch.from_numpy(other)).numpy(), expected)
        np.testing.assert_array_equal(
            cells.apply_mask(~empty | (field > 0)).mean(other), cells.apply_mask(~empty | (field > 0)).mean(field)
        )
        np.testing.assert_array_equal(
            cells.reduce_cells(other, np.maximum, -np.inf), cells.reduce_cells(field, np.maximum, -np.inf)
        )
        found = cells.reduce_cells(torch.from_numpy(other), torch.minimum, np.inf).numpy()
        np.testing.assert_array_equal(found, cells.reduce_cells(field, np.minimum, np.inf))
    share = cells.apply_mask(np.ones(field.shape, bool)).valid_fraction
    np.testing.assert_allclose(share, 1, rtol=1e-14)
    np.testing.assert_array_equal(cells.apply_mask(empty).valid_fraction, 0)


@given(cases())
def test_empty_rows_and_columns_are_ignored_too(case):
    """Cells padded with parts of no measure: the operator of the parts that are left."""
    _, factor, cells, _, field, mask = case
    wide = Aggregation(
        np.insert(cells.y_fraction, np.arange(factor[0], cells.y_fraction.size + 1, factor[0]), 0.0),
        np.insert(cells.x_fraction, np.arange(factor[1], cells.x_fraction.size + 1, factor[1]), 0.0),
        factor[0] + 1, factor[1] + 1,
    )  # fmt: skip
    inside = np.ix_(wide.y_fraction > 0, wide.x_fraction > 0)
    padded, known = np.full(wide.fine_shape, np.nan), np.zeros(wide.fine_shape, bool)
    padded[inside], known[inside] = field, mask
    np.testing.assert_array_equal(wide.mean(padded), cells.mean(field))
    np.testing.assert_array_equal(wide.apply_mask(known).mean(padded), cells.apply_mask(mask).mean(field))
    np.testing.assert_array_equal(
        wide.reduce_cells(padded, np.maximum, -np.inf), cells.reduce_cells(field, np.maximum, -np.inf)
    )
    np.testing.assert_array_equal(wide.adjoint(cells.mean(field))[inside], cells.adjoint(cells.mean(field)))


def test_a_cell_without_area_takes_equal_shares():
    cells = Aggregation(np.full(2, 0.5), np.full(2, 0.5), 2, 2, area_fractions(np.zeros((2, 2)), 2, 2))
    assert cells.mean(np.array([[1.0, 2.0], [3.0, 6.0]])) == 3


def test_a_product_by_shares_is_the_product():
    lat, lon = CellAxis(np.array([0.0, 30, 90]), "latitude"), CellAxis(np.array([0.0, 10, 40]), "longitude")
    cells, fine = operator(RectilinearGrid(lat, lon), (3, 2))
    same = Aggregation(cells.y_fraction, cells.x_fraction, 3, 2, area_fractions(fine.cell_area, 3, 2))
    field = generator(1).standard_normal(fine.shape)
    np.testing.assert_allclose(same.mean(field), cells.mean(field), rtol=0, atol=1e-14)
