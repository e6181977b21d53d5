"""The terrain-gradient penalty, and its refinement: lower slopes, the same cells, the same bits for any cut."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_fields import random_field as normal_field
from scipy.optimize import minimize
from strategies import cuttings, factor_pairs, generator, grids, irregular, longitudes, projected_axes, seeds

from downscale import sample
from downscale.engine.cut import cut_axis
from downscale.errors import OptionError
from downscale.fields.aggregate import Aggregation
from downscale.fields.conserve import bounded
from downscale.fields.gradient import Spacing, slope, sobel
from downscale.grid.axis import CellAxis, axis_from_bounds, axis_from_centres
from downscale.grid.latlon import RectilinearGrid
from downscale.losses.penalty import TerrainPenalty
from downscale.losses.terrain import TerrainRefinement, terrain_gradient_penalty
from downscale.nn.upsample import SobolevUpsample

random_field = partial(normal_field, mean=0.0, scale=1.0)
pytestmark = pytest.mark.usefixtures("one_thread")


def plane(rows: int, columns: int, step: float = 1.0) -> RectilinearGrid:
    return RectilinearGrid(*(CellAxis(np.arange(n + 1) * step, "projected") for n in (rows, columns)))


def world(rows: int, columns: int) -> RectilinearGrid:
    lat, lon = np.linspace(90, -90, rows + 1), np.linspace(0, 360, columns + 1)
    return RectilinearGrid(CellAxis(lat, "latitude"), CellAxis(lon, "longitude"))


def penalty_of(field, grid, allowed, mask=None) -> torch.Tensor:
    area = torch.from_numpy(grid.cell_area)
    return terrain_gradient_penalty(field, Spacing.of(grid), torch.as_tensor(allowed), area, mask)


# The penalty


@given(projected_axes(2), projected_axes(2), st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 4))
def test_a_plane_costs_the_square_of_what_is_too_steep(y, x, east, north, allowed):
    grid = RectilinearGrid(y, x)
    field = torch.from_numpy(east * grid.x_radians_or_metres + north * grid.y_metres[:, None])
    expected = max(0.0, np.hypot(east, north) - allowed) ** 2
    found = penalty_of(field, grid, torch.full(grid.shape, allowed, dtype=torch.float64))
    assert float(found) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@given(grids(), seeds, st.sampled_from([0.0, 0.3]))
def test_gentle_fields_cost_nothing(grid, seed, missing):
    field = random_field((2, *grid.shape), seed, missing)
    mask = torch.isfinite(field)
    steepest = slope(field.nan_to_num(0.0), Spacing.of(grid)).amax(0)
    assert float(penalty_of(field, grid, steepest * (1 + 1e-12), mask).max()) == 0.0
    assert float(penalty_of(torch.full_like(field, 7.0), grid, torch.zeros(grid.shape).double()).max()) == 0.0


@given(grids(), seeds)
def test_the_penalty_is_the_mean_by_area_one_value_a_map(grid, seed):
    field, allowed = random_field((2, 3, *grid.shape), seed), 0.3 * np.abs(generator(seed).standard_normal(grid.shape))
    excess = np.maximum(slope(field.numpy(), Spacing.of(grid)) - allowed, 0) ** 2
    expected = (excess * grid.cell_area).sum(axis=(-2, -1)) / grid.cell_area.sum()
    np.testing.assert_allclose(penalty_of(field, grid, allowed), expected, rtol=1e-12)


def test_areas_may_be_given_for_rows_alone():
    grid, field = world(5, 8), random_field((5, 8))
    rows, allowed = torch.from_numpy(grid.cell_area[:, :1]), torch.zeros(5, 8, dtype=torch.float64)
    found = terrain_gradient_penalty(field, Spacing.of(grid), allowed, rows)
    assert float(found) == pytest.approx(float(penalty_of(field, grid, allowed)), rel=1e-12, abs=0)


@pytest.mark.parametrize("grid", [plane(5, 6), world(4, 8)], ids=["plane", "world"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_the_penalty(grid, masked):
    """Heights scaled to the cells, so that slopes are of order one."""
    step = 1.0 if not grid.spherical else 3e6
    field = random_field((2, *grid.shape), 1) * step
    mask = torch.from_numpy(generator(2).uniform(size=grid.shape) < 0.95) if masked else None
    allowed = torch.full(grid.shape, 0.4, dtype=torch.float64)
    function = lambda f: penalty_of(f * step, grid, allowed, mask)  # noqa: E731
    point = (field / step).requires_grad_()
    assert torch.autograd.gradcheck(function, (point,))
    (derivative,) = torch.autograd.grad(function(point).sum(), point)
    assert float(derivative.abs().max()) > 1e-3


def test_a_flat_field_has_a_gradient():
    """The root of zero has none."""
    field = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    penalty_of(field, plane(4, 5), torch.zeros(4, 5).double()).backward()
    assert bool((field.grad == 0).all())


def test_stencils_that_touch_a_missing_cell_are_left_out():
    grid, field = plane(7, 8), random_field((7, 8), 3)
    mask = torch.ones(7, 8, dtype=torch.bool)
    mask[3, 4] = False
    allowed = torch.zeros(7, 8, dtype=torch.float64)
    kept = np.ones((7, 8), bool)
    kept[2:5, 3:6] = False
    expected = (slope(field.numpy(), Spacing.of(grid)) ** 2)[kept].mean()
    for hidden in (0.0, torch.nan, 1e30):
        found = penalty_of(torch.where(mask, field, hidden), grid, allowed, mask)
        assert float(found) == pytest.approx(expected, rel=1e-12, abs=0)


def test_missing_cells_reach_across_the_seam():
    grid, field = world(5, 8), random_field((5, 8), 4)
    mask = torch.ones(5, 8, dtype=torch.bool)
    mask[2, 0] = False
    allowed = torch.zeros(5, 8, dtype=torch.float64)
    found = penalty_of(field, grid, allowed, mask)
    assert float(penalty_of(torch.where(mask, field, 99.0), grid, allowed, mask)) == float(found)
    turned = penalty_of(field.roll(3, -1), grid, allowed, mask.roll(3, -1))
    assert float(turned) == pytest.approx(float(found), rel=1e-12, abs=0)


def test_all_missing_costs_nothing():
    mask = torch.zeros(3, 4, dtype=torch.bool)
    assert float(penalty_of(torch.full((3, 4), torch.nan).double(), plane(3, 4), torch.zeros(3, 4).double(), mask)) == 0


def test_relief_allows_its_own_slope():
    grid = plane(4, 5, 100.0)
    relief = torch.from_numpy(np.broadcast_to(0.2 * grid.x_radians_or_metres, grid.shape).copy())
    settings = TerrainPenalty(base_gradient=1e-5, ratio=6.5e-3)
    allowed = settings.allowed(relief, relief, Spacing.of(grid))
    np.testing.assert_allclose(allowed, 1e-5 + 6.5e-3 * 0.2, rtol=1e-12)
    np.testing.assert_allclose(settings.allowed(None, relief, Spacing.of(grid)), 1e-5, rtol=1e-12)
    # Temperature that falls with height by 6.5 K/km is as steep as the relief explains.
    assert float(penalty_of(288 - 6.5e-3 * relief, grid, allowed)) == 0
    assert float(penalty_of(288 - 9e-3 * relief, grid, allowed)) > 0


def test_relief_that_is_missing_at_sea_is_flat_there():
    relief = torch.tensor([[0.0, 0.0, 50.0, 80.0]] * 3, dtype=torch.float64)
    holes = torch.where(relief == 0, torch.nan, relief)
    settings, spacing = TerrainPenalty(1e-5, 1e-3), Spacing.of(plane(3, 4, 100.0))
    assert torch.equal(settings.allowed(holes, relief, spacing), settings.allowed(relief, relief, spacing))


# The refinement


class Case:
    """A coarse field on a grid, its Sobolev proposal, and everything that a refinement is given."""

    def __init__(self, grid, factor, coarse, orog=None, bounds=(None, None)):
        self.grid, self.factor, self.coarse, self.orog, self.bounds = grid, factor, coarse, orog, bounds
        self.fine = grid.refine(*factor)
        self.cells = Aggregation.between(grid, self.fine)
        self.proposal = SobolevUpsample(grid, factor)(coarse)
        if bounds != (None, None):
            self.proposal = bounded(self.proposal, coarse, self.cells.apply_mask(torch.isfinite(self.proposal)), bounds)

    def typical(self) -> float:
        """The median slope, so that half of the field is too steep."""
        return float(slope(self.proposal, Spacing.of(self.fine)).nanmedian().nan_to_num())

    def settings(self, iterations: int, weight: float = 3.0, ratio: float = 0.0) -> TerrainPenalty:
        return TerrainPenalty(self.typical(), ratio, weight, iterations)

    def refined(self, settings: TerrainPenalty) -> torch.Tensor:
        rows = np.arange(self.fine.y.size)
        refinement = TerrainRefinement(self.fine, self.cells, settings)
        return refinement(
            self.proposal, self.coarse, self.orog, self.cells, rows, refinement.spacing, self.bounds
        )

    def penalty(self, field, settings: TerrainPenalty) -> torch.Tensor:
        allowed = settings.allowed(self.orog, self.proposal, Spacing.of(self.fine))
        return penalty_of(field, self.fine, allowed, torch.isfinite(field))

    def objective(self, field, settings: TerrainPenalty) -> float:
        """``1/2 |y - y0|_a**2 + lambda P``, with lambda in units of the mean fine cell area times the valid area."""
        area, spacing = torch.from_numpy(self.fine.cell_area), Spacing.of(self.fine)
        valid = torch.isfinite(self.proposal)
        allowed = settings.allowed(self.orog, self.proposal, spacing)
        moved = torch.where(valid, field - self.proposal, 0.0)
        steep = torch.relu(slope(field.nan_to_num(0.0), spacing) - allowed)
        gap = (~valid).double()[..., None, :, :].reshape(-1, 1, *area.shape)
        gap = torch.cat([gap[..., -1:], gap, gap[..., :1]], -1) if spacing.periodic else gap
        gap = torch.nn.functional.max_pool2d(gap, 3, 1, (1, 0 if spacing.periodic else 1)).reshape(valid.shape)
        energy = 0.5 * moved**2 + settings.weight * area.mean() * steep**2 * (gap == 0)
        return float((area * energy).sum() / area.sum())


def sample_case() -> Case:
    """Near-surface temperature over North America on its relief, one year, without a corner."""
    field, relief = sample.open("north_america")["tas"][5], sample.open("north_america_relief")["orog"]
    axes = [
        axis_from_bounds(field[f"{name}_bnds"].values, kind) if f"{name}_bnds" in field.coords
        else axis_from_centres(field[name].values, kind) for name, kind in (("lat", "latitude"), ("lon", "longitude"))
    ]  # fmt: skip
    coarse = torch.from_numpy(field.values.astype(np.float64))
    coarse[:4, -5:] = torch.nan
    orog = torch.from_numpy(relief.values.astype(np.float64))
    return Case(RectilinearGrid(*axes), (4, 4), coarse, orog)


def world_case(seed: int = 0, missing: float = 0.1, bounds=(0.0, None)) -> Case:
    rough = random_field((6, 12), seed, missing).abs() * 1e-4
    return Case(world(6, 12), (3, 2), rough, None, bounds)


def unequal_case() -> Case:
    axes = (
        CellAxis(irregular(generator(seed), n, low, high), kind)
        for seed, n, low, high, kind in ((3, 6, 20, 80, "latitude"), (4, 9, 0, 360, "longitude"))
    )
    return Case(RectilinearGrid(*axes), (2, 3), random_field((6, 9), 5).abs() * 1e-4, None, (0.0, 3e-4))


CASES = {
    "sample": sample_case,
    "world of rain": world_case,
    "no bounds": lambda: world_case(1, 0.0, (None, None)),
    "unequal cells": unequal_case,
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


STEPPED = {
    "world": world(30, 60),
    "polar": RectilinearGrid(CellAxis(np.linspace(85, 90, 41), "latitude"), world(1, 30).x),
    "unequal": RectilinearGrid(
        CellAxis(irregular(generator(1), 12, -60, 80), "latitude"),
        CellAxis(irregular(generator(2), 20, -180, 180), "longitude"),
    ),
    "plane": plane(8, 8, 1e3),
}


@every
def test_refinement_lowers_the_penalty_and_keeps_cells_bounds_and_gaps(case):
    case = case()
    settings = case.settings(20, weight=30.0, ratio=2e-3)
    fine = case.refined(settings)
    assert float(case.penalty(fine, settings)) < 0.8 * float(case.penalty(case.proposal, settings))
    means = case.cells.apply_mask(torch.isfinite(fine)).mean(fine)
    torch.testing.assert_close(means, case.coarse, rtol=1e-10, atol=0, equal_nan=True)
    assert torch.equal(torch.isnan(fine), torch.isnan(case.proposal))
    low, high = case.bounds
    assert low is None or bool((fine[torch.isfinite(fine)] >= low).all())
    assert high is None or bool((fine[torch.isfinite(fine)] <= high).all())


@every
def test_no_iterations_change_nothing(case):
    case = case()
    fine = case.refined(case.settings(0))
    assert torch.equal(fine.nan_to_num(-7.0), case.proposal.nan_to_num(-7.0))


@every
def test_fields_that_are_gentle_enough_stay(case):
    case = case()
    settings = TerrainPenalty(base_gradient=1.0, weight=10.0, iterations=5)
    torch.testing.assert_close(case.refined(settings), case.proposal, rtol=1e-13, atol=1e-18, equal_nan=True)


@every
@pytest.mark.parametrize("weight", [0.3, 30.0])
def test_more_iterations_do_not_raise_the_objective(case, weight):
    case = case()
    counts = [0, 1, 2, 3, 5, 10, 20, 40, 80]
    values = [case.objective(case.refined(s), s) for s in (case.settings(n, weight) for n in counts)]
    for before, after in itertools.pairwise(values):
        assert after <= before * (1 + 1e-9)
    assert values[-1] < 0.99 * values[0]


@pytest.mark.parametrize("grid", STEPPED.values(), ids=STEPPED.keys())
@pytest.mark.parametrize("weight", [1.0, 100.0])
def test_steps_are_safe_at_every_latitude(grid, weight):
    """No field's curvature exceeds that of the metric of the steps: power iteration finds the worst one."""
    fine = grid.refine(2, 2)
    refinement = TerrainRefinement(fine, Aggregation.between(grid, fine), TerrainPenalty(0.0, weight=weight))
    area, spacing = torch.from_numpy(fine.cell_area), Spacing.of(fine)
    metric = area / torch.from_numpy(refinement._step)[:, None]
    field = random_field(fine.shape, 7).requires_grad_()
    for _ in range(60):
        east, north = sobel(field, spacing)
        energy = 0.5 * (area * field**2).sum() + refinement.strength * (area * (east**2 + north**2)).sum()
        (curvature,) = torch.autograd.grad(energy, field)
        worst = 2 * energy.item() / (metric * field**2).sum().item()
        field = (curvature / metric / curvature.abs().max()).detach().requires_grad_()
    assert 0.1 < worst <= 1


@pytest.mark.parametrize(("weight", "bounds", "end"), [(0.3, (0.0, None), 100), (300.0, (None, None), 300)])
def test_the_rate_is_that_of_safe_accelerated_steps(weight, bounds, end):
    """Beck and Teboulle: objective - optimum <= 2 |y0 - y*|**2 / (step (k + 1)**2), in the metric of the steps.

    Without momentum the gap is twice that after a hundred steps.
    """
    case = world_case(2, 0.0, bounds)
    best = case.refined(case.settings(end, weight))
    settings = case.settings(1, weight)
    refinement = TerrainRefinement(case.fine, case.cells, settings)
    metric = torch.from_numpy(case.fine.cell_area / refinement._step[:, None]) / float(case.fine.cell_area.sum())
    distance = float((metric * (best - case.proposal) ** 2).sum())
    optimum = case.objective(best, settings)
    for count in (1, 3, 10, 30, end // 3):
        gap = case.objective(case.refined(case.settings(count, weight)), settings) - optimum
        assert gap <= 2 * distance / (count + 1) ** 2


def test_the_end_is_the_optimum_of_a_general_solver():
    grid = RectilinearGrid(*(CellAxis(np.array([0.0, 1, 3]), "projected") for _ in "yx"))
    case = Case(grid, (2, 3), random_field((2, 2), 5).abs() * 3, None, (0.0, None))
    settings = TerrainPenalty(0.2, weight=1.0, iterations=400)
    shape, spacing, area = case.fine.shape, Spacing.of(case.fine), torch.from_numpy(case.fine.cell_area)
    allowed = settings.allowed(None, case.proposal, spacing)

    def objective(values):
        field = torch.tensor(values.reshape(shape), requires_grad=True)
        steep = torch.relu(slope(field, spacing) - allowed)
        energy = (area * (0.5 * (field - case.proposal) ** 2 + area.mean() * steep**2)).sum()
        energy.backward()
        return energy.item(), field.grad.numpy().ravel()

    law = {"type": "eq", "fun": lambda v: (case.cells.mean(v.reshape(shape)) - case.coarse.numpy()).ravel()}
    start = case.proposal.numpy().ravel() + 1e-3
    found = minimize(
        objective, start, jac=True, bounds=[(0, None)] * start.size, constraints=law, method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )  # fmt: skip
    assert found.success
    np.testing.assert_allclose(case.refined(settings).numpy().ravel(), found.x, rtol=0, atol=1e-5)


# Cuts


def block_of(case: Case, settings: TerrainPenalty, rows, columns) -> torch.Tensor:
    """The block's own cells, refined from nothing but what it holds."""
    refinement, (factor_y, factor_x) = TerrainRefinement(case.fine, case.cells, settings), case.factor
    fine_rows, fine_columns = rows.refinement.fine_cells(factor_y), columns.refinement.fine_cells(factor_x)
    held = np.ix_(fine_rows, fine_columns)
    closed = columns.refinement.is_whole and case.fine.x.periodic
    fine = refinement(
        case.proposal[..., *held],
        case.coarse[..., *np.ix_(rows.refinement.cells, columns.refinement.cells)],
        None if case.orog is None else case.orog[held],
        case.cells.window(rows.refinement.cells, columns.refinement.cells),
        fine_rows,
        refinement.spacing.window(fine_rows, fine_columns, closed),
        case.bounds,
    )
    return fine[..., rows.core.slice_in(rows.refinement, factor_y), columns.core.slice_in(columns.refinement, factor_x)]


def cuts(case: Case, settings: TerrainPenalty, row_chunks, column_chunks):
    halo = TerrainRefinement(case.fine, case.cells, settings).halo
    return itertools.product(
        cut_axis(row_chunks, False, 0, halo[0]), cut_axis(column_chunks, case.grid.x.periodic, 0, halo[1])
    )


def assert_blocks_equal_the_whole(case, settings, row_chunks, column_chunks):
    whole = case.refined(settings)
    for rows, columns in cuts(case, settings, row_chunks, column_chunks):
        own = np.ix_(rows.core.fine_cells(case.factor[0]), columns.core.fine_cells(case.factor[1]))
        block = block_of(case, settings, rows, columns)
        assert torch.equal(block.nan_to_num(-7.0), whole[..., *own].nan_to_num(-7.0))


@settings(max_examples=30)
@given(
    st.one_of(grids(1, 12), st.builds(RectilinearGrid, st.just(world(5, 1).y), longitudes(6, 12))),
    factor_pairs,
    st.sampled_from([0.0, 0.2]),
    st.sampled_from([(None, None), (0.0, None), (0.0, 1.0)]),
    st.data(),
)
def test_any_cut_gives_the_same_bits(grid, factor, missing, bounds, data):
    coarse = random_field((2, *grid.shape), data.draw(seeds), missing).abs()
    coarse = coarse if bounds[1] is None else coarse.clamp(0.0, 1.0)
    orog = random_field(grid.refine(*factor).shape, 1) * 1e3
    case = Case(grid, factor, coarse, orog, bounds)
    settings = case.settings(data.draw(st.integers(0, 3)), ratio=1e-9)
    assert_blocks_equal_the_whole(case, settings, data.draw(cuttings(grid.y.size)), data.draw(cuttings(grid.x.size)))


def test_blocks_of_the_sample_equal_the_whole():
    case = sample_case()
    assert_blocks_equal_the_whole(case, case.settings(4, ratio=2e-3), [9, 1, 27], [20, 29])


@pytest.mark.parametrize("factor", [(1, 1), (2, 3), (4, 1)])
def test_what_lies_beyond_the_halo_does_not_move_the_inside(factor):
    rng = generator(6)
    coarse = torch.from_numpy(rng.gamma(0.6, size=(20, 30)))
    case = Case(world(20, 30), factor, coarse, None, (0.0, None))
    settings = case.settings(3)
    rows, columns = next(itertools.islice(cuts(case, settings, [8, 3, 9], [1, 4, 25]), 3 + 1, None))
    far = torch.ones(case.grid.shape, dtype=torch.bool)
    far[np.ix_(rows.refinement.cells, columns.refinement.cells)] = False
    fine_far = far.repeat_interleave(factor[0], 0).repeat_interleave(factor[1], 1)
    other = Case(case.grid, factor, coarse, None, (0.0, None))
    other.coarse = torch.where(far, coarse * 5 + 1, coarse)
    other.proposal = torch.where(fine_far, case.proposal * 5 + 1, case.proposal)
    own = np.ix_(rows.core.fine_cells(factor[0]), columns.core.fine_cells(factor[1]))
    assert bool(far.any())
    before, after = case.refined(settings), other.refined(settings)
    assert torch.equal(after[*own], before[*own])
    assert not torch.equal(after, before)


# What is refused


@pytest.mark.parametrize("name", ["base_gradient", "ratio", "weight", "iterations"])
@pytest.mark.parametrize("value", [-1, np.nan])
def test_negative_settings(name, value):
    with pytest.raises(OptionError, match=f"terrain penalty {name} >= 0, received"):
        TerrainPenalty(**{"base_gradient": 0.0, name: value})


def test_iterations_are_whole():
    with pytest.raises(OptionError, match=r"terrain penalty iterations to be whole, received 2.5"):
        TerrainPenalty(0.0, iterations=2.5)
