"""Losses cell by cell, of slopes, of kernels and of cell means: against sums written out, with gaps and ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import generator, grids, seeds

from downscale.errors import OptionError, ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.fields.gradient import Spacing, sobel
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.losses.penalty import TerrainPenalty
from downscale.losses.pointwise import huber, mae, mse, weighted_mean
from downscale.losses.spatial import kernel_smoothness, sobolev_loss, soft_closure, steepness
from downscale.losses.terrain import terrain_gradient_penalty

pytestmark = pytest.mark.usefixtures("one_thread")
POINTWISE = {
    "mse": (mse, lambda e: e**2),
    "mae": (mae, abs),
    "huber": (lambda *a: huber(*a, delta=0.7), lambda e: e**2 / 2 if abs(e) <= 0.7 else 0.7 * (abs(e) - 0.35)),
}


def plane(rows: int, columns: int, step: float = 1000.0) -> RectilinearGrid:
    return RectilinearGrid(*(CellAxis(np.arange(n + 1) * step, "projected") for n in (rows, columns)))


def world(rows: int, columns: int) -> RectilinearGrid:
    lat, lon = np.linspace(90, -90, rows + 1), np.linspace(0, 360, columns + 1)
    return RectilinearGrid(CellAxis(lat, "latitude"), CellAxis(lon, "longitude"))


def case(shape: tuple[int, ...], seed: int, missing: float = 0.3):
    """Prediction, target with NaN, weights with zeros."""
    rng = generator(seed)
    made, true, weight = rng.standard_normal(shape), rng.standard_normal(shape), rng.uniform(0.2, 2, shape[-2:])
    true[rng.uniform(size=shape) < missing] = np.nan
    weight[rng.uniform(size=shape[-2:]) < missing / 2] = 0.0
    return tuple(torch.from_numpy(part) for part in (made, true, weight))


def by_hand(made, true, weight, error_of) -> float:
    total = share = 0.0
    for index in np.ndindex(made.shape):
        w, e = float(weight[index[-2:]]), float(made[index] - true[index])
        if w > 0 and not np.isnan(e):
            total, share = total + w * error_of(e), share + w
    return total / share if share else 0.0


@pytest.mark.parametrize("name", POINTWISE)
@given(seed=seeds, missing=st.sampled_from([0.0, 0.3, 1.0]))
def test_losses_are_means_by_area_over_what_is_there(name, seed, missing):
    loss, error_of = POINTWISE[name]
    fields = case((2, 3, 4, 5), seed, missing)
    assert float(loss(*fields)) == pytest.approx(by_hand(*fields, error_of), rel=1e-12, abs=0)


@pytest.mark.parametrize("name", POINTWISE)
def test_what_is_not_counted_moves_nothing(name):
    made, true, weight = case((2, 4, 5), 3)
    out = torch.isnan(true) | (weight == 0)
    assert bool(out.any())
    poisoned = torch.where(out, torch.nan, made).requires_grad_()
    # Under the mask of weights a target may be there or be infinite.
    masked = torch.where(weight == 0, true.nan_to_num(1.0), true)
    masked[0] = torch.where(weight == 0, torch.inf, true[0])
    loss = POINTWISE[name][0](poisoned, masked, weight)
    assert float(loss.detach()) == float(POINTWISE[name][0](made, true, weight))
    loss.backward()
    assert bool((poisoned.grad[out] == 0).all())
    assert bool((poisoned.grad[~out] != 0).all())


@pytest.mark.parametrize("name", POINTWISE)
def test_a_prediction_gone_wrong_is_seen(name):
    made, true, weight = (part.clone() for part in case((4, 5), 3, 0.0))
    made[1, 1] = torch.nan
    assert bool(POINTWISE[name][0](made, true, weight).isnan())


@pytest.mark.parametrize("name", POINTWISE)
def test_derivatives(name):
    made, true, weight = case((2, 4, 5), 5)
    made.requires_grad_()
    assert torch.autograd.gradcheck(lambda field: POINTWISE[name][0](field, true, weight), (made,))


@pytest.mark.parametrize("name", POINTWISE)
def test_ties_have_derivative_zero(name):
    same = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    POINTWISE[name][0](same, same.detach()).backward()
    assert bool((same.grad == 0).all())


def test_weights_have_no_unit_even_in_single_precision():
    made, true, weight = (part.float() for part in case((4, 5), 7, 0.0))
    assert float(mse(made, true, weight * 1e37)) == pytest.approx(float(mse(made, true, weight)), rel=1e-6)


def test_half_precision_is_summed_in_single():
    ones = torch.ones(300, 300, dtype=torch.bfloat16)
    loss = mse(ones * 2, ones)
    assert loss.dtype == torch.float32
    assert float(loss) == 1.0


def test_nothing_to_compare_is_no_loss():
    field = torch.zeros(2, 3, requires_grad=True)
    mse(field, torch.full((2, 3), torch.nan)).backward()
    assert bool((field.grad == 0).all())
    assert float(weighted_mean(torch.zeros(0), torch.zeros(0))) == 0.0


@pytest.mark.parametrize("delta", [0.0, -1.0, float("nan")])
def test_huber_needs_a_delta(delta):
    with pytest.raises(OptionError, match=r"expected Huber delta > 0, received"):
        huber(torch.zeros(1, 1), torch.zeros(1, 1), delta=delta)


# Slopes


def slopes_by_hand(error: np.ndarray, valid: np.ndarray, weight: np.ndarray, grid: RectilinearGrid, squares) -> float:
    """Mean of a function of the gradient over cells whose nine neighbours count."""
    rows, columns = grid.shape
    east, north = sobel(np.where(valid, error, 0.0), Spacing.of(grid))
    total = share = 0.0
    for i, j in np.ndindex(rows, columns):
        near = [(a, b) for a in (i - 1, i, i + 1) for b in (j - 1, j, j + 1)]
        if grid.x.periodic:
            near = [(a, b % columns) for a, b in near]
        if all(valid[a, b] for a, b in near if 0 <= a < rows and 0 <= b < columns):
            total, share = total + weight[i, j] * squares(np.hypot(east[i, j], north[i, j])), share + weight[i, j]
    return total / share if share else 0.0


@given(grids(3), seeds, st.sampled_from([0.0, 0.05, 0.3]), st.floats(0, 2))
def test_the_sobolev_loss_is_values_and_slopes(grid, seed, missing, values):
    made, true, weight = case(grid.shape, seed, missing)
    length = 5e4
    valid = (torch.isfinite(true) & (weight > 0)).numpy()
    error = np.where(valid, (made - true).numpy(), 0.0)
    slopes = slopes_by_hand(error, valid, weight.numpy(), grid, lambda g: (length * g) ** 2)
    expected = values * by_hand(made, true, weight, lambda e: e**2) + slopes
    found = sobolev_loss(made, true, weight, spacing=Spacing.of(grid), length=length, values=values)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_default_length_makes_a_slope_of_a_cell_an_error():
    grid = plane(6, 7, 250.0)
    inclined = torch.from_numpy(np.broadcast_to(np.arange(7.0), grid.shape).copy())
    found = sobolev_loss(inclined, torch.zeros_like(inclined), spacing=Spacing.of(grid), values=0.0)
    assert float(found) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("grid", [plane(5, 6), world(4, 8)], ids=["plane", "world"])
def test_derivative_of_the_sobolev_loss(grid):
    made, true, weight = case((2, *grid.shape), 2, 0.05)
    made.requires_grad_()
    loss = lambda field: sobolev_loss(field, true, weight, spacing=Spacing.of(grid))  # noqa: E731
    assert torch.autograd.gradcheck(loss, (made,))


def test_patches_of_several_latitudes_have_their_own_spacing():
    whole = world(12, 16)
    columns = np.arange(5)
    parts = [Spacing.of(whole).window(np.arange(row, row + 4), columns, closed=False) for row in (0, 5)]
    made, true, _ = case((2, 1, 4, 5), 4, 0.0)
    dy, dx, area = (
        np.stack([np.broadcast_to(getattr(part, name), part.dx.shape) for part in parts])[:, None]
        for name in ("dy_cells", "dx", "area")
    )
    both = sobolev_loss(made, true, spacing=Spacing(dy, dx, area, False), length=1e6)
    alone = [sobolev_loss(made[i], true[i], spacing=part, length=1e6) for i, part in enumerate(parts)]
    assert float(both) == pytest.approx(float(sum(alone)) / 2, rel=1e-12)
    assert float(alone[0]) != pytest.approx(float(alone[1]), rel=1e-2)


@pytest.mark.parametrize("option", ["length", "values"])
def test_sobolev_settings_are_not_negative(option):
    zero = torch.zeros(4, 4)
    with pytest.raises(OptionError, match=f"expected Sobolev loss {option} >= 0, received -1"):
        sobolev_loss(zero, zero, spacing=Spacing.of(plane(4, 4)), **{option: -1.0})


@given(grids(3), seeds, st.booleans())
def test_steepness_is_the_terrain_gradient_penalty(grid, seed, gaps):
    made, true, weight = case(grid.shape, seed, 0.05 if gaps else 0.0)
    area = torch.from_numpy(grid.cell_area)
    mask = torch.isfinite(true) & (weight > 0)
    orog = 1e3 * torch.from_numpy(generator(seed).uniform(size=grid.shape))
    spacing = Spacing.of(grid)
    allowed = TerrainPenalty(1e-7, 1e-3).allowed(orog, made, spacing)
    expected = terrain_gradient_penalty(made, spacing, allowed, area, mask)
    found = steepness(made, true, area * mask, spacing=spacing, allowed_slope=allowed)
    assert float(found) == pytest.approx(float(expected), rel=1e-9, abs=1e-300)
    doubled = steepness(made, true, area * mask, spacing=spacing, allowed_slope=allowed, scale=2.0)
    assert float(doubled) == pytest.approx(float(found) / 4, rel=1e-12, abs=1e-300)


# Kernels


@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_smoothness_is_the_quadratic_form_of_the_laplacian(seed, rows, columns):
    """With the matrix written out: degree minus neighbours."""
    places = list(np.ndindex(rows, columns))
    adjacent = np.array([[float(abs(a - c) + abs(b - d) == 1) for c, d in places] for a, b in places])
    laplacian = np.diag(adjacent.sum(1)) - adjacent
    kernels = generator(seed).standard_normal((3, 2, rows, columns))
    expected = np.mean([w.ravel() @ laplacian @ w.ravel() for w in kernels.reshape(-1, rows, columns)])
    found = float(kernel_smoothness([torch.from_numpy(kernels)]))
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert found <= 8 * (kernels**2).sum() / 6 + 1e-12


def test_derivative_of_smoothness():
    kernels = torch.from_numpy(generator(1).standard_normal((2, 1, 3, 4))).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: kernel_smoothness([w, w[:1, :, 1:]]), (kernels,))


@pytest.mark.parametrize(("kernels", "words"), [([], "received none"), ([torch.ones(3)], r"received \(3,\)")])
def test_smoothness_needs_kernels(kernels, words):
    with pytest.raises(ShapeError, match=words):
        kernel_smoothness(kernels)


# Cell means


@given(grids(2, 4), seeds, st.sampled_from([0.0, 0.3, 0.8]), st.integers(1, 3), st.integers(1, 3))
def test_closure_is_the_mean_square_of_what_cells_lack(coarse_grid, seed, missing, factor_y, factor_x):
    fine = coarse_grid.refine(factor_y, factor_x)
    cells, area = Aggregation.between(coarse_grid, fine), fine.cell_area
    made, true, weight = case((2, *fine.shape), seed, missing)
    weight = torch.from_numpy(area) * (weight > 0)
    x = generator(seed).standard_normal((2, *coarse_grid.shape))
    x[generator(seed).uniform(size=x.shape) < missing / 2] = np.nan
    total = share = 0.0
    for m, i, j in np.ndindex(x.shape):
        part = (m, slice(i * factor_y, (i + 1) * factor_y), slice(j * factor_x, (j + 1) * factor_x))
        w = (weight[part[1:]] * torch.isfinite(true[part])).numpy()
        if w.sum() > 0 and np.isfinite(x[m, i, j]):
            gap = (w * made[part].numpy()).sum() / w.sum() - x[m, i, j]
            total, share = total + w.sum() * gap**2, share + w.sum()
    found = soft_closure(made, true, weight, coarse=torch.from_numpy(x), cells=cells)
    assert float(found) == pytest.approx(total / share if share else 0.0, rel=1e-9, abs=1e-12)
    means = cells.apply_mask(torch.isfinite(true) & (weight > 0)).mean(made)
    exact = soft_closure(made, true, weight, coarse=means, cells=cells)
    assert float(exact) < 1e-25


def test_derivative_of_closure():
    coarse_grid = plane(2, 3)
    fine = coarse_grid.refine(2, 2)
    made, true, weight = case(fine.shape, 3)
    true[:2, :2] = torch.nan
    made.requires_grad_()
    x = torch.from_numpy(generator(8).standard_normal((2, 3)))
    cells = Aggregation.between(coarse_grid, fine)
    loss = lambda field: soft_closure(field, true, weight, coarse=x, cells=cells)  # noqa: E731
    assert torch.autograd.gradcheck(loss, (made,))
    with pytest.raises(ShapeError, match=r"expected coarse values of shape \(..., 2, 3\), received \(3, 2\)"):
        soft_closure(made, true, weight, coarse=x.T, cells=cells)
