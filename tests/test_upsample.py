"""Up-sampling on grids: laws on the sphere, missing cells, and halos that are as wide as claimed for any cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cuttings, factor_pairs, generator, grids, masks, seeds

from downscale.engine.cut import Cut, cut_axis
from downscale.errors import OptionError, ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.nn.separable import METHODS, factor_pair, operator
from downscale.nn.upsample import SobolevUpsample
from downscale.typing import Place, Upscaler

every = pytest.mark.parametrize("method", list(METHODS))
exact = pytest.mark.parametrize("method", ["sobolev", "conservative"])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The fields are tiny: handing them to several threads takes longer than the arithmetic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def world(rows: int = 9, columns: int = 12) -> RectilinearGrid:
    lat, lon = np.linspace(-90, 90, rows + 1), np.linspace(-180, 180, columns + 1)
    return RectilinearGrid(CellAxis(lat, "latitude"), CellAxis(lon, "longitude"))


def region(rows: int = 9, columns: int = 12) -> RectilinearGrid:
    lat, lon = 60 - np.arange(rows + 1) * 2.0, 5 + np.arange(columns + 1) * 2.5
    return RectilinearGrid(CellAxis(lat, "latitude"), CellAxis(lon, "longitude"))


def plane(rows: int, columns: int) -> RectilinearGrid:
    return RectilinearGrid(*(CellAxis(np.arange(n + 1) * 1e3, "projected") for n in (rows, columns)))


def random_field(shape, seed: int = 0, missing: float = 0.0) -> torch.Tensor:
    rng = generator(seed)
    field = torch.from_numpy(rng.standard_normal(shape) * 10 + 280)
    field[torch.from_numpy(rng.uniform(size=shape) < missing)] = torch.nan
    return field


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


@every
@given(grids(), factor_pairs, st.floats(-1e3, 1e3))
def test_phase_law(method, grid, factor, value):
    up = operator(method, grid, factor)
    fine = up(torch.full(grid.shape, value, dtype=torch.float64))
    assert "phase" in up.laws
    torch.testing.assert_close(fine, torch.full_like(fine, value), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize(("taps", "order"), [(1, 1.25), (3, 0.75), (5, 2.0), (9, 1.75)])
@pytest.mark.parametrize("grid", [world(), region(), plane(3, 20)], ids=["world", "region", "plane"])
def test_laws_hold_for_all_taps_and_orders(grid, taps, order):
    up, cells = SobolevUpsample(grid, (3, 2), taps, order), Aggregation.between(grid, grid.refine(3, 2))
    coarse = random_field(grid.shape)
    torch.testing.assert_close(cells.mean(up(coarse)), coarse, rtol=1e-12, atol=0.0)
    constant = up(torch.full_like(coarse, 7.0))
    torch.testing.assert_close(constant, torch.full_like(constant, 7.0), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_interpolation_does_not_keep_the_cell_law_and_does_not_say_so(method):
    grid = world()
    up, cells = operator(method, grid, 4), Aggregation.between(grid, grid.refine(4, 4))
    coarse = random_field(grid.shape)
    assert up.laws == {"phase"}
    assert float((cells.mean(up(coarse)) - coarse).abs().max()) > 0.1


@pytest.mark.parametrize("factor", [(2, 2), (4, 3)])
def test_bilinear_on_a_plane_is_that_of_torch(factor):
    coarse = random_field((2, 6, 7))
    theirs = torch.nn.functional.interpolate(coarse[None], scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(operator("bilinear", plane(6, 7), factor)(coarse), theirs[0], rtol=1e-13, atol=0.0)


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
@given(st.integers(1, 6), st.integers(1, 9), factor_pairs, st.integers(1, 8))
def test_rolling_longitude_rolls_the_output(method, rows, columns, factor, shift):
    grid = world(rows, columns)
    up, coarse = operator(method, grid, factor), random_field(grid.shape)
    torch.testing.assert_close(
        up(coarse.roll(shift, -1)), up(coarse).roll(shift * factor[1], -1), rtol=1e-12, atol=0.0
    )


@every
def test_operators_are_linear_and_batched(method):
    up = operator(method, world(), (2, 3))
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
    up, coarse = operator(method, world(), 3), random_field((9, 12))
    fine = up(coarse.float())
    assert fine.dtype == torch.float32
    torch.testing.assert_close(fine.double(), up(coarse), rtol=3e-6, atol=0.0)


# Missing cells


@every
@given(grids(), factor_pairs, seeds, st.data())
def test_missing_cells_stay_missing_and_no_other(method, grid, factor, seed, data):
    coarse = random_field((2, *grid.shape), seed)
    coarse[0, torch.from_numpy(~data.draw(masks(grid.shape)))] = torch.nan
    fine = operator(method, grid, factor)(coarse)
    assert torch.equal(torch.isnan(fine), repeated(torch.isnan(coarse), factor))


@exact
@given(grids(), factor_pairs, seeds, st.data())
def test_neighbours_of_missing_cells_keep_their_cell_law(method, grid, factor, seed, data):
    coarse = random_field(grid.shape, seed)
    coarse[torch.from_numpy(~data.draw(masks(grid.shape)))] = torch.nan
    cells = Aggregation.between(grid, grid.refine(*factor))
    fine = operator(method, grid, factor)(coarse)
    torch.testing.assert_close(cells.mean(fine), coarse, rtol=1e-12, atol=0.0, equal_nan=True)


@every
@given(grids(), factor_pairs, st.data())
def test_constants_stay_constant_beside_missing_cells(method, grid, factor, data):
    coarse = torch.full(grid.shape, 280.0, dtype=torch.float64)
    coarse[torch.from_numpy(~data.draw(masks(grid.shape)))] = torch.nan
    fine = operator(method, grid, factor)(coarse)
    torch.testing.assert_close(fine, repeated(coarse, factor), rtol=1e-12, atol=0.0, equal_nan=True)


@every
def test_holes_in_one_map_do_not_touch_another(method):
    up, coarse = operator(method, world(), 2), random_field((2, 9, 12))
    coarse[0, 3:6, 4:9] = torch.nan
    assert torch.equal(up(coarse)[1], up(coarse[1]))


@every
def test_coasts_are_filled_around_the_world(method):
    """With holes on both sides of the seam, turning the circle turns the output."""
    up, coarse = operator(method, world(5, 10), 2), random_field((5, 10), missing=0.4)
    for shift in range(10):
        torch.testing.assert_close(
            up(coarse.roll(shift, -1)), up(coarse).roll(2 * shift, -1), rtol=1e-12, atol=0.0, equal_nan=True
        )


@every
def test_coasts_are_filled_alike_from_all_sides(method):
    """Turning the map over turns the output over."""
    coarse = random_field((9, 12), 8, 0.4)
    ours = operator(method, region(), (2, 3))(coarse)
    over = RectilinearGrid(region().y.reverse(), region().x.reverse())
    other = operator(method, over, (2, 3))(coarse.flip(-1, -2)).flip(-1, -2)
    torch.testing.assert_close(other, ours, rtol=1e-11, atol=0.0, equal_nan=True)


# Halos


def block_of(up, coarse: torch.Tensor, rows: Cut, columns: Cut) -> torch.Tensor:
    """The block's own fine values, from nothing but the coarse cells it is given."""
    given_cells = coarse[..., rows.given.cells, :][..., columns.given.cells]
    place = Place(up.grid, up.grid.refine(*up.factor), rows.given.first, columns.given.first)
    fine = up(given_cells, place)
    return fine[..., rows.own.inside(rows.given, up.factor[0]), columns.own.inside(columns.given, up.factor[1])]


def cuts(up, row_chunks, column_chunks) -> itertools.product:
    halo = up.halo
    return itertools.product(
        cut_axis(row_chunks, False, halo[0]), cut_axis(column_chunks, up.grid.x.periodic, halo[1])
    )


@every
@settings(max_examples=40)
@given(grids(1, 14), factor_pairs, st.sampled_from([0.0, 0.3, 0.9]), st.data())
def test_any_cut_gives_the_same_bits(method, grid, factor, missing, data):
    up = operator(method, grid, factor, taps=data.draw(st.sampled_from([3, 5, 7])))
    coarse = random_field((2, *grid.shape), data.draw(seeds), missing)
    whole = up(coarse)
    for rows, columns in cuts(up, data.draw(cuttings(grid.y.size)), data.draw(cuttings(grid.x.size))):
        own = np.ix_(rows.own.fine_cells(factor[0]), columns.own.fine_cells(factor[1]))
        assert torch.equal(block_of(up, coarse, rows, columns).nan_to_num(-7.0), whole[..., *own].nan_to_num(-7.0))


@every
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_single_precision_blocks_give_the_same_bits_too(method, missing):
    up = operator(method, world(16, 40), (3, 2))
    coarse = random_field((16, 40), 3, missing).float()
    whole = up(coarse)
    for rows, columns in cuts(up, [5, 11], [1, 13, 26]):
        own = np.ix_(rows.own.fine_cells(3), columns.own.fine_cells(2))
        assert torch.equal(block_of(up, coarse, rows, columns).nan_to_num(-7.0), whole[*own].nan_to_num(-7.0))


@every
@pytest.mark.parametrize("outside", ["other values", "missing", "no longer missing"])
@pytest.mark.parametrize("grid", [world(30, 40), region(30, 40)], ids=["world", "region"])
def test_what_lies_beyond_the_halo_does_not_move_the_inside(method, outside, grid):
    up = operator(method, grid, 2, taps=5)
    coarse = random_field(grid.shape, 4, 0.2)
    before = up(coarse)
    rows, columns = cut_axis([13, 3, 14], False, up.halo[0])[1], cut_axis([2, 5, 33], grid.x.periodic, up.halo[1])[1]
    far = torch.ones(grid.shape, dtype=torch.bool)
    far[np.ix_(rows.given.cells, columns.given.cells)] = False
    assert bool(far.any())
    changed = {
        "other values": torch.where(far, coarse * -3 + 1e4, coarse),
        "missing": torch.where(far, torch.nan, coarse),
        "no longer missing": torch.where(far, coarse.nan_to_num(99.0), coarse),
    }[outside]
    own = np.ix_(rows.own.fine_cells(2), columns.own.fine_cells(2))
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
    up = operator(method, world(), (2, 4))
    assert isinstance(up, Upscaler)
    assert up.factor == (2, 4)
    assert up.multiple_of == 1
    assert "factor=(2, 4)" in repr(SobolevUpsample(world(), (2, 4)))


def test_a_place_at_the_origin_is_the_whole():
    up, coarse = SobolevUpsample(world(), 2), random_field((9, 12), 5, 0.3)
    here = up(coarse, Place(up.grid, up.grid.refine(2, 2)))
    assert torch.equal(here.nan_to_num(-7.0), up(coarse).nan_to_num(-7.0))


def test_fields_of_another_grid_are_refused():
    with pytest.raises(ShapeError, match=r"coarse field of \(9, 12\) cells, received \(2, 12, 9\)"):
        SobolevUpsample(world(), 2)(torch.zeros(2, 12, 9))


def test_methods_are_chosen_by_name():
    with pytest.raises(OptionError, match=r"method to be one of 'sobolev', .*'bicubic', received 'nearest'"):
        operator("nearest", world(), 2)


@pytest.mark.parametrize("factor", [0, -1, 2.5, (2, 0), ("2", 2)])
def test_factors_that_are_no_whole_numbers(factor):
    with pytest.raises(ShapeError, match="factor to be a whole number of at least 1"):
        operator("sobolev", world(), factor)


def test_one_factor_serves_both_axes():
    assert factor_pair(3) == (3, 3)
    assert factor_pair((3, 1)) == (3, 1)


@pytest.mark.parametrize(
    ("kernel", "match"), [({"taps": 4}, "odd whole number"), ({"order": 1.5}, "order above 0.5")]
)
def test_settings_that_make_no_kernel(kernel, match):
    with pytest.raises(OptionError, match=match):
        SobolevUpsample(world(), 2, **kernel)
