"""Hard constraints: every cell gets its value back, bounds hold, nothing else moves, and gradients are right."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import bounded_cell
from sample_fields import region
from strategies import factor_pairs, generator, grids, masks, seeds

from downscale.errors import BoundsError, OptionError
from downscale.fields.aggregate import Aggregation, area_fractions
from downscale.fields.conserve import CONSTRAINTS, additive, bounded, constraint, multiplicative, softmax

NAMES = list(CONSTRAINTS)
BOUNDS = [(0.0, None), (None, 1.5), (0.0, 2.0), (-0.5, 0.75), (None, None)]
every = pytest.mark.parametrize("name", NAMES)


pytestmark = pytest.mark.usefixtures("one_thread")


def proposal(name: str, rng: np.random.Generator, shape) -> torch.Tensor:
    z = torch.from_numpy(rng.standard_normal(shape) * 2)
    return z.abs() * (z > -1) if name == "multiplicative" else z


def coarse_values(name: str, rng: np.random.Generator, shape) -> torch.Tensor:
    x = torch.from_numpy(rng.standard_normal(shape))
    return x if name == "additive" else x.abs() * (x > -1)


@st.composite
def cases(draw, max_cells=5):
    grid, factor = draw(grids(1, max_cells)), draw(factor_pairs)
    fine = grid.refine(*factor)
    mask = draw(st.one_of(st.none(), masks(fine.shape)))
    return Aggregation.between(grid, fine), grid.shape, fine.shape, mask, generator(draw(seeds))


def fields(name: str, case, lead=(2,)):
    cells, shape, fine_shape, mask, rng = case
    z, x = proposal(name, rng, (*lead, *fine_shape)), coarse_values(name, rng, (*lead, *shape))
    return z, x, cells, None if mask is None else torch.from_numpy(mask)


def some_parts(cells, mask, x) -> torch.Tensor:
    """Where a coarse cell has a valid part."""
    if mask is None:
        return torch.ones_like(x, dtype=torch.bool)
    return (cells.apply_mask(mask).valid_fraction > 0).expand(x.shape)


def law_error(y, x, cells, mask) -> float:
    """Largest error of a cell, relative to the larger of its value and the mean size of its parts."""
    error = (cells.apply_mask(mask).mean(y) - x).abs()
    size = torch.maximum(x.abs(), cells.apply_mask(mask).mean(y.abs()))
    judged = some_parts(cells, mask, x) & (size > 0)
    return float((error / size)[judged].max()) if bool(judged.any()) else 0.0


def small_cells(factor=(2, 3), shape=(2, 2)) -> Aggregation:
    rng = generator(0)
    shares = []
    for f, n in zip(factor, shape, strict=True):
        parts = rng.uniform(0.5, 1.5, (n, f))
        shares.append((parts / parts.sum(axis=1, keepdims=True)).ravel())
    return Aggregation(*shares, *factor)


# The cell law


@every
@given(cases())
def test_every_cell_gets_its_value_back(name, case):
    z, x, cells, mask = fields(name, case)
    y = CONSTRAINTS[name](z, x, cells.apply_mask(mask))
    assert law_error(y, x, cells, mask) < 1e-12


@pytest.mark.parametrize("bounds", BOUNDS)
@given(cases())
def test_bounded_keeps_the_cell_law_and_the_bounds_exactly(bounds, case):
    z, x, cells, mask = fields("bounded", case)
    low, high = (-np.inf if bounds[0] is None else bounds[0]), (np.inf if bounds[1] is None else bounds[1])
    x = x.clamp(low, high)
    y = bounded(z, x, cells.apply_mask(mask), bounds)
    valid = torch.ones_like(z, dtype=torch.bool) if mask is None else mask.expand(z.shape)
    assert bool(((y >= low) & (y <= high))[valid].all())
    assert law_error(y, x, cells, mask) < 1e-12


@every
@given(cases())
def test_constraints_are_idempotent(name, case):
    z, x, cells, mask = fields(name, case)
    once = CONSTRAINTS[name](z, x, cells.apply_mask(mask))
    again = CONSTRAINTS[name](once.log() if name == "softmax" else once, x, cells.apply_mask(mask))
    valid = torch.ones_like(z, dtype=torch.bool) if mask is None else mask.expand(z.shape)
    torch.testing.assert_close(again[valid], once[valid], rtol=1e-12, atol=1e-13)


@every
@given(cases())
def test_what_lies_under_the_mask_neither_moves_nor_matters(name, case):
    z, x, cells, mask = fields(name, case)
    if mask is None:
        mask = torch.ones(z.shape[-2:], dtype=torch.bool)
        mask[0, 0] = False
    y = CONSTRAINTS[name](z, x, cells.apply_mask(mask))
    for hidden in (torch.nan, 1e300, -1e300):
        other = CONSTRAINTS[name](torch.where(mask, z, hidden), x, cells.apply_mask(mask))
        assert torch.equal(other[..., mask], y[..., mask])
        covered = other[..., ~mask]
        assert bool((torch.isnan(covered) if np.isnan(hidden) else covered == hidden).all())


@every
@given(cases(), st.data())
def test_a_cell_does_not_depend_on_other_cells(name, case, data):
    """Bit for bit, so that no chunking can change a field; the exponential may differ by its last digit."""
    z, x, cells, mask = fields(name, case)
    rows, columns = (np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))) for n in x.shape[-2:])
    fine = np.ix_(*((part[:, None] * f + np.arange(f)).ravel() for part, f in (
        (rows, cells.factor_y), (columns, cells.factor_x))))  # fmt: skip
    whole = CONSTRAINTS[name](z, x, cells.apply_mask(mask))[..., *fine]
    window = cells.window(rows, columns)
    shown = None if mask is None else mask[fine]
    part = CONSTRAINTS[name](z[..., *fine], x[..., *np.ix_(rows, columns)], window.apply_mask(shown))
    tolerance = {"rtol": 1e-14, "atol": 0.0} if name == "softmax" else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(part, whole, **tolerance)


@every
@given(cases())
def test_a_mask_elsewhere_changes_no_bit_of_a_whole_cell(name, case):
    z, x, cells, mask = fields(name, case)
    mask = torch.zeros(z.shape[-2:], dtype=torch.bool) if mask is None else mask
    whole = cells.broadcast_to_fine(cells.reduce_cells(mask, torch.logical_and, True))
    masked, plain = (CONSTRAINTS[name](z, x, each) for each in (cells.apply_mask(mask), cells))
    assert torch.equal(masked[..., whole], plain[..., whole])


@every
def test_proposals_that_already_obey_stay(name):
    cells, rng = small_cells(), generator(1)
    z = proposal("multiplicative", rng, (3, 4, 6)) + 0.1
    y = CONSTRAINTS[name](z.log() if name == "softmax" else z, cells.mean(z), cells)
    torch.testing.assert_close(y, z, rtol=1e-14, atol=0.0)


@every
def test_cells_without_a_value_are_missing_and_others_are_not(name):
    cells, rng = small_cells(), generator(2)
    z, x = proposal(name, rng, (4, 6)), coarse_values(name, rng, (2, 2))
    x[0, 1] = torch.nan
    y = CONSTRAINTS[name](z, x, cells)
    missing = torch.from_numpy(cells.broadcast_to_fine(np.isnan(x.numpy())))
    assert bool(torch.isnan(y[missing]).all())
    assert bool(torch.isfinite(y[~missing]).all())


@every
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_single_precision_keeps_the_law_to_its_own_rounding(name, scale):
    cells, rng = small_cells((4, 4), (8, 8)), generator(3)
    z = proposal(name, rng, (32, 32)).float() * (1 if name == "softmax" else scale)
    x = coarse_values(name, rng, (8, 8)).float() * scale
    y = CONSTRAINTS[name](z, x, cells)
    assert y.dtype == torch.float32
    assert law_error(y.double(), x.double(), cells, None) < 1e-6


# Each constraint's own promise


@given(cases())
def test_additive_moves_each_cell_as_a_whole(case):
    z, x, cells, mask = fields("additive", case)
    moved = additive(z, x, cells.apply_mask(mask)) - z
    moved = moved if mask is None else torch.where(mask, moved, torch.nan)
    low = cells.reduce_cells(moved.nan_to_num(torch.inf), torch.minimum, torch.inf)
    high = cells.reduce_cells(moved.nan_to_num(-torch.inf), torch.maximum, -torch.inf)
    some = some_parts(cells, mask, x)
    torch.testing.assert_close(low[some], high[some], rtol=0, atol=1e-14)


@pytest.mark.parametrize("bumps", [0.0, 1e-14, 1e-9])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_small_cell_beside_large_ones_gets_its_value_and_not_their_rounding(bumps, kind):
    """A proposal that is flat, or nearly, leaves rounding only: that is all there is of a cell of zero."""
    rng = generator(5)
    area = rng.uniform(0.5, 1.5, (40, 60))
    cells = Aggregation(np.full(40, np.nan), np.full(60, np.nan), 2, 3, area_fractions(area, 2, 3))
    mask = torch.from_numpy(rng.uniform(size=area.shape) < 0.6)
    z = torch.as_tensor(1e9 * (1 + bumps * rng.normal(size=area.shape)), dtype=kind)
    x = torch.zeros(20, 20, dtype=kind)
    x[::2] = 1e-8
    for valid in (None, mask):
        y = additive(z, x, cells.apply_mask(valid))
        assert law_error(y, x, cells, valid) <= 32 * torch.finfo(kind).eps
        if bumps == 0:
            seen = torch.ones_like(mask) if valid is None else valid
            torch.testing.assert_close(y[seen], cells.broadcast_to_fine(x)[seen], rtol=0, atol=0)


def test_additive_is_the_orthogonal_projection():
    """What it adds is at right angles, by area, to every field whose cells are all zero."""
    cells, rng = small_cells(), generator(4)
    z, x = proposal("additive", rng, (4, 6)), coarse_values("additive", rng, (2, 2))
    zero = additive(proposal("additive", rng, (4, 6)), torch.zeros(2, 2, dtype=torch.float64), cells)
    area = torch.from_numpy(np.multiply.outer(cells.y_fraction, cells.x_fraction))
    assert abs(float((area * (additive(z, x, cells) - z) * zero).sum())) < 1e-14


@given(cases())
def test_multiplicative_keeps_sign_zeros_and_the_pattern(case):
    z, x, cells, mask = fields("multiplicative", case)
    y = multiplicative(z, x, cells.apply_mask(mask))
    valid = torch.ones_like(z, dtype=torch.bool) if mask is None else mask.expand(z.shape)
    shown = torch.where(valid, z, torch.zeros_like(z))
    flat = cells.broadcast_to_fine(cells.reduce_cells(shown, torch.maximum, -torch.inf) == 0)
    assert bool((y >= 0)[valid].all())
    assert bool((y == 0)[valid & (z == 0) & ~flat].all())
    torch.testing.assert_close(y[valid & flat], cells.broadcast_to_fine(x)[valid & flat], rtol=1e-14, atol=0.0)
    ratio = torch.where(valid & (z > 0) & ~flat, y / z, torch.nan)
    low, high = ratio.nan_to_num(torch.inf), ratio.nan_to_num(-torch.inf)
    low, high = cells.reduce_cells(low, torch.minimum, torch.inf), cells.reduce_cells(high, torch.maximum, -torch.inf)
    seen = torch.isfinite(low)
    torch.testing.assert_close(low[seen], high[seen], rtol=1e-14, atol=0.0)


@pytest.mark.parametrize(("kind", "size"), [(torch.float32, 1e-42), (torch.float64, 1e-320), (torch.float64, 1e300)])
def test_multiplicative_takes_proposals_of_any_size(kind, size):
    """A network's softplus gives denormals where it is dry: x / A z would be infinite."""
    cells = small_cells()
    z = torch.from_numpy(generator(5).uniform(0.5, 1.5, (4, 6))).to(torch.float64) * size
    x = torch.full((2, 2), 100.0, dtype=kind)
    y = multiplicative(z.to(kind), x, cells)
    assert bool(torch.isfinite(y).all())
    torch.testing.assert_close(cells.mean(y), x, rtol=1e-5 if kind == torch.float32 else 1e-12, atol=0.0)


@given(cases())
def test_softmax_is_positive_where_its_cell_is_and_ordered_like_the_proposal(case):
    z, x, cells, mask = fields("softmax", case)
    y = softmax(z, x, cells.apply_mask(mask))
    valid = torch.ones_like(z, dtype=torch.bool) if mask is None else mask.expand(z.shape)
    wet = cells.broadcast_to_fine(x > 0)
    assert bool((y > 0)[valid & wet].all())
    assert bool((y == 0)[valid & ~wet].all())
    # y exp(-z) is one number a cell.
    level = torch.where(valid & wet, y.log() - z, torch.nan)
    low, high = level.nan_to_num(torch.inf), level.nan_to_num(-torch.inf)
    low, high = cells.reduce_cells(low, torch.minimum, torch.inf), cells.reduce_cells(high, torch.maximum, -torch.inf)
    torch.testing.assert_close(low[torch.isfinite(low)], high[torch.isfinite(high)], rtol=0, atol=1e-12)


def test_softmax_takes_proposals_of_any_size():
    cells = small_cells()
    z = proposal("softmax", generator(6), (4, 6)) * 1e4
    x = torch.ones(2, 2, dtype=torch.float64)
    assert law_error(softmax(z, x, cells), x, cells, None) < 1e-12


# The bounded projection


@pytest.mark.parametrize("bounds", BOUNDS)
@given(cases(3))
def test_bounded_is_the_projection_of_the_oracle(bounds, case):
    z, x, cells, mask = fields("bounded", case, lead=())
    low, high = (-np.inf if bounds[0] is None else bounds[0]), (np.inf if bounds[1] is None else bounds[1])
    x = x.clamp(low, high)
    y = bounded(z, x, cells.apply_mask(mask), bounds).numpy()
    area = np.multiply.outer(cells.y_fraction, cells.x_fraction)
    for j, i in np.ndindex(*x.shape):
        part = np.s_[j * cells.factor_y : (j + 1) * cells.factor_y, i * cells.factor_x : (i + 1) * cells.factor_x]
        valid = np.ones(area[part].shape, bool) if mask is None else mask.numpy()[part]
        if valid.any():
            expected = bounded_cell(z.numpy()[part][valid], float(x[j, i]), area[part][valid], low, high)
            np.testing.assert_allclose(y[part][valid], expected, rtol=0, atol=1e-12)


@given(cases(), st.sampled_from(BOUNDS[:4]))
def test_bounded_meets_the_conditions_of_an_optimum(case, bounds):
    """KKT: one shift t a cell; parts at the lower bound have z + t <= lower, parts at the upper z + t >= upper."""
    z, x, cells, mask = fields("bounded", case)
    low, high = (-np.inf if bounds[0] is None else bounds[0]), (np.inf if bounds[1] is None else bounds[1])
    x = x.clamp(low, high)
    y = bounded(z, x, cells.apply_mask(mask), bounds)
    valid = torch.ones_like(z, dtype=torch.bool) if mask is None else mask.expand(z.shape)
    shift, infinite = y - z, torch.full_like(z, torch.inf)
    # Parts at a bound say only on which side of theirs the shift of the cell lies.
    at_most = cells.reduce_cells(torch.where(valid & (y < high - 1e-12), shift, infinite), torch.minimum, torch.inf)
    at_least = cells.reduce_cells(torch.where(valid & (y > low + 1e-12), shift, -infinite), torch.maximum, -torch.inf)
    assert bool((at_least <= at_most + 1e-12).all())


def test_bounded_beats_random_feasible_fields():
    cells, rng = small_cells(), generator(7)
    area = torch.from_numpy(np.multiply.outer(cells.y_fraction, cells.x_fraction))
    z, x = proposal("bounded", rng, (4, 6)), coarse_values("bounded", rng, (2, 2)) + 0.1

    def distance(field):
        return float((area * (field - z) ** 2).sum())

    best = distance(bounded(z, x, cells))
    for _ in range(50):
        other = multiplicative(torch.from_numpy(rng.gamma(0.5, size=(4, 6))) * bounded(z, x, cells), x, cells)
        assert distance(other) >= best


@pytest.mark.parametrize("tiny", [1e-3, 1e-12, 1e-20, 1e-30, 1e-300])
@pytest.mark.parametrize("size", [1.0, 1e6])
@pytest.mark.parametrize("bounds", [(0.0, None), (0.0, 100.0)])
def test_drizzle_keeps_its_relative_accuracy(tiny, size, bounds):
    """A proposal of order one leaves errors of 1e-16, all of a cell of 1e-20."""
    cells, rng = small_cells((4, 4), (6, 6)), generator(8)
    z = torch.from_numpy(rng.standard_normal((24, 24))) * size
    x = torch.from_numpy(rng.uniform(0.5, 1.5, (6, 6))) * tiny
    y = bounded(z, x, cells, bounds=bounds)
    torch.testing.assert_close(cells.mean(y), x, rtol=1e-9, atol=0.0)
    assert bool((y >= 0).all())


def test_cells_close_to_the_upper_bound_keep_the_law_too():
    cells, rng = small_cells(), generator(9)
    z, x = proposal("bounded", rng, (4, 6)) * 1e6, torch.full((2, 2), 1.0 - 1e-12, dtype=torch.float64)
    y = bounded(z, x, cells, bounds=(0.0, 1.0))
    assert bool((y <= 1).all())
    torch.testing.assert_close(cells.mean(y), x, rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("bounds", [(0.0, None), (0.1, None), (273.15, 300.0), (-2.0, 1.0), (None, 0.7), (0.1, 0.7)])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_dry_cells_are_exactly_dry(bounds, kind):
    cells, rng = small_cells((4, 3), (5, 5)), generator(10)
    z = torch.from_numpy(rng.standard_normal((20, 15)) * 50).to(kind)
    for bound in (b for b in bounds if b is not None):
        x = torch.full((5, 5), bound, dtype=kind)
        stored = tuple(None if b is None else float(torch.tensor(b, dtype=kind)) for b in bounds)
        y = bounded(z, x, cells, bounds=stored)
        assert bool((y == x[0, 0]).all())


@pytest.mark.parametrize("bounds", [(-0.5, 0.75), (0.0, 2.0), (0.0, None)])
@pytest.mark.parametrize("factor", [(3, 2), (1, 2), (8, 8)])
def test_none_of_many_cells_fails_to_converge(bounds, factor):
    """Between two bounds Newton's steps may run from end to end for ever: one cell in two thousand did."""
    cells, rng = small_cells(factor, (60, 60)), generator(14)
    z = torch.from_numpy(rng.standard_normal((60 * factor[0], 60 * factor[1])) * 2)
    x = torch.from_numpy(rng.uniform(bounds[0], 2 if bounds[1] is None else bounds[1], (60, 60)))
    assert law_error(bounded(z, x, cells, bounds=bounds), x, cells, None) < 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_proposals_of_very_unequal_parts_converge(seed):
    """Sizes over sixteen orders of magnitude, both bounds: Newton's steps alone would run to and fro."""
    cells, rng = small_cells((8, 8), (4, 4)), generator(seed)
    z = torch.from_numpy(rng.choice([-1, 1], (32, 32)) * 10.0 ** rng.uniform(-8, 8, (32, 32)))
    for bounds in ((0.0, None), (0.0, 1e3), (-1e-3, 1e-3)):
        high = 1e6 if bounds[1] is None else bounds[1]
        x = torch.from_numpy(rng.uniform(bounds[0], high, (4, 4)))
        y = bounded(z, x, cells, bounds=bounds)
        assert law_error(y, x, cells, None) < 1e-12
        area = np.multiply.outer(cells.y_fraction, cells.x_fraction)
        for j, i in np.ndindex(4, 4):
            part = np.s_[8 * j : 8 * j + 8, 8 * i : 8 * i + 8]
            top = np.inf if bounds[1] is None else bounds[1]
            expected = bounded_cell(z.numpy()[part].ravel(), float(x[j, i]), area[part].ravel(), bounds[0], top)
            # The proposal itself is known to 1e-8 only.
            np.testing.assert_allclose(y.numpy()[part].ravel(), expected, rtol=0, atol=1e-7)


# Gradients


def gradcheck(function, z, x) -> bool:
    return torch.autograd.gradcheck(function, (z.requires_grad_(), x.requires_grad_()), eps=1e-6, atol=1e-6)


@every
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_in_proposal_and_coarse_value(name, masked):
    cells, rng = small_cells(), generator(11)
    z, x = proposal(name, rng, (2, 4, 6)), coarse_values(name, rng, (2, 2, 2)) + 0.2
    z = z + 0.1 if name == "multiplicative" else z
    mask = torch.from_numpy(rng.uniform(size=(4, 6)) < 0.7) if masked else None
    shown = torch.ones(4, 6, dtype=torch.bool) if mask is None else mask
    assert gradcheck(lambda z, x: CONSTRAINTS[name](z, x, cells.apply_mask(mask))[..., shown], z, x)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_gradients_of_the_bounded_projection_for_all_bounds(bounds):
    cells, rng = small_cells(), generator(12)
    z, x = proposal("bounded", rng, (4, 6)), torch.from_numpy(rng.uniform(0.1, 0.7, (2, 2)))
    y = bounded(z, x, cells, bounds=bounds)
    assert bounds == (None, None) or any(bool((y == b).any()) for b in bounds if b is not None)
    assert gradcheck(lambda z, x: bounded(z, x, cells, bounds=bounds), z, x)


@every
def test_wholly_masked_cells_spoil_no_gradient(name):
    """0 times NaN is NaN: one ocean cell would stop the training of everything."""
    cells, rng = small_cells(), generator(13)
    mask = torch.from_numpy(rng.uniform(size=(4, 6)) < 0.6)
    mask[:2, :3] = False
    z, x = proposal(name, rng, (4, 6)), coarse_values(name, rng, (2, 2)) + 0.2
    for hidden in (0.0, 1e3, torch.nan):
        point = torch.where(mask, z, hidden).requires_grad_()
        value = x.clone().requires_grad_()
        y = CONSTRAINTS[name](point, value, cells.apply_mask(mask))
        torch.where(mask, y, torch.zeros_like(y)).square().sum().backward()
        assert bool(torch.isfinite(point.grad).all())
        assert bool(torch.isfinite(value.grad).all())
        assert bool((point.grad[~mask] == 0).all())
        assert float(value.grad[0, 0]) == 0
        assert float(value.grad.abs().max()) > 0


# What is refused


def flat(value: float) -> torch.Tensor:
    return torch.full((2, 2), value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("bounds", "value", "match"),
    [
        ((0.0, None), -0.25, r"coarse values within \[0, inf\], received -0.25 at cell \(1, 0\); widen the bounds or"),
        ((None, 1.0), 1.5, r"within \[-inf, 1\], received 1.5 at cell \(1, 0\)"),
        ((0.0, 1.0), 2.0, r"within \[0, 1\], received 2 at cell \(1, 0\)"),
    ],
)
def test_infeasible_cells_are_named(bounds, value, match):
    x = flat(0.5)
    x[1, 0] = value
    with pytest.raises(BoundsError, match=match):
        bounded(torch.zeros(4, 6, dtype=torch.float64), x, small_cells(), bounds=bounds)


@pytest.mark.parametrize(
    ("name", "role"), [("multiplicative", "coarse"), ("multiplicative", "fine"), ("softmax", "coarse")]
)
def test_negative_values_are_refused(name, role):
    z, x = torch.ones(4, 6, dtype=torch.float64), flat(1.0)
    (z if role == "fine" else x)[1, 1] = -2.0
    with pytest.raises(BoundsError, match=f"{role} values >= 0 for the {name} constraint, received -2; use 'additive'"):
        CONSTRAINTS[name](z, x, small_cells())


@pytest.mark.parametrize("name", ["multiplicative", "softmax", "bounded"])
def test_values_of_cells_without_valid_parts_bind_nothing(name):
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[:2, :3] = False
    x = flat(1.0)
    x[0, 0] = -999.0
    y = CONSTRAINTS[name](torch.ones(4, 6, dtype=torch.float64), x, small_cells().apply_mask(mask))
    torch.testing.assert_close(y[mask], torch.ones_like(y[mask]), rtol=1e-14, atol=0.0)


def test_constraints_are_chosen_by_name():
    assert [constraint(name) for name in NAMES] == list(CONSTRAINTS.values())
    with pytest.raises(OptionError, match=r"constraint among 'additive', .*'bounded', received 'positive'"):
        constraint("positive")


def test_bounds_are_combined_freely():
    """All four constraints share one signature."""
    z, x = torch.ones(4, 6, dtype=torch.float64), flat(1.0)
    for name, bounds in itertools.product(NAMES, [(0.0, None), (None, None)]):
        assert CONSTRAINTS[name](z, x, small_cells(), bounds).shape == z.shape


def test_a_missing_subcell_makes_its_whole_cell_missing_between_two_bounds():
    cells = Aggregation.between(region(2, 2), region(2, 2).refine(4, 4))
    z = torch.from_numpy(generator(1).random((8, 8)))
    z[1, 2] = torch.nan
    y = bounded(z, torch.full((2, 2), 0.5, dtype=torch.float64), cells, (0.0, 1.0))
    assert y[:4, :4].isnan().all()
    assert y[:4, 4:].isfinite().all()


def test_a_dry_cell_carries_no_gradient():
    cells = Aggregation.between(region(20, 20), region(20, 20).refine(4, 4))
    z = torch.from_numpy(generator(2).standard_normal((80, 80)))
    x = torch.zeros(20, 20, dtype=torch.float64, requires_grad=True)
    bounded(z, x, cells, (0.0, None)).square().sum().backward()
    assert (x.grad == 0).all()
