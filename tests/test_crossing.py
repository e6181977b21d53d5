"""Projection on the means of coarse cells that cross fine ones: the nearest field, by area, within bounds too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import linprog

from downscale.errors import BoundsError
from downscale.fields.aggregate import Aggregation, SupermeshMean
from downscale.fields.conserve import additive, bounded, multiplicative
from downscale.fields.crossing import project_crossing
from downscale.grid.axis import CellAxis
from downscale.grid.subcells import Subcells

seeds = st.integers(0, 2**32 - 1)


def axis_pair(rng: np.random.Generator, cells: int, kind: str) -> tuple[CellAxis, CellAxis]:
    """A coarse axis, and a finer one of the same range whose edges lie anywhere."""
    low, high = {"latitude": (-60.0, 70.0), "longitude": (0.0, 360.0)}[kind]
    axes = []
    for count in (cells, cells * 3 + int(rng.integers(0, 3))):
        widths = rng.uniform(0.6, 1.4, count)
        axes.append(CellAxis(low + (high - low) * np.append(0.0, np.cumsum(widths) / widths.sum()), kind))
    return axes[0], axes[1]


def crossing_grids(seed: int, cells: tuple[int, int] = (3, 4)) -> tuple[SupermeshMean, np.ndarray]:
    """The means over coarse cells, and the same as a dense matrix of overlaps from the edges alone."""
    rng = np.random.default_rng(seed)
    pairs = [axis_pair(rng, n, kind) for n, kind in zip(cells, ("latitude", "longitude"), strict=True)]
    matrices = []
    for coarse, fine in pairs:
        edges = [np.sin(np.deg2rad(a.edges)) if a.kind == "latitude" else np.deg2rad(a.edges) for a in (coarse, fine)]
        low = np.maximum.outer(edges[0][:-1], edges[1][:-1])
        matrices.append(np.clip(np.minimum.outer(edges[0][1:], edges[1][1:]) - low, 0, None))
    dense = np.einsum("ij,kl->ikjl", *matrices)
    shape = dense.shape
    means = SupermeshMean.across(*(Subcells.between(*pair) for pair in pairs))
    return means, dense.reshape(shape[0] * shape[1], -1)


def fields(seed: int, cells: SupermeshMean, missing: float = 0.0, low: float | None = None) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed + 1)
    z = rng.standard_normal((cells.y.shape[1], cells.x.shape[1])) * 5
    x = cells.mean(rng.standard_normal(z.shape) * 5 + 1) if low is None else cells.mean(rng.gamma(0.6, 4.0, z.shape))
    z[rng.uniform(size=z.shape) < missing] = np.nan
    return z, x


@pytest.mark.parametrize("missing", [0.0, 0.3])
@given(seeds)
def test_it_is_the_weighted_least_squares_field(missing, seed):
    cells, overlaps = crossing_grids(seed)
    z, x = fields(seed, cells, missing)
    x[0, 0] = np.nan if missing else x[0, 0]
    found = project_crossing(z, x, cells)
    valid, imposed = np.isfinite(z).ravel(), np.isfinite(x).ravel()
    overlaps = overlaps[imposed][:, valid]
    weight = overlaps.sum(axis=0)
    inside = weight > 0
    overlaps, weight = overlaps[:, inside], weight[inside]
    residual = overlaps.sum(axis=1) * x.ravel()[imposed] - overlaps @ z.ravel()[valid][inside]
    whole = np.zeros((overlaps.shape[0], cells.y.shape[1] * cells.x.shape[1]))
    numbers = np.linalg.solve((overlaps / weight) @ overlaps.T, residual)
    expected = np.full(whole.shape[1], np.nan)
    expected[np.flatnonzero(valid)[inside]] = z.ravel()[valid][inside] + overlaps.T @ numbers / weight
    np.testing.assert_allclose(found.ravel(), expected, rtol=0, atol=1e-11)


def relative_error(y: np.ndarray, x: np.ndarray, cells: SupermeshMean) -> float:
    groups = cells.apply_mask(np.isfinite(y))
    scale = np.maximum(np.abs(x), groups.mean(np.nan_to_num(np.abs(y))))
    return float(np.nanmax(np.abs(groups.mean(np.nan_to_num(y)) - x) / np.where(scale > 0, scale, 1)))


@given(seeds)
def test_within_bounds_it_is_the_nearest_field(seed):
    """No small step that conserves all means and stays within the bounds comes nearer to the proposal."""
    cells, overlaps = crossing_grids(seed)
    z, x = fields(seed, cells, low=0.0)
    y = project_crossing(z, x, cells, (0.0, None))
    assert y.min() >= 0
    assert relative_error(y, x, cells) < 1e-12
    weight = overlaps.sum(axis=0)
    room = np.stack([-np.minimum(y.ravel(), 1.0), np.ones(y.size)], axis=1)
    best = linprog(weight * (y - z).ravel(), A_eq=overlaps, b_eq=np.zeros(len(overlaps)), bounds=room)
    assert best.status == 0
    assert best.fun > -1e-7 * (weight * np.abs(y - z).ravel()).sum()


@given(seeds, st.booleans())
def test_two_bounds_and_dry_cells(seed, dry):
    cells, _ = crossing_grids(seed, (4, 5))
    z, _ = fields(seed, cells)
    truth = np.random.default_rng(seed).uniform(0, 1, z.shape)
    x = cells.mean(truth)
    if dry:
        # A dry coarse cell leaves no water to the fine cells across its border.
        x[1, 1] = 0.0
    y = project_crossing(z, x, cells, (0.0, 1.0) if not dry else (0.0, None))
    assert relative_error(y, x, cells) < 1e-12
    assert y.min() >= 0
    if not dry:
        assert y.max() <= 1


@given(seeds)
def test_ratios_keep_zeros_and_signs(seed):
    cells, _ = crossing_grids(seed)
    z, x = fields(seed, cells, low=0.0)
    z = np.abs(z)
    z[::4, ::5] = 0.0
    y = project_crossing(z, x, cells, multiplicative=True)
    assert relative_error(y, x, cells) < 1e-12
    np.testing.assert_array_equal(y == 0, z == 0)
    assert y.min() >= 0


def test_a_coarse_cell_without_a_pattern_is_filled():
    cells, _ = crossing_grids(1)
    z, x = fields(1, cells, low=0.0)
    y = project_crossing(np.zeros(z.shape), x, cells, multiplicative=True)
    assert relative_error(y, x, cells) < 1e-12


@given(seeds)
def test_drizzle_beside_storms_has_full_relative_accuracy(seed):
    cells, overlaps = crossing_grids(seed, (4, 5))
    rng = np.random.default_rng(seed)
    x = 10.0 ** rng.uniform(-12, 2, (4, 5))
    z = rng.gamma(0.5, 40.0, (cells.y.shape[1], cells.x.shape[1]))
    # Drizzle on all sides of a storm can leave no fine cell to its water.
    least = np.where(overlaps > 0, x.reshape(-1, 1), np.inf).min(axis=0)
    parts = overlaps * least / (overlaps.sum(axis=1) * x.ravel())[:, None]
    assume(linprog(np.zeros(least.size), A_eq=parts, b_eq=np.ones(x.size)).status == 0)
    y = project_crossing(z, x, cells, (0.0, None))
    np.testing.assert_allclose(cells.mean(y), x, rtol=1e-12)
    assert y.min() >= 0


def nested_grids() -> tuple[SupermeshMean, Aggregation]:
    y, x = CellAxis(np.array([10.0, 14.0, 20.0]), "latitude"), CellAxis(np.array([0.0, 5.0, 9.0, 15.0]), "longitude")
    parts = Subcells.from_factor(y, 3), Subcells.from_factor(x, 2)
    return SupermeshMean.across(*parts), Aggregation(*(p.area_fraction for p in parts), 3, 2)


@pytest.mark.parametrize("name", ["additive", "bounded", "multiplicative"])
def test_on_nested_grids_the_constraints_agree(name):
    cells, plain = nested_grids()
    rng = np.random.default_rng(3)
    z, x = rng.gamma(1.0, 3.0, (6, 6)), rng.gamma(1.0, 3.0, (2, 3))
    z = z - 4 if name == "bounded" else z
    z[0, 0] = np.nan
    valid = torch.from_numpy(np.isfinite(z))
    theirs = {"additive": additive, "bounded": bounded, "multiplicative": multiplicative}[name](
        torch.from_numpy(z), torch.from_numpy(x), plain.apply_mask(valid)
    ).numpy()
    bounds = (0.0, None) if name == "bounded" else (None, None)
    ours = project_crossing(z, x, cells, bounds, multiplicative=name == "multiplicative")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


@given(seeds)
def test_it_is_idempotent(seed):
    cells, _ = crossing_grids(seed)
    z, x = fields(seed, cells)
    once = project_crossing(z, x, cells)
    np.testing.assert_allclose(project_crossing(once, x, cells), once, rtol=0, atol=1e-13)


def test_means_have_priority_where_no_field_within_the_bounds_has_them():
    """Every fine cell of the middle coarse cell touches a dry neighbour."""
    coarse, fine = CellAxis(np.arange(4.0), "projected"), CellAxis(np.array([0, 0.7, 1.5, 2.2, 3.0]), "projected")
    line = CellAxis(np.array([0.0, 1.0]), "projected")
    cells = SupermeshMean.across(Subcells.between(line, line), Subcells.between(coarse, fine))
    x = np.array([[0.0, 1.0, 0.0]])
    y = project_crossing(np.ones((1, 4)), x, cells, (0.0, None))
    np.testing.assert_allclose(cells.mean(y), x, rtol=0, atol=1e-12)
    assert y.min() < 0


def test_cells_without_a_coarse_value_become_missing():
    cells, _ = crossing_grids(5)
    z, x = fields(5, cells)
    x[:] = np.nan
    assert np.isnan(project_crossing(z, x, cells)).all()


def test_ratios_refuse_negative_values():
    cells, _ = crossing_grids(2)
    z, x = fields(2, cells, low=0.0)
    with pytest.raises(BoundsError, match="fine values >= 0 for the multiplicative constraint, received -"):
        project_crossing(z, x, cells, multiplicative=True)
    with pytest.raises(BoundsError, match="coarse values >= 0"):
        project_crossing(np.abs(z), x - 100, cells, multiplicative=True)
