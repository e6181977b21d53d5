"""The phase split: an exact rearrangement, and the gather form that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from downscale.errors import ShapeError
from downscale.kernels.laws import same_padding
from downscale.kernels.polyphase import filtered, interleaved, merge, noble_identity_error, split, tap_range

kernel_sizes, strides, paddings = st.integers(1, 8), st.integers(1, 5), st.integers(0, 10)
axis = st.tuples(kernel_sizes, strides, paddings)


@given(axis)
def test_tap_range_is_the_range_of_offsets_that_meet_the_kernel(geometry):
    kernel_size, stride, padding = geometry
    offsets = [
        d for d in range(-20, 20) for r in range(stride) if 0 <= stride * d + r + padding < kernel_size
    ]
    assert tap_range(*geometry) == (min(offsets), max(offsets))


@given(axis, axis)
def test_merge_undoes_split(lat, lon):
    geometry = tuple(zip(lat, lon, strict=True))
    kernel = torch.randn(2, 3, *geometry[0])
    assert torch.equal(merge(split(kernel, *geometry[1:]), *geometry), kernel)


@given(axis)
def test_merge_undoes_split_along_one_axis(geometry):
    kernel_size, stride, padding = geometry
    kernel = torch.randn(2, kernel_size)
    phases = split(kernel, (stride,), (padding,))
    assert torch.equal(merge(phases, (kernel_size,), (stride,), (padding,)), kernel)


@given(axis, axis)
def test_each_phase_holds_the_taps_that_its_definition_says(lat, lon):
    kernel = torch.randn(lat[0], lon[0])
    phases = split(kernel, (lat[1], lon[1]), (lat[2], lon[2])).numpy()
    expected = np.zeros(phases.shape, dtype=np.float32)
    first = tap_range(*lat)[0], tap_range(*lon)[0]
    for index in np.ndindex(*phases.shape):
        rows, columns, *taps = index
        i = lat[1] * (taps[0] + first[0]) + rows + lat[2]
        j = lon[1] * (taps[1] + first[1]) + columns + lon[2]
        if 0 <= i < lat[0] and 0 <= j < lon[0]:
            expected[index] = kernel[i, j]
    assert np.array_equal(phases, expected)
    assert np.count_nonzero(expected) == np.count_nonzero(kernel)


@given(axis.filter(lambda a: 6 * a[1] + a[0] > 2 * a[2] + a[1]))
def test_gathering_the_phases_is_a_transposed_convolution(geometry):
    kernel_size, stride, padding = geometry
    kernel, coarse = torch.randn(kernel_size).double(), torch.randn(6).double()
    fine = F.conv_transpose1d(coarse[None, None], kernel[None, None], stride=stride, padding=padding)[0, 0]
    phases, first = split(kernel, (stride,), (padding,)), tap_range(*geometry)[0]
    for n, value in enumerate(fine):
        q, r = divmod(n, stride)
        cells = [q - first - tap for tap in range(phases.shape[1])]
        terms = [coarse[i] * phases[r, tap] for tap, i in enumerate(cells) if 0 <= i < 6]
        torch.testing.assert_close(sum(terms, torch.zeros(()).double()), value)


def test_left_out_padding_is_the_one_of_n_times_stride():
    kernel = torch.randn(7, 4)
    padding = same_padding(7, 2)[0], same_padding(4, 2)[0]
    assert torch.equal(split(kernel, 2), split(kernel, 2, padding))
    assert torch.equal(merge(split(kernel, 2), (7, 4), 2), kernel)


def test_gradient_of_split_and_merge():
    kernel = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: split(w, 2), kernel)
    assert torch.autograd.gradcheck(lambda w: merge(split(w, 2), (3, 4), 2), kernel)


def test_merge_refuses_phases_of_another_kernel():
    phases = split(torch.randn(4, 4), 2, 1)
    with pytest.raises(ShapeError, match=r"expected shape \(\.\.\., 2, 2, 5, 5\), received \(2, 2, 3, 3\)"):
        merge(phases, (8, 8), 2, 3)
    with pytest.raises(ShapeError, match="give the kernel size, stride and padding that split was given"):
        merge(torch.randn(3), (4, 4), 2, 1)


def test_split_refuses_a_stride_of_another_number_of_axes():
    with pytest.raises(ShapeError, match="kernel expected at least 2 axes"):
        split(torch.randn(4), (2, 2))


@given(axis, axis)
def test_the_noble_identity_holds_for_any_kernel_and_field(lat, lon):
    kernel_size, stride, padding = zip(lat, lon, strict=True)
    coarse, kernel = torch.randn(6, 7, dtype=torch.float64), torch.randn(kernel_size, dtype=torch.float64)
    assert noble_identity_error(coarse, kernel, stride, padding) <= 1e-13 * float(kernel.abs().sum())


@given(axis)
def test_both_sides_are_the_transposed_convolution_of_torch(geometry):
    kernel_size, stride, padding = geometry
    coarse, kernel = torch.randn(9, dtype=torch.float64), torch.randn(kernel_size, dtype=torch.float64)
    whole = F.conv_transpose1d(coarse[None, None], kernel[None, None], None, stride)[0, 0]
    expected = F.pad(whole, (0, max(0, padding + 9 * stride - whole.numel())))[padding : padding + 9 * stride]
    for side in (filtered, interleaved):
        assert torch.allclose(side(coarse, kernel, (stride,), (padding,)), expected, rtol=0, atol=1e-12)
