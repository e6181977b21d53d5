"""Coverage: predicted from sizes alone, and the same as what a transposed convolution of ones makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from downscale.errors import ShapeError
from downscale.kernels.coverage import Coverage, nearest_divisible, require_no_holes, taps_of_phases, variation
from downscale.kernels.laws import same_padding

SIZES = [(k, s) for k in range(2, 13) for s in range(2, 7)]


def of_ones(kernel_size: int, stride: int, padding: int, cells: int, extra: int = 0) -> np.ndarray:
    """What torch makes of ones with a kernel of ones: the counts of taps."""
    ones, kernel = torch.ones(1, 1, cells), torch.ones(1, 1, kernel_size)
    made = torch.nn.functional.conv_transpose1d(ones, kernel, None, stride, padding, extra)
    return made[0, 0].numpy().astype(int)


@pytest.mark.parametrize(("kernel_size", "stride"), SIZES)
def test_the_predicted_variation_is_the_measured_one(kernel_size, stride):
    # Far from both ends, and over whole periods.
    inside = of_ones(kernel_size, stride, 0, 30)[5 * stride + kernel_size : 15 * stride + kernel_size]
    assert inside.max() - inside.min() == variation(kernel_size, stride)
    assert (variation(kernel_size, stride) == 0) == (kernel_size % stride == 0)


@pytest.mark.parametrize(("kernel_size", "stride"), SIZES)
def test_phases_are_counted_where_torch_puts_them(kernel_size, stride):
    padding, extra = same_padding(kernel_size, stride)
    if not 0 <= extra < stride:
        pytest.skip("torch has no output padding of this size")
    made = of_ones(kernel_size, stride, padding, 24, extra)
    counts = taps_of_phases(kernel_size, stride, padding)
    assert np.array_equal(made[8 * stride : 16 * stride], np.tile(counts, 8))
    assert np.array_equal(Coverage.of(kernel_size, stride, padding).map(24), made)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 9), st.integers(1, 5))
def test_two_axes_multiply(k_y, s_y, k_x, s_x):
    both = Coverage.of((k_y, k_x), (s_y, s_x), (0, 0))
    ones, kernel = torch.ones(1, 1, 13, 14), torch.ones(1, 1, k_y, k_x)
    made = torch.nn.functional.conv_transpose2d(ones, kernel, None, (s_y, s_x))[0, 0].numpy().astype(int)
    expected = both.map((13, 14))
    # Where the kernel is shorter than the stride, torch stops after the last tap.
    rows, columns = (min(a, b) for a, b in zip(made.shape, expected.shape, strict=True))
    assert np.array_equal(made[:rows, :columns], expected[:rows, :columns])
    assert both.phases.sum() == k_y * k_x
    assert both.variation == both.phases.max() - both.phases.min()


@given(st.integers(1, 40), st.integers(1, 9))
def test_the_nearest_good_kernel_is_good_and_nearest(kernel_size, stride):
    good = nearest_divisible(kernel_size, stride)
    assert good % stride == 0
    assert good >= stride
    others = [m * stride for m in range(1, 60)]
    assert abs(good - kernel_size) == min(abs(other - kernel_size) for other in others)
    assert variation(good, stride) == 0


@given(st.integers(1, 12), st.integers(1, 6))
def test_a_mix_of_even_and_odd_lies_half_a_cell_off(kernel_size, stride):
    (shift,) = Coverage.of(kernel_size, stride).off_centre
    if kernel_size >= stride:
        assert abs(shift) == (0.5 if (kernel_size - stride) % 2 else 0.0)


def test_ripple_of_equal_weights_is_that_of_constants():
    made = of_ones(5, 2, 0, 40)[20:40] / 5 * 2
    assert (made.max() - made.min()) / 2 == pytest.approx(Coverage.of(5, 2, 0).ripple)


def test_holes_are_refused_and_placed():
    with pytest.raises(ShapeError, match=r"k=2 and s=4 along axis 1: fine cells n with n mod 4 = 2, 3 are touched"):
        require_no_holes((4, 2), (4, 4), (0, 0))
    require_no_holes(4, 4)
    with pytest.raises(ShapeError, match="stride expected 1 whole number"):
        Coverage.of(4, 0)
