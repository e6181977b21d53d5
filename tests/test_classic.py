"""Textbook interpolation: constants stay, straight lines stay, and bilinear is what torch calls bilinear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import axes, factors, generator, longitudes, seeds

from downscale.grid.axis import FULL_CIRCLE, CellAxis
from downscale.kernels.classic import block_weights, cubic_weights, linear_weights

INTERPOLATIONS = {"linear": linear_weights, "cubic": cubic_weights}
both = pytest.mark.parametrize("weights", INTERPOLATIONS.values(), ids=INTERPOLATIONS.keys())


def matrix(weights, axis: CellAxis, factor: int) -> np.ndarray:
    period = FULL_CIRCLE if axis.periodic else None
    return weights(axis.centres, axis.refine(factor).centres, period).dense(axis.size)


def metres(cells: int) -> CellAxis:
    return CellAxis(np.arange(cells + 1.0), "projected")


@both
@given(axes(), factors)
def test_phase_law(weights, axis, factor):
    np.testing.assert_allclose(matrix(weights, axis, factor).sum(axis=1), 1.0, rtol=0, atol=1e-13)


@given(axes(), factors)
def test_linear_weights_are_those_of_numpy(axis, factor):
    """Constant beyond the outer centres of an open axis; on a circle the far centre is the neighbour."""
    field, sign = generator(axis.size).standard_normal(axis.size), 1 if axis.ascending else -1
    fine = axis.refine(factor).centres
    period = FULL_CIRCLE if axis.periodic else None
    expected = np.interp(sign * fine, sign * axis.centres, field, period=period)
    np.testing.assert_allclose(matrix(linear_weights, axis, factor) @ field, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (7, 6)])
@pytest.mark.parametrize("factor", [(1, 1), (2, 3), (4, 4), (5, 2)])
def test_bilinear_is_that_of_torch_up_to_the_edges(shape, factor):
    field = generator(0).standard_normal(shape)
    y, x = (matrix(linear_weights, metres(n), f) for n, f in zip(shape, factor, strict=True))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(field)[None, None], scale_factor=factor, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(y @ field @ x.T, theirs[0, 0].numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_bicubic_is_that_of_keys_in_torch_up_to_the_edges(factor):
    """Torch's bicubic has sharpness -0.75 and repeats the outer values too."""
    field = generator(0).standard_normal((6, 7))
    y, x = (
        cubic_weights(metres(n).centres, metres(n).refine(factor).centres, sharpness=-0.75).dense(n) for n in (6, 7)
    )
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(field)[None, None], scale_factor=factor, mode="bicubic", align_corners=False
    )
    np.testing.assert_allclose(y @ field @ x.T, theirs[0, 0].numpy(), rtol=0, atol=1e-13)


@given(axes(2), factors)
def test_linear_interpolation_reproduces_straight_lines_between_centres(axis, factor):
    fine = axis.refine(factor).centres
    inside = (fine >= axis.centres.min()) & (fine <= axis.centres.max())
    found = matrix(linear_weights, axis, factor) @ axis.centres
    scale = np.abs(axis.edges).max()
    np.testing.assert_allclose(found[inside], fine[inside], rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize(("degree", "margin"), [(1, 2), (2, 2)])
def test_cubic_convolution_reproduces_parabolas_on_equal_cells(degree, margin):
    axis = metres(9)
    fine = axis.refine(4).centres
    inside = (fine >= axis.centres[margin - 1]) & (fine <= axis.centres[-margin])
    found = matrix(cubic_weights, axis, 4) @ axis.centres**degree
    np.testing.assert_allclose(found[inside], fine[inside] ** degree, rtol=0, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(5, 14), factors, st.floats(0.0, 1.5), st.sampled_from([1.0, -1.0]))
def test_cubic_convolution_reproduces_parabolas_on_stretched_axes(seed, cells, factor, stretch, sign):
    """Straight lines above all: the usual weights, which take all steps for equal, bend them."""
    widths = np.exp(stretch * generator(seed).standard_normal(cells))
    axis = CellAxis(sign * np.append(0.0, np.cumsum(widths)), "projected")
    fine, scale = axis.refine(factor).centres, np.abs(axis.edges).max()
    inside = (np.abs(fine) >= abs(axis.centres[1])) & (np.abs(fine) <= abs(axis.centres[-2]))
    for degree in (1, 2):
        found = matrix(cubic_weights, axis, factor) @ axis.centres**degree
        np.testing.assert_allclose(found[inside], fine[inside] ** degree, rtol=0, atol=1e-9 * scale**degree)


@pytest.mark.parametrize("cells", [1, 2, 3, 9])
@pytest.mark.parametrize("sharpness", [-0.5, -0.75])
def test_cubic_convolution_of_equal_cells_is_that_of_keys(cells, sharpness):
    axis = metres(cells)
    fine = axis.refine(4).centres
    distance = np.abs(fine[:, None] - 0.5 - np.arange(-3.0, cells + 3))
    near = (sharpness + 2) * distance**3 - (sharpness + 3) * distance**2 + 1
    far = sharpness * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    keys = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    expected = np.stack([keys[:, :4].sum(axis=1), *keys[:, 4:-4].T, keys[:, -4:].sum(axis=1)], axis=1)
    if cells == 1:
        expected = keys.sum(axis=1, keepdims=True)
    found = cubic_weights(axis.centres, fine, sharpness=sharpness).dense(cells)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@both
@given(longitudes(1, 12), factors, seeds)
def test_rolling_a_circle_of_equal_cells_rolls_the_output(weights, axis, factor, seed):
    circle = CellAxis(axis.edges[0] + np.linspace(0, 360, axis.size + 1), "longitude")
    field, operator = generator(seed).standard_normal(axis.size), matrix(weights, circle, factor)
    np.testing.assert_allclose(operator @ np.roll(field, 1), np.roll(operator @ field, factor), rtol=0, atol=1e-11)


@both
@given(axes(), factors)
def test_reversing_the_axis_reverses_the_operator(weights, axis, factor):
    ours, other = matrix(weights, axis, factor), matrix(weights, axis.reverse(), factor)
    np.testing.assert_allclose(other[::-1, ::-1], ours, rtol=0, atol=1e-11)


@both
def test_values_at_centres_are_kept(weights):
    """Odd factors put a fine centre on every coarse one."""
    np.testing.assert_allclose(matrix(weights, metres(6), 3)[1::3], np.eye(6), rtol=0, atol=1e-14)


@both
def test_neither_keeps_the_cell_law(weights):
    field = generator(2).standard_normal(8)
    means = (matrix(weights, metres(8), 4) @ field).reshape(8, 4).mean(axis=1)
    assert np.abs(means - field).max() > 1e-2


@given(st.integers(1, 6), st.integers(1, 8))
def test_blocks_repeat_their_cell(factor, cells):
    np.testing.assert_array_equal(block_weights(factor, cells).dense(cells), np.repeat(np.eye(cells), factor, axis=0))
