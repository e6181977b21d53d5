"""Up-sampling on grids: laws on the sphere, missing cells, and halos that are as wide as claimed for any cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_fields import plane, random_field, region, world
from strategies import factor_pairs, grids, masks, seeds

from downscale.engine.cut import cut_axis
from downscale.errors import OptionError, ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.nn.separable import METHODS, factor_pair, operator
from downscale.nn.upsample import SobolevUpsample
from downscale.typing import Place, Upscaler

pytestmark = pytest.mark.usefixtures("one_thread")
every = pytest.mark.parametrize("method", list(METHODS))
exact = pytest.mark.parametrize("method", ["sobolev", "conservative"])


def repeated(missing: torch.Tensor, factor) -> torch.Tensor:
    return missing.repeat_interleave(factor[0], -2).repeat_interleave(factor[1], -1)


# Laws


@exact
@given(grids(), factor_pairs, seeds)
def test_cell_law_and_total_law(method, grid, factor, seed):
    up, cells = operator(method, grid, factor), Aggregation.between(grid, grid.refine(*factor))
    coarse = random_field((2, *grid.shape), seed)
    fine = up(coarse)
    assert {"cell", "phase", "total"} <= up.laws
    torch.testing.assert_close(cells.mean(fine), coarse, rtol=1e-12, atol=0.0)
    total = (fine.numpy() * grid.refine(*factor).cell_area).sum(axis=(-2, -1))
    np.testing.assert_allclose(total, (coarse.numpy() * grid.cell_area).sum(axis=(-2, -1)), rtol=1e-12)


@pytest.mark.parametrize(("taps", "order"), [(1, 1.25), (3, 0.75), (5, 2.0), (9, 1.75)])
@pytest.mark.parametrize("grid", [world(9, 12), region(9, 12), plane(3, 20)], ids=["world", "region", "plane"])
def test_laws_hold_for_all_taps_and_orders(grid, taps, order):
    up, cells = SobolevUpsample(grid, (3, 2), taps, order), Aggregation.between(grid, grid.refine(3, 2))
    coarse = random_field(grid.shape)
    torch.testing.assert_close(cells.mean(up(coarse)), coarse, rtol=1e-12, atol=0.0)
    constant = up(torch.full_like(coarse, 7.0))
    torch.testing.assert_close(constant, torch.full_like(constant, 7.0), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_interpolation_does_not_keep_the_cell_law_and_does_not_say_so(method):
    grid = world(9, 12)
    up, cells = operator(method, grid, 4), Aggregation.between(grid, grid.refine(4, 4))
    coarse = random_field(grid.shape)
    assert up.laws == {"phase"}
    assert operator("conservative", grid, 4).laws == operator("sobolev", grid, 4).laws == {"cell", "phase", "total"}
    assert float((cells.mean(up(coarse)) - coarse).abs().max()) > 0.1


def test_blocks_are_copies():
    coarse = random_field((3, 4))
    fine = operator("conservative", plane(3, 4), (2, 3))(coarse)
    assert torch.equal(fine, repeated(coarse, (2, 3)))


def test_sobolev_is_nearer_to_a_smooth_field_than_the_others():
    """Averages of a wave over fine cells, from its averages over coarse ones (a value known in closed form)."""
    grid, factor = plane(20, 20), 4

    def averages(axis):
        return np.diff(-np.cos(axis.edges / 1500)) / np.diff(axis.edges / 1500)

    both = grid, grid.refine(factor, factor)
    coarse, fine = (torch.from_numpy(np.multiply.outer(averages(g.y), averages(g.x))) for g in both)
    errors = {method: float((operator(method, grid, factor)(coarse) - fine).square().mean()) for method in METHODS}
    assert errors["sobolev"] == min(errors.values())
    assert errors["sobolev"] < 0.5 * errors["bilinear"]


@every
def test_operators_are_linear_and_batched(method):
    up = operator(method, world(9, 12), (2, 3))
    one, other = random_field((9, 12), 1), random_field((9, 12), 2)
    torch.testing.assert_close(up(2 * one - 3 * other), 2 * up(one) - 3 * up(other), rtol=1e-12, atol=1e-10)
    both = up(torch.stack([one, other])[:, None])
    assert torch.equal(both[0, 0], up(one))
    assert torch.equal(both[1, 0], up(other))


@every
def test_gradients_flow(method):
    up = operator(method, region(3, 4), (2, 3))
    coarse = random_field((3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(up, (coarse,))
    coarse = random_field((3, 4))
    coarse[1, 1] = torch.nan
    kept = ~torch.isnan(up(coarse))
    assert torch.autograd.gradcheck(lambda c: up(c)[kept], (coarse.requires_grad_(),))


@every
def test_single_precision_in_single_precision_out(method):
    up, coarse = operator(method, world(9, 12), 3), random_field((9, 12))
    fine = up(coarse.float())
    assert fine.dtype == torch.float32
    torch.testing.assert_close(fine.double(), up(coarse), rtol=3e-6, atol=0.0)


# Missing cells


@exact
@given(grids(), factor_pairs, seeds, st.data())
def test_neighbours_of_missing_cells_keep_their_cell_law(method, grid, factor, seed, data):
    coarse = random_field(grid.shape, seed)
    coarse[torch.from_numpy(~data.draw(masks(grid.shape)))] = torch.nan
    cells = Aggregation.between(grid, grid.refine(*factor))
    fine = operator(method, grid, factor)(coarse)
    torch.testing.assert_close(cells.mean(fine), coarse, rtol=1e-12, atol=0.0, equal_nan=True)


# Halos


@every
@pytest.mark.parametrize("outside", ["other values", "missing", "no longer missing"])
@pytest.mark.parametrize("grid", [world(30, 40), region(30, 40)], ids=["world", "region"])
def test_what_lies_beyond_the_halo_does_not_move_the_inside(method, outside, grid):
    up = operator(method, grid, 2, taps=5)
    coarse = random_field(grid.shape, 4, 0.2)
    before = up(coarse)
    rows, columns = cut_axis([13, 3, 14], False, up.halo[0])[1], cut_axis([2, 5, 33], grid.x.periodic, up.halo[1])[1]
    far = torch.ones(grid.shape, dtype=torch.bool)
    far[np.ix_(rows.input.cells, columns.input.cells)] = False
    assert bool(far.any())
    changed = {
        "other values": torch.where(far, coarse * -3 + 1e4, coarse),
        "missing": torch.where(far, torch.nan, coarse),
        "no longer missing": torch.where(far, coarse.nan_to_num(99.0), coarse),
    }[outside]
    own = np.ix_(rows.core.fine_cells(2), columns.core.fine_cells(2))
    assert torch.equal(up(changed)[*own].nan_to_num(-7.0), before[*own].nan_to_num(-7.0))
    assert not torch.equal(up(changed).nan_to_num(-7.0), before.nan_to_num(-7.0))


@pytest.mark.parametrize(("method", "reach"), [("sobolev", 3), ("conservative", 0), ("bilinear", 1), ("bicubic", 2)])
def test_halos_are_no_wider_than_they_need_be(method, reach):
    """Twice the reach of a window, since missing neighbours are filled from theirs; open ends reach further inward."""
    up = operator(method, world(20, 30), 4)
    assert up.halo[1] == 2 * reach
    assert up.halo[0] == 2 * {"sobolev": 6, "bicubic": 3}.get(method, reach)


# The contract


@every
def test_all_are_upscalers(method):
    up = operator(method, world(9, 12), (2, 4))
    assert isinstance(up, Upscaler)
    assert up.factor == (2, 4)
    assert up.multiple_of == 1
    assert "factor=(2, 4)" in repr(SobolevUpsample(world(9, 12), (2, 4)))


def test_a_place_at_the_origin_is_the_whole():
    up, coarse = SobolevUpsample(world(9, 12), 2), random_field((9, 12), 5, 0.3)
    here = up(coarse, Place(up.grid, up.grid.refine(2, 2)))
    assert torch.equal(here.nan_to_num(-7.0), up(coarse).nan_to_num(-7.0))


def test_fields_of_another_grid_are_refused():
    with pytest.raises(ShapeError, match=r"coarse field of \(9, 12\) cells, received \(2, 12, 9\)"):
        SobolevUpsample(world(9, 12), 2)(torch.zeros(2, 12, 9))


def test_methods_are_chosen_by_name():
    with pytest.raises(OptionError, match=r"method to be one of 'sobolev', .*'bicubic', received 'nearest'"):
        operator("nearest", world(9, 12), 2)


@pytest.mark.parametrize("factor", [0, -1, 2.5, (2, 0), ("2", 2)])
def test_factors_that_are_no_whole_numbers(factor):
    with pytest.raises(ShapeError, match="factor to be a whole number of at least 1"):
        operator("sobolev", world(9, 12), factor)


def test_one_factor_serves_both_axes():
    assert factor_pair(3) == (3, 3)
    assert factor_pair((3, 1)) == (3, 1)


@pytest.mark.parametrize(
    ("kernel", "match"), [({"taps": 4}, "odd whole number"), ({"order": 1.5}, "order above 0.5")]
)
def test_settings_that_make_no_kernel(kernel, match):
    with pytest.raises(OptionError, match=match):
        SobolevUpsample(world(9, 12), 2, **kernel)
