"""Sobolev weights: the reference's, the laws for any edges, and a transposed convolution where cells are equal."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pytest
from conftest import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import kriging_system, periodic_conv_transpose, sobolev_matrix, sobolev_row
from strategies import axes, factors, generator, irregular, latitudes, odd_taps, orders, seeds

from downscale.errors import OptionError, ShapeError
from downscale.grid.axis import CellAxis
from downscale.kernels.sobolev import axis_weights, enforce_cell_conservation, usable_taps

REFERENCE = DATA.parent / "reference" / "axis_weights.py"


def operator(axis: CellAxis, factor: int, taps: int, order: float):
    """Weights along an axis as the package uses them, the fine axis, and the period."""
    fine = axis.refine(factor)
    period = 2 * np.pi if axis.periodic else None
    return axis_weights(axis.measure_edges, fine.measure_edges, taps, order, period), fine, period


def edges_of_kind(kind: str, cells: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "uniform":
        return np.arange(cells + 1.0)
    if kind == "descending":
        return -3.0 * np.arange(cells + 1.0)
    if kind == "sine":
        return np.sin(np.deg2rad(np.linspace(-90, 90, cells + 1)))
    return irregular(rng, cells, -1.0, 4.0)


def refined(edges: np.ndarray, factor: int) -> np.ndarray:
    return CellAxis(edges, "projected").refine(factor).edges


KINDS = ["uniform", "descending", "sine", "random"]


# The weights themselves


@settings(max_examples=15)
@given(axes(1, 12), st.integers(1, 4), odd_taps, orders)
def test_weights_are_those_of_the_oracle(axis, factor, taps, order):
    found, fine, period = operator(axis, factor, taps, order)
    expected = sobolev_matrix(axis.measure_edges, fine.measure_edges, taps, order, period)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.dense(axis.size), expected, rtol=0, atol=1e-8 * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taps", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("order", [0.75, 1.0, 1.25, 2.0, 3.0])
def test_weights_on_many_edges(kind, taps, order):
    rng = generator(taps)
    coarse = edges_of_kind(kind, 11, rng)
    fine = refined(coarse, 3)
    expected = sobolev_matrix(coarse, fine, taps, order)
    np.testing.assert_allclose(axis_weights(coarse, fine, taps, order).dense(11), expected, rtol=0, atol=1e-9)


def test_rows_that_differ_little_are_not_taken_for_equal():
    """Near the equator rows of a tenth of a degree differ in the fifth digit of their geometry only."""
    coarse = np.sin(np.deg2rad(np.linspace(-3, 3, 61)))
    fine = np.sin(np.deg2rad(np.linspace(-3, 3, 121)))
    expected = sobolev_matrix(coarse, fine)
    np.testing.assert_allclose(axis_weights(coarse, fine).dense(60), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("taps", "order"), [(3, 1.0), (5, 2.0), (7, 1.25), (9, 0.75)])
def test_weights_are_those_of_the_written_reference(kind, taps, order):
    if not REFERENCE.exists():
        pytest.skip(f"the reference weights are not at {REFERENCE}")
    spec = importlib.util.spec_from_file_location("reference_axis_weights", REFERENCE)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    coarse = edges_of_kind(kind, 14, generator(0))
    fine = refined(coarse, 4)
    weights, start = reference.axis_weights(coarse, fine, taps, order)
    found = axis_weights(coarse, fine, taps, order)
    np.testing.assert_array_equal(found.start, start)
    np.testing.assert_allclose(found.weights, weights, rtol=0, atol=1e-10)


@given(seeds, st.integers(4, 9), orders)
def test_no_other_weights_with_the_same_drift_predict_better(seed, count, order):
    """Kriging is optimal: among weights that reproduce the drift these have the least variance."""
    rng = generator(seed)
    edges = irregular(rng, count, 0.0, float(count))
    cells = list(itertools.pairwise(edges))
    part = (edges[2], 0.5 * (edges[2] + edges[3]))
    among, towards, drift, wanted = kriging_system(cells, part, order)
    best = axis_weights(edges, np.array([*edges[:3], part[1], *edges[3:]]), count + 1 - count % 2, order).weights[2]
    best = best if best.size == count else sobolev_row(cells, part, order)
    null = np.linalg.svd(drift.T)[2][drift.shape[1] :]

    def variance(weights):
        return weights @ among @ weights - 2 * weights @ towards

    np.testing.assert_allclose(drift.T @ best, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    for direction in rng.standard_normal((20, len(null))) @ null:
        assert variance(best + 0.1 * direction) > variance(best)


# The laws


@given(axes(1, 24), factors, odd_taps, st.sampled_from([0.75, 1.0, 1.25, 2.0]))
def test_phase_law_and_cell_law_hold_for_any_edges(axis, factor, taps, order):
    raw, fine, _ = operator(axis, factor, taps, order)
    shares = axis.fine_fractions(fine)
    found = enforce_cell_conservation(raw, shares)
    size = np.abs(found.weights).max()
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0, rtol=0, atol=1e-12 * size)
    back = (shares[:, None] * found.dense(axis.size)).reshape(axis.size, factor, axis.size).sum(axis=1)
    np.testing.assert_allclose(back, np.eye(axis.size), rtol=0, atol=1e-12)
    # What is enforced is rounding of the solve: no law is made by bending the weights.
    np.testing.assert_allclose(found.weights, raw.weights, rtol=0, atol=1e-8 * size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("period", [False, True])
def test_the_solve_alone_keeps_both_laws_away_from_the_poles(kind, period):
    edges = edges_of_kind(kind, 16, generator(5))
    fine = refined(edges, 4)
    weights = axis_weights(edges, fine, period=abs(edges[-1] - edges[0]) if period else None)
    np.testing.assert_allclose(weights.weights.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    shares = (np.diff(fine) / np.repeat(np.diff(edges), 4))[:, None]
    back = (shares * weights.dense(16)).reshape(16, 4, 16).sum(axis=1)
    np.testing.assert_allclose(back, np.eye(16), rtol=0, atol=1e-12)


@given(axes(1, 6), factors, st.sampled_from([1.25, 2.0, 3.25, 4.25]))
def test_short_axes_use_all_their_cells_and_keep_the_laws(axis, factor, order):
    """Also with fewer cells than drift terms, where one polynomial through all cells is left."""
    found, fine, period = operator(axis, factor, 9, order)
    assert found.taps == usable_taps(9, axis.size, period is not None) <= axis.size
    back = (axis.fine_fractions(fine)[:, None] * found.dense(axis.size)).reshape(axis.size, factor, -1).sum(axis=1)
    np.testing.assert_allclose(back, np.eye(axis.size), rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0, rtol=0, atol=1e-7)


def test_one_cell_is_spread_evenly():
    for period in (None, 3.0):
        weights = axis_weights([0.0, 3.0], [0.0, 1.0, 2.0, 3.0], period=period)
        np.testing.assert_allclose(weights.dense(1), np.ones((3, 1)), rtol=1e-14)


@pytest.mark.parametrize(("order", "degree"), [(1.25, 0), (1.75, 1), (2.25, 1), (2.75, 2)])
def test_polynomials_of_the_drift_are_reproduced(order, degree):
    """Averages of x**d over any cells give averages of x**d over their parts."""
    coarse = irregular(generator(3), 10, -1.0, 2.0)
    fine = refined(coarse, 3)
    matrix = axis_weights(coarse, fine, 7, order).dense(10)

    def averages(edges):
        return np.diff(edges ** (degree + 1)) / (degree + 1) / np.diff(edges)

    np.testing.assert_allclose(matrix @ averages(coarse), averages(fine), rtol=0, atol=1e-10)


@given(axes(3, 12), st.integers(1, 4), odd_taps)
def test_reversing_the_axis_reverses_the_operator(axis, factor, taps):
    ours = operator(axis, factor, taps, 1.25)[0].dense(axis.size)
    other = operator(axis.reverse(), factor, taps, 1.25)[0].dense(axis.size)
    np.testing.assert_allclose(other[::-1, ::-1], ours, rtol=0, atol=1e-8)


# Windows


@given(axes(1, 12), factors, odd_taps)
def test_windows_are_the_nearest_cells_and_stay_on_the_axis(axis, factor, taps):
    found, _, period = operator(axis, factor, taps, 1.25)
    parent = np.arange(axis.size * factor) // factor
    if period is None:
        assert found.start.min() >= 0
        assert (found.start + found.taps <= axis.size).all()
        centred = parent - found.taps // 2
        inside = (centred >= 0) & (centred + found.taps <= axis.size)
        np.testing.assert_array_equal(found.start[inside], centred[inside])
    else:
        np.testing.assert_array_equal(found.start, parent - found.taps // 2)
    assert (found.start <= parent).all()
    assert (parent < found.start + found.taps).all()


@pytest.mark.parametrize(
    ("cells", "closed", "expected"),
    [(9, False, 7), (7, True, 7), (6, False, 6), (6, True, 5), (5, True, 5), (2, True, 1), (1, False, 1), (1, True, 1)],
)
def test_taps_that_an_axis_supports(cells, closed, expected):
    assert usable_taps(7, cells, closed) == expected


# Uniform axes: a transposed convolution


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("taps", [1, 3, 5, 7])
def test_rows_of_a_uniform_axis_repeat_bit_for_bit(factor, taps):
    rows = axis_weights(np.arange(21) * 0.1, refined(np.arange(21) * 0.1, factor), taps).weights
    rows = rows.reshape(20, factor, taps)[taps // 2 : 20 - taps // 2]
    assert (rows == rows[0]).all()


def kernel_of(axis: CellAxis, factor: int, taps: int) -> np.ndarray:
    """The transposed-convolution kernel whose polyphase components are the rows of a uniform axis."""
    rows = operator(axis, factor, taps, 1.25)[0].weights.reshape(axis.size, factor, taps)[axis.size // 2]
    # Phase p of output cell i takes weight[p, t] from cell i - taps // 2 + t; a kernel reaches forward from its cell.
    return rows[:, ::-1].T.ravel()


@pytest.mark.parametrize("factor", [(2, 2), (4, 3), (3, 5)])
@pytest.mark.parametrize("taps", [3, 5, 7])
def test_the_operator_is_the_transposed_convolution_of_torch(factor, taps):
    """Kernel length taps * factor, stride factor: on circles everywhere, on open axes in the interior."""
    circle, line = CellAxis(np.linspace(0, 360, 13), "longitude"), CellAxis(np.arange(15.0), "projected")
    field = generator(taps).standard_normal((14, 12))
    kernels = kernel_of(line, factor[0], taps), kernel_of(circle, factor[1], taps)
    assert [len(k) for k in kernels] == [taps * f for f in factor]
    assert [k.sum() for k in kernels] == pytest.approx(factor, rel=1e-12, abs=0)
    rows, columns = operator(line, factor[0], taps, 1.25)[0], operator(circle, factor[1], taps, 1.25)[0]
    ours = rows.dense(14) @ field @ columns.dense(12).T
    theirs = periodic_conv_transpose(field, kernels, factor)
    edge = taps // 2 * factor[0]
    np.testing.assert_allclose(ours[edge:-edge], theirs[edge:-edge], rtol=0, atol=1e-12)
    # A torus of the kernel reads the far end where the open axis shifts its window inward.
    assert np.abs(ours[:edge] - theirs[:edge]).max() > 1e-3


@pytest.mark.parametrize("cells", [1, 2, 3, 8, 36])
def test_rolling_a_circle_rolls_the_output(cells):
    axis, factor = CellAxis(np.linspace(-180, 180, cells + 1), "longitude"), 3
    matrix = operator(axis, factor, 7, 1.25)[0].dense(cells)
    field = generator(cells).standard_normal(cells)
    np.testing.assert_allclose(matrix @ np.roll(field, 1), np.roll(matrix @ field, factor), rtol=0, atol=1e-12)


@given(latitudes(2), factors)
def test_dense_is_the_sum_over_windows(axis, factor):
    found = operator(axis, factor, 5, 1.25)[0]
    field = generator(1).standard_normal(axis.size)
    windows = field[(found.start[:, None] + np.arange(found.taps)) % axis.size]
    np.testing.assert_allclose(found.dense(axis.size) @ field, (found.weights * windows).sum(axis=1), atol=1e-12)


# What is refused


@pytest.mark.parametrize("taps", [0, 2, -1, 3.0, "7"])
def test_taps_that_are_not_odd(taps):
    with pytest.raises(OptionError, match="taps to be an odd whole number, received"):
        axis_weights(np.arange(9.0), np.arange(9.0), taps)


@pytest.mark.parametrize("order", [0.5, 0.0, -1.0, 1.5, 2.5, np.nan, np.inf])
def test_orders_without_a_power_covariance(order):
    with pytest.raises(OptionError, match=r"order above 0.5 and not 1.5, 2.5, ..., received"):
        axis_weights(np.arange(9.0), np.arange(9.0), 3, order)


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_fine_cells_outside_the_axis(shift):
    with pytest.raises(ShapeError, match="received fine cells outside the coarse axis"):
        axis_weights(np.arange(9.0), np.arange(0, 8.5, 0.5) + shift, 3)


@pytest.mark.parametrize("across", [[0.75, 1.25], [0.25, 1.25], [0.75, 1.75]])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_fine_cells_across_a_coarse_edge(across, sign):
    first, last = (sign * edge for edge in across)
    with pytest.raises(ShapeError, match=rf"one coarse cell, received \[{first}, {last}\] across a coarse edge"):
        axis_weights(sign * np.arange(4.0), sign * np.array([0, *across, 2.0, 3.0]), 3)
